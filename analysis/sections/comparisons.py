"""Which cells are held against which, paired by picture: what several sections need."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import statistics
from analysis.reading.load import GridData
from analysis.statistics import Estimate

LINES = {"total-variation": (0, (5, 2)), "tikhonov": (0, (1, 1.5))}
"""Baselines that figures draw as horizontal lines, with their dashes."""


def final_scores(data: GridData, cells: pd.DataFrame, split: str = "test") -> list[pd.DataFrame]:
    """The newest scores of each of some cells on a split."""
    found = (data.scores.get((cell_id, split)) for cell_id in cells["cell_id"])
    return [evaluations[-1] for evaluations in found if evaluations]


def reference(data: GridData, protocol: str, baseline: str) -> pd.DataFrame:
    """The finished cell of a baseline under a protocol; of several, the one that is best on validation pictures."""
    cells = data.finished
    found = cells[(cells["protocol"] == protocol) & (cells["baseline"] == baseline)]
    if len(found) < 2:
        return found
    means = [frame["psnr"].mean() for frame in final_scores(data, found, "validation")]
    return found.iloc[[means.index(max(means))]]


def compare(data: GridData, ours: pd.DataFrame, theirs: pd.DataFrame) -> Estimate:
    """PSNR of some cells of one method over that of another's, paired by picture."""
    return paired(final_scores(data, ours), final_scores(data, theirs))


def paired(ours: list[pd.DataFrame], theirs: list[pd.DataFrame]) -> Estimate:
    """PSNR of some seeds' scores over that of others', paired by picture."""
    return statistics.paired_difference(statistics.by_picture(ours, "psnr"), statistics.by_picture(theirs, "psnr"))


def trained_by_jfb(frame: pd.DataFrame, method: Mapping[str, Any] | pd.Series) -> pd.DataFrame:
    """The rows of the same model and settings trained by jfb; where none has them all, those of the one method that
    differs in the optimiser alone, for each backprop method may have been given the learning rate that suits it."""
    jfb = frame[frame["backprop"] == "jfb"]
    same = jfb[jfb["family"] == method["family"]]
    if same.empty:
        tuned = jfb[jfb["tuned_family"] == method["tuned_family"]]
        same = tuned if tuned["method"].nunique() == 1 else same
    return same


def reference_lines(axes: Axes, data: GridData, split: str, protocols: "pd.Series[Any]") -> None:
    """The baselines to beat, where all methods drawn have the same ones."""
    if protocols.nunique() != 1:
        return
    for baseline, dashes in LINES.items():
        cells = reference(data, str(protocols.iloc[0]), baseline)
        scores = data.evaluations[data.evaluations["cell_id"].isin(cells["cell_id"])]
        scores = scores[scores["split"] == split]
        if len(scores):
            axes.axhline(scores["psnr"].mean(), color="0.25", linewidth=1.2, linestyle=dashes, label=baseline)
