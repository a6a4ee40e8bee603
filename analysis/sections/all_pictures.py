"""The best cell of each method, scored on all test pictures and iterated far past its training depth."""

from typing import Any

import pandas as pd

from analysis import statistics as stats
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table
from analysis.sections.comparisons import final_scores
from analysis.sections.metrics import metric_columns

OTHER_COLUMNS = (
    Column("residual_median", "Median residual", ".1e", rank=5),
    Column("depth", "K", "d", rank=7),
    Column("longer_psnr", "PSNR at 10 K, dB", ".2f", rank=6),
    Column("longer_change", "10 K over K, dB", "+.2f", ("longer_change_error",), rank=3),
    Column("longer_over_solve", "10 K over the solve, dB", "+.2f", ("longer_over_solve_error",), rank=9),
    Column("longer_pictures", "Pictures at 10 K", "d"),
    Column("pictures", "Test pictures", "d", rank=8),
    Column("seed", "Seed", "d"),
)


def best_cells(data: GridData) -> pd.DataFrame:
    """The best cell on validation pictures for each protocol and each baseline or pair of model and backprop method.

    Cells with different numbers of training pictures are kept apart.
    """
    scored = data.scored.copy()
    means = [
        frames[-1]["psnr"].mean() if (frames := _validation(data, c)) else float("-inf") for c in scored["cell_id"]
    ]
    scored = scored.assign(validation_psnr=means)
    # A feed-forward network has no map, so it is identified by its label.
    scored["name"] = [row["model"] if row["iterates"] else row["baseline"] or row["label"]
                      for row in scored.to_dict("records")]  # fmt: skip
    # Training on few pictures is a separate experiment.
    keys = ["protocol", "name", "backprop", "data.train_images"]
    groups = scored.groupby(keys, sort=False, dropna=False)
    return scored.loc[[rows["validation_psnr"].astype(float).idxmax() for _, rows in groups]]


def final_frame(data: GridData) -> pd.DataFrame:
    """One row per cell that was scored on all test pictures, baselines first."""
    scored = [cell for cell in data.finished.to_dict("records") if (cell["cell_id"], "full") in data.scores]
    return pd.DataFrame([_row(data, cell) for cell in sorted(scored, key=lambda cell: cell["kind"] != "baseline")])


def section(data: GridData) -> Section:
    """The measurements of `python -m harness score`."""
    return Section("All test pictures", final_table(data))


def final_table(data: GridData) -> Table:
    """The table of all test pictures."""
    frame = final_frame(data)
    cells = data.finished[data.finished["cell_id"].isin(frame["cell_id"] if len(frame) else [])]
    command = f"python -m harness score $(python -m analysis best {data.name})"
    notes = [
        "The best cell of each method on validation pictures (a single seed), scored again. The first PSNR is that of "
        "the cell's own solve. K is the training depth, and 10 K stands for plain iteration with ten times as many "
        "evaluations of T. Its gains over K evaluations and over the cell's own solve are paired by picture, with "
        "their standard errors.",
    ]
    caption = context.caption(data, cells, "full")
    columns = (Column("label", "Method", rank=1), *metric_columns(data), *OTHER_COLUMNS)
    return Table("final", "All test pictures", frame, columns, caption, command, notes)


def _validation(data: GridData, cell_id: str) -> list[pd.DataFrame]:
    return data.scores.get((cell_id, "validation"), [])


def _row(data: GridData, cell: dict[Any, Any]) -> dict[str, Any]:
    (scores,) = final_scores(data, pd.DataFrame([cell]), "full")
    row = {
        "label": cell["label"],
        "group": cell["kind"],
        **{metric.key: scores[metric.key].mean() for metric in data.metrics},
        "residual_median": scores["residual"].median() if cell["iterates"] else None,
        "pictures": len(scores),
        **{name: cell[name] for name in ("seed", "cell_id", "protocol", "commit")},
    }
    found = data.longer[data.longer["cell_id"] == cell["cell_id"]].to_dict("records")
    return row | (_longer(found[0], scores) if found else {})


def _longer(found: dict[Any, Any], scores: pd.DataFrame) -> dict[str, Any]:
    depth, far = sorted(found["psnr_at"])
    at = {count: pd.Series(psnr, index=found["indices"]) for count, psnr in found["psnr_at"].items()}
    change = stats.paired_difference(at[far], at[depth])
    over_solve = stats.paired_difference(at[far], scores["psnr"])
    return {
        "depth": depth,
        "longer_psnr": at[far].mean(),
        "longer_change": change.mean,
        "longer_change_error": change.error,
        "longer_over_solve": over_solve.mean,
        "longer_over_solve_error": over_solve.error,
        "longer_pictures": len(at[far]),
    }
