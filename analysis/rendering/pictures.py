"""Test pictures side by side, one row per picture and one column per method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure as Canvas
from PIL import Image

from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, render

Pixels = npt.NDArray[np.uint8]

BASELINES = {"degraded": "measurement", "direct-inverse": "direct inverse", "gradient-descent": "gradient descent",
             "total-variation": "total variation"}  # fmt: skip
"""The baselines shown, in order, with their headings."""
ROWS = 4
COLUMNS = 13
"""Maximum number of columns of one figure; the trained methods of a large grid continue in another figure."""
INCHES = 1.0
"""Width of one column."""
LINE = 0.2
"""Height of one line of text, in columns."""


@dataclass(frozen=True)
class Column:
    """One method's reconstructions."""

    heading: str
    files: dict[int, Path]
    """Picture index to image."""
    psnr: dict[int, float]


def comparisons(data: GridData) -> list[Figure]:
    """One figure or more for each set of comparable cells, as many as its methods need."""
    figures: list[Figure] = []
    scored = data.scored
    for _, cells in scored.groupby("protocol", sort=False):
        for columns in _pages(data, cells):
            figure = _draw(columns, len(figures) + 1)
            figures += [figure] if figure else []
    return figures


def _pages(data: GridData, cells: pd.DataFrame) -> list[list[Column]]:
    """The columns of each figure; all figures start with the ground truth and the baselines."""
    scored = [cell for cell in cells.to_dict("records") if (cell["cell_id"], "test") in data.scores]
    columns = {str(cell["cell_id"]): column(data, cell) for cell in scored}
    columns = {cell_id: found for cell_id, found in columns.items() if found.files}
    if not columns:
        return []
    by_baseline = dict(zip(cells["baseline"], cells["cell_id"], strict=True))
    fixed = [columns[by_baseline[name]] for name in BASELINES if by_baseline.get(name) in columns]
    first_seeds = cells[cells["kind"] == "train"].drop_duplicates("method")["cell_id"]
    trained = [columns[str(cell_id)] for cell_id in first_seeds if cell_id in columns]
    clean = Column("ground truth", truth(data, list(columns)), {})
    size = COLUMNS - 1 - len(fixed)
    return [[clean, *fixed, *trained[first : first + size]] for first in range(0, max(1, len(trained)), size)]


def column(data: GridData, cell: dict[Any, Any]) -> Column:
    """One cell's reconstructions of test pictures."""
    folder = data.folders[cell["cell_id"]].reconstructions
    scores = data.scores[cell["cell_id"], "test"][-1]["psnr"]
    psnr = dict(zip(scores.index, scores, strict=True))
    heading = BASELINES.get(cell["baseline"], cell["label"].replace(" ", "\n"))
    return Column(heading, _images(data, folder, "output"), psnr)


def _images(data: GridData, folder: Path, kind: str) -> dict[int, Path]:
    paths = [path for path in sorted(folder.glob(f"[0-9]*-{kind}.png")) if path not in data.damaged_pictures]
    return {int(path.name.partition("-")[0]): path for path in paths}


def truth(data: GridData, cell_ids: Sequence[str]) -> dict[int, Path]:
    """The clean pictures that at least one of these cells has kept."""
    found: dict[int, Path] = {}
    for cell_id in cell_ids:
        found = {**_images(data, data.folders[cell_id].reconstructions, "truth"), **found}
    return found


def _draw(columns: list[Column], number: int) -> Figure | None:
    """Draw the pictures that most methods have kept; the place of a picture that a method has not kept is empty."""
    kept = pd.Series([index for column in columns for index in column.files]).value_counts()
    rows = sorted(sorted(kept.index, key=lambda index: (-kept[index], index))[:ROWS])
    if not rows:
        return None
    size = pixels(next(path for column in columns for path in column.files.values())).shape[0]
    image, pitch, width = mosaic(columns, rows, size)
    top = LINE * max(column.heading.count("\n") + 1 for column in columns)
    height = image.shape[0] / width
    canvas = Canvas(figsize=(len(columns) * INCHES, (top + height) * INCHES))
    # One image for all pictures, in units of a column, because fifty axes would take a second to set up. Interpolation
    # "none" keeps the pixels in the PDF.
    axes = canvas.add_axes((0, 0, 1, 1), xlim=(0, len(columns)), ylim=(top + height, 0))
    axes.set_axis_off()
    axes.imshow(image, extent=(0, len(columns), top + height, top), aspect="auto", interpolation="none")
    for left, column in enumerate(columns):
        axes.text(left + 0.5, top - 0.03, column.heading, ha="center", va="bottom", fontsize=7.5)
        for row, index in enumerate(rows):
            if index in column.psnr:
                below = top + (row * pitch + width) / width
                axes.text(left + 0.5, below, f"{column.psnr[index]:.2f}", ha="center", va="top", fontsize=7.5)
    caption = (
        f"Test pictures {', '.join(map(str, rows))}, with standard PSNR in dB below each; first seed of each method."
    )
    return render("pictures" if number == 1 else f"pictures-{number}", "Reconstructions", caption, canvas)


def mosaic(columns: list[Column], rows: list[int], size: int) -> tuple[Pixels, int, int]:
    """All pictures on white, with room for a line of text below each.

    Returns the image, the height of a row and the width of a column, in pixels.
    """
    gap = max(1, size // 60)
    width = size + 2 * gap
    pitch = round(width * (1 + LINE))
    mosaic = np.full((len(rows) * pitch, len(columns) * width, 3), 255, dtype=np.uint8)
    for place, column in enumerate(columns):
        for row, index in enumerate(rows):
            if index in column.files:
                top, left = row * pitch + gap, place * width + gap
                mosaic[top : top + size, left : left + size] = pixels(column.files[index])
    return mosaic, pitch, width


def pixels(path: Path) -> Pixels:
    """Read a picture, (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
