"""The runs directory, which holds cells, grids, decoded data and MLflow's files.

runs/cells/CELL_ID/        one directory per cell, shared by all grids that contain the cell
runs/grids/GRID/grid.json  the declared grid and the ids of its cells
runs/grids/GRID/estimates.json  seconds that each cell was expected to take when it was launched
runs/collectives.json      times of all-reduces, if `launch doctor --collectives` measured them
runs/data/                 decoded pictures
runs/mlflow.db, runs/mlartifacts/
"""

import json
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.cells import Cell
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder
from harness.records.damage import read_json
from harness.records.files import write_atomically
from launch.planning.grid import Grid

ANYWHERE = "PATH"
"""Stands for the folder of a data set in cells that came in an archive."""
FREE_BYTES = 100 * 2**20
DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True)
class Runs:
    """A runs directory and the paths below it."""

    root: Path

    def __post_init__(self) -> None:
        """Check that the path, if it exists, is a directory.

        Raises:
            ConfigError: it is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"--runs: {self.root} is not a directory")

    @property
    def option(self) -> str:
        """What has to follow a command so that it uses this directory; empty for the default one."""
        return "" if self.root == DEFAULT_ROOT else f" --runs {shlex.quote(str(self.root))}"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI if it is set, otherwise an SQLite file in this directory."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self.root / 'mlflow.db').resolve()}"

    def cell(self, cell_id: str) -> CellFolder:
        """The directory of a cell."""
        return CellFolder(self.root / "cells" / cell_id)

    def grid_folder(self, name: str) -> Path:
        """The directory of a grid."""
        return self.root / "grids" / name

    def require_space(self) -> None:
        """Check that results can be written and that there is space for them.

        Raises:
            ConfigError: the directory is not writable or its disk is nearly full.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(b"x")
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise ConfigError(f"--runs: {self.root} cannot be written: {error.strerror}") from None
        if free < FREE_BYTES:
            needed = f"at least {FREE_BYTES / 2**20:.0f} MiB are needed"
            raise ConfigError(f"--runs: {self.root} has {free / 2**20:.0f} MiB left; {needed}")

    def require_own(self, cells: Iterable[Cell]) -> None:
        """Check that no other user can replace what a job is about to run, such as the pickles of submitit.

        Raises:
            ConfigError: a directory above them belongs to another user, or others may write to it.
        """
        own = [self.cell(cell.cell_id).path for cell in cells]
        folders = [self.root, self.root / "cells", self.root / "submissions", *own, *(path / "logs" for path in own)]
        for folder in folders:
            if not folder.exists():
                continue
            found = folder.stat()
            if found.st_uid not in (os.getuid(), 0):
                raise ConfigError(f"--runs: {folder} belongs to another user, who could run code as you")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                said = "can be written by other users, who could run code as you"
                raise ConfigError(f"--runs: {folder} {said}; chmod -R go-w {self.root}")

    def require_same_folders(self, cells: Iterable[Cell]) -> None:
        """Check that no cell was planned here with its pictures in another folder that its cell_id leaves out.

        Raises:
            ConfigError: one was, so its results are those of the other folder.
        """
        for cell in cells:
            if not cell.data.location_fields:
                continue
            try:
                planned = self.cell(cell.cell_id).cell()
            except ConfigError:  # it is missing or damaged, and will be written
                continue
            for field in cell.data.location_fields:
                before = getattr(planned.data, field)
                now = os.path.realpath(getattr(cell.data, field))
                if str(before) != ANYWHERE and os.path.realpath(before) != now:
                    raise ConfigError(
                        f"data.{field}: {cell.cell_id} of {self.root} has its pictures in {before}, not in {now}; "
                        "give that folder, or another --runs"
                    )

    def write_plan(self, grid: Grid, cells: list[Cell]) -> None:
        """Write every cell.json that is missing, then the list of the grid's cells."""
        for cell in cells:
            self.cell(cell.cell_id).plan(cell)
        content = {"grid": grid.model_dump(mode="json"), "cells": [cell.cell_id for cell in cells]}
        write_atomically(self.grid_folder(grid.name) / "grid.json", json.dumps(content, indent=1))

    def write_estimates(self, grid: str, seconds: Mapping[str, float]) -> None:
        """Record the expected wall time of cells in seconds; a cell that has an estimate keeps it.

        A damaged file is replaced.
        """
        if seconds:
            with suppress(ConfigError):
                seconds = {**seconds, **self.estimates(grid)}
            write_atomically(self.grid_folder(grid) / "estimates.json", json.dumps(seconds, indent=1))

    def estimates(self, grid: str) -> dict[str, float]:
        """Expected wall time in seconds of a grid's cells; cells of an unknown shape are absent.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.grid_folder(grid) / "estimates.json"
        if not path.exists():
            return {}
        found = read_json(path)
        if not isinstance(found, dict) or not all(isinstance(one, int | float) for one in found.values()):
            raise ConfigError(f"{path}, line 1: estimates map cells to seconds")
        return found

    def is_launched(self, grid: str) -> bool:
        """Whether a grid has been launched from this directory."""
        return (self.grid_folder(grid) / "grid.json").is_file()

    def cells_of(self, grid: str) -> list[CellFolder]:
        """The cells of a launched grid.

        Raises:
            ConfigError: no grid of this name has been launched, or its grid.json is damaged.
        """
        return [self.cell(cell_id) for cell_id in self._launched(grid)["cells"]]

    def declared(self, grid: str) -> dict[str, Any]:
        """The content of a grid file as it was launched.

        Raises:
            ConfigError: no grid of this name has been launched, or its grid.json is damaged.
        """
        found: dict[str, Any] = self._launched(grid)["grid"]
        return found

    def _launched(self, grid: str) -> dict[str, Any]:
        path = self.grid_folder(grid) / "grid.json"
        if not self.is_launched(grid):
            known = ", ".join(self.grids()) or "none"
            raise ConfigError(f"grid: {grid!r} has not been launched in {self.root} (found: {known})")
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("grid"), dict):
            raise ConfigError(f"{path}, line 1: a launched grid has the mapping grid and the list cells")
        cells = content.get("cells")
        if not isinstance(cells, list) or not all(isinstance(one, str) for one in cells):
            raise ConfigError(f"{path}, line 1: a launched grid has the mapping grid and the list cells")
        return content

    def grids(self) -> list[str]:
        """The names of all launched grids, in alphabetical order."""
        return sorted(path.parent.name for path in (self.root / "grids").glob("*/grid.json"))

    def cell_ids(self) -> list[str]:
        """The ids of all cells that have been planned in this directory, in alphabetical order."""
        return sorted(path.name for path in (self.root / "cells").glob("*/"))
