"""Table columns for the metrics that the cells of a grid were scored by."""

from analysis.reading.load import GridData
from analysis.rendering.tables import Column


def metric_columns(data: GridData, beside: str = "") -> tuple[Column, ...]:
    """One column per metric, in the order of the catalog; `beside` is the key suffix of the number after a ±."""
    return tuple(
        Column(
            metric.key,
            metric.heading,
            f".{metric.decimals}f",
            (f"{metric.key}{beside}",) if beside else (),
            best="max" if metric.higher_is_better else "min",
            rank=RANKS.get(metric.key, 0),
        )
        for metric in data.metrics
    )


RANKS = {"psnr": 1, "ssim": 2}
"""Ranks of the metrics that a terminal shows."""
