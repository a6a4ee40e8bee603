"""Comparisons between cells, paired by seed and picture, that several sections share."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.inference import Contrast, paired_contrast
from analysis.reading.load import GridData

MARGIN = 0.1
"""Decibels within which two methods count as equivalent."""
ONE_PHOTOGRAPH = {"pictures"}
"""Sources whose test pictures are patches of one photograph, which count as a single picture, not as a sample."""
LINES = {"total-variation": (0, (5, 2)), "tikhonov": (0, (1, 1.5))}
"""Baselines that figures draw as horizontal lines, with their dashes."""


def final_scores(data: GridData, cells: pd.DataFrame, split: str = "test") -> list[pd.DataFrame]:
    """The newest scores of each cell on a split."""
    found = (data.scores.get((cell_id, split)) for cell_id in cells["cell_id"])
    return [evaluations[-1] for evaluations in found if evaluations]


def reference(data: GridData, protocol: str, baseline: str) -> pd.DataFrame:
    """The finished cell of a baseline under a protocol; if there are several, the best one on validation pictures."""
    cells = data.finished
    found = cells[(cells["protocol"] == protocol) & (cells["baseline"] == baseline)]
    if len(found) < 2:
        return found
    means = [frame["psnr"].mean() for frame in final_scores(data, found, "validation")]
    return found.iloc[[means.index(max(means))]]


def compare(data: GridData, ours: pd.DataFrame, theirs: pd.DataFrame) -> Contrast | None:
    """The gain in PSNR of one method over another, paired by seed and by picture; None if there is no pair.

    A baseline's single cell, which has no seed, is paired with every seed.
    """
    left, right = seeds_of(data, ours), seeds_of(data, theirs)
    if len(right) == 1 and len(left) > 1 and set(theirs["kind"]) == {"baseline"}:
        right = dict.fromkeys(left, next(iter(right.values())))
    return contrast(data, ours, left, right)


def describe(found: Contrast) -> str:
    """Format a contrast as `+0.12 dB [+0.03, +0.21]`, or say that there is no interval."""
    return f"{found.mean:+.2f} dB{interval(found.low, found.high)}"


def interval(low: float, high: float) -> str:
    """Format an interval as ` [+0.03, +0.21]`, or say that there is none."""
    return f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) and math.isfinite(high) else ", no interval"


def seeds_of(data: GridData, cells: pd.DataFrame, step: int = -1, split: str = "test") -> "dict[int, pd.Series[float]]":
    """The PSNR of each seed's pictures, in its newest evaluation or in the one at position `step` of its list."""
    found = {}
    for cell_id, seed in zip(cells["cell_id"], cells["seed"], strict=True):
        evaluations = data.scores.get((cell_id, split), [])
        if evaluations:
            found[int(seed)] = evaluations[step]["psnr"]
    return found


def contrast(
    data: GridData, cells: pd.DataFrame, ours: "dict[int, pd.Series[float]]", theirs: "dict[int, pd.Series[float]]"
) -> Contrast | None:
    """The difference on the seeds and pictures that both have; `cells` tells which data the pictures come from."""
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None
    left, right = (pd.DataFrame([scores[seed] for seed in seeds], index=seeds) for scores in (ours, theirs))
    pictures = left.columns.intersection(right.columns)
    if not len(pictures):
        return None
    clusters = [0] * len(pictures) if set(cells["data"]) <= ONE_PHOTOGRAPH else None
    return paired_contrast(left[pictures].to_numpy(float), right[pictures].to_numpy(float), clusters, margin=MARGIN)


def trained_by_jfb(frame: pd.DataFrame, method: Mapping[str, Any] | pd.Series) -> pd.DataFrame:
    """The rows with the same model and settings that were trained by jfb.

    If there are none, the rows of the only jfb method that differs just in the optimizer, because each backprop method
    may use the learning rate that suits it.
    """
    jfb = frame[frame["backprop"] == "jfb"]
    same = jfb[jfb["family"] == method["family"]]
    if same.empty:
        tuned = jfb[jfb["tuned_family"] == method["tuned_family"]]
        same = tuned if tuned["method"].nunique() == 1 else same
    return same


def reference_lines(axes: Axes, data: GridData, split: str, protocols: "pd.Series[Any]") -> None:
    """Draw the baselines to beat as lines, if all methods in the figure have the same ones."""
    if protocols.nunique() != 1:
        return
    for baseline, dashes in LINES.items():
        cells = reference(data, str(protocols.iloc[0]), baseline)
        scores = data.evaluations[data.evaluations["cell_id"].isin(cells["cell_id"])]
        scores = scores[scores["split"] == split]
        if len(scores):
            axes.axhline(scores["psnr"].mean(), color="0.25", linewidth=1.2, linestyle=dashes, label=baseline)
