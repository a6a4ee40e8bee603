"""One row per cell in full precision, from which readers can compute statistics other than those of the tables."""

from typing import Any

import pandas as pd

from analysis.reading.load import GridData
from analysis.rendering.tables import KEYS
from analysis.sections.cost import timed_steps

NOT_FOR_READERS = (*KEYS, "any_schedule", "twin", "host", "problem")


def cell_frame(data: GridData) -> pd.DataFrame:
    """The finished cells of a grid, in its order: their fields, scores, contraction and times."""
    shown = data.finished.drop(columns=list(NOT_FOR_READERS), errors="ignore")
    measured = pd.DataFrame([_scores(data, cell_id) for cell_id in shown["cell_id"]], index=shown.index)
    return pd.concat([shown, measured, _mean_step(data), _spectral_radius(data)], axis=1).reindex(shown.index)


def _scores(data: GridData, cell_id: str) -> dict[str, Any]:
    """Means over pictures at the start and the end of training, on each split that was scored."""
    row: dict[str, Any] = {}
    for split in ("validation", "test", "full"):
        evaluations = data.scores.get((cell_id, split), [])
        if len(evaluations) > 1:
            row[f"{split}_start_psnr"] = evaluations[0]["psnr"].mean()
        if evaluations:
            row |= {
                f"{split}_{score}": evaluations[-1][score].mean()
                for score in (*(metric.key for metric in data.metrics), "nfe")
            }
            row[f"{split}_residual_median"] = evaluations[-1]["residual"].median()
    return row


def _mean_step(data: GridData) -> pd.Series:
    """Mean duration of the steps that count for timing, on the slowest rank."""
    steps = timed_steps(data, data.finished)
    return steps.groupby("cell_id")["seconds_total"].mean().rename("step_seconds")


def _spectral_radius(data: GridData) -> pd.Series:
    """The spectral radius of the trained map, on the worst picture."""
    final = data.contractions[data.contractions["psnr_at"].astype(bool)]
    worst = final.explode("spectral_radius").groupby("cell_id")["spectral_radius"].max()
    return worst.astype(float).rename("spectral_radius")
