"""The files that MLflow gets: the record and pictures of a cell, and the report of a grid."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient

from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs

CELL_FILES = (
    "cell.json", "tuned.json", "status.json", "scores.jsonl", "attempts/*/record.jsonl", "attempts/*/exit.json",
    "reconstructions/*.png",
)  # fmt: skip
"""What a report needs of a cell's directory."""
GRID_FILES = ("grid.json", "estimates.json", "report/*")


def log_cell(client: MlflowClient, run_id: str, folder: CellFolder) -> None:
    """Send the files of a cell."""
    _log(client, run_id, folder.path, CELL_FILES)


def log_grid(client: MlflowClient, run_id: str, runs: Runs, grid: str) -> None:
    """Send the plan of a grid and, where there is one, its report."""
    _log(client, run_id, runs.grid_folder(grid), GRID_FILES)


def grid_files_mark(runs: Runs, grid: str) -> str:
    """Changes when one of the grid's files does."""
    paths = _matching(runs.grid_folder(grid), GRID_FILES)
    return str(max((path.stat().st_mtime_ns for path in paths), default=0))


def _log(client: MlflowClient, run_id: str, root: Path, patterns: Iterable[str]) -> None:
    """Send files in one call, through a temporary directory of links to them."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in _matching(root, patterns):
            link = Path(scratch) / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        client.log_artifacts(run_id, scratch)


def _matching(root: Path, patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
