"""Reads cell directories into tidy tables. No other module of the analysis reads records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from analysis.reading.rows import frames
from harness.config.catalog.metrics import MetricSpec, catalog_metrics
from harness.config.cells import BaselineCell, Cell, ModelCell, TimingCell, TrainCell
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.collectives import Sweep, read_sweep
from harness.records.events import (
    AnyEvent,
    End,
    Start,
    adjoint_cut_share,
)
from launch.planning import methods
from launch.planning.methods import Config, Name
from launch.planning.runs_folder import Runs


@dataclass(frozen=True, eq=False)
class GridData:
    """Everything that the cells of one grid have recorded."""

    name: str
    cells: pd.DataFrame
    """One row per cell, in the grid's order."""
    steps: pd.DataFrame
    """One row per training step; `attempt_step` counts from the start of its attempt."""
    rounds: pd.DataFrame
    """One row per timed round and method of the timing cells; `place` is the method's place in the cell."""
    evaluations: pd.DataFrame
    """One row per picture, split and step."""
    probes: pd.DataFrame
    contractions: pd.DataFrame
    """One row per measurement, with its lists as they were recorded."""
    fidelities: pd.DataFrame
    """One row per measurement and compared gradient; a single row without a gradient if there was no reference."""
    picture_gradients: pd.DataFrame
    """One row per picture, measurement and compared gradient, with the picture's dominant eigenvalue."""
    longer: pd.DataFrame
    """One row per trained cell that was iterated longer, with its lists as they were recorded."""
    exposures: pd.DataFrame
    """One row per trained cell: the number of distinct pictures and noise draws that its training saw."""
    searches: pd.DataFrame
    """One row per candidate value of each search."""
    environments: pd.DataFrame
    """One row per attempt and property of its environment."""
    metrics: tuple[MetricSpec, ...]
    """The metrics that pictures were scored by: those of the catalog, then users' own."""
    configs: dict[str, Config]
    """The fields of each cell that change its result."""
    folders: dict[str, CellFolder]
    declared: Mapping[str, Any]
    """The grid file as it was launched."""
    estimates: Mapping[str, float]
    """Expected wall time of each cell in seconds, estimated before it ran; cells without an estimate are absent."""
    damage: tuple[str, ...]
    """What is wrong with each file that cannot be read, in one line."""
    damaged_pictures: frozenset[Path]
    """Reconstructions that cannot be read."""
    sweep: Sweep | None = None
    """The times of all-reduces on the machine of the runs, if `launch doctor --collectives` measured them."""

    @property
    def finished(self) -> pd.DataFrame:
        """The cells that are finished."""
        return self.cells[self.cells["state"] == "finished"]

    @property
    def scored(self) -> pd.DataFrame:
        """The finished cells whose scores are compared: baselines and trained models, not what prepares for these."""
        return self.finished[self.finished["kind"].isin(["baseline", "train"])]

    @property
    def trained(self) -> pd.DataFrame:
        """The finished cells that trained a model, without the trials that such a cell was tuned by."""
        return self.finished[self.finished["kind"] == "train"]

    @cached_property
    def scores(self) -> dict[tuple[str, str], list[pd.DataFrame]]:
        """The evaluations of each cell and split in the order of their steps, each indexed by picture."""
        found: dict[tuple[str, str], list[pd.DataFrame]] = {}
        for (cell_id, split, _), rows in self.evaluations.groupby(["cell_id", "split", "step"]):
            found.setdefault((str(cell_id), str(split)), []).append(rows.set_index("picture"))
        return found

    @property
    def missing(self) -> pd.DataFrame:
        """The cells that are not finished."""
        return self.cells[self.cells["state"] != "finished"]


@dataclass(frozen=True)
class _Read:
    """The content of one cell directory."""

    cell: Cell | None
    status: CellStatus
    events: list[AnyEvent]
    problem: str


def load(runs: Runs, grid: str) -> GridData:
    """Read everything that the cells of a grid have recorded.

    Raises:
        ConfigError: the grid has not been launched, or its grid.json is damaged.
    """
    folders = {folder.cell_id: folder for folder in runs.cells_of(grid)}
    pictures = _damaged_pictures(folders.values())
    estimates, damage = _estimates(runs, grid)
    sweep, no_sweep = _sweep(runs, grid)
    read = {cell_id: _read(folder) for cell_id, folder in folders.items()}
    known = {cell_id: one.cell for cell_id, one in read.items() if one.cell is not None}
    shares = {cell_id: adjoint_cut_share(one.events) for cell_id, one in read.items()}
    cut = methods.over_seeds({cell_id: share for cell_id, share in shares.items() if share is not None}, known)
    trials = methods.trials_of(known)
    named = {cell_id: cell for cell_id, cell in known.items() if cell_id not in trials}
    names, in_tasks = methods.names(named, cut), methods.names_in_tasks(named, cut)
    configs = {cell_id: methods.flat_config(cell) for cell_id, cell in known.items()}
    rows = [_cell_row(cell_id, one, names.get(cell_id), configs.get(cell_id, {})) for cell_id, one in read.items()]
    rows = [
        row
        | {"variant_in_task": in_tasks[row["cell_id"]].variant if row["cell_id"] in in_tasks else ""}
        | ({"kind": "trial"} if row["cell_id"] in trials else {})
        for row in rows
    ]
    events = {cell_id: one.events for cell_id, one in read.items()}
    return GridData(
        name=grid,
        cells=pd.DataFrame(rows, dtype=object).set_index("cell_id", drop=False),
        **frames(events, known),
        metrics=_metrics(known.values()),
        configs=configs,
        folders=folders,
        declared=runs.declared(grid),
        estimates=estimates,
        damage=(
            *(one.status.message for one in read.values() if one.status.state == "damaged"),
            *(f"{path}: the picture cannot be read" for path in pictures),
            *damage,
            *no_sweep,
        ),
        damaged_pictures=frozenset(pictures),
        sweep=sweep,
    )


def _estimates(runs: Runs, grid: str) -> tuple[dict[str, float], list[str]]:
    try:
        return runs.estimates(grid), []
    except ConfigError as error:
        return {}, [str(error)]


def _sweep(runs: Runs, grid: str) -> tuple[Sweep | None, list[str]]:
    try:
        return read_sweep([runs.grid_folder(grid), runs.root]), []
    except ConfigError as error:
        return None, [str(error)]


def _damaged_pictures(folders: Iterable[CellFolder]) -> list[Path]:
    """The reconstructions of these cells that cannot be read."""
    paths = (path for folder in folders for path in sorted(folder.reconstructions.glob("[0-9]*.png")))
    return [path for path in paths if not _is_picture(path)]


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _metrics(cells: Iterable[Cell]) -> tuple[MetricSpec, ...]:
    own = {metric.key: metric for cell in cells for metric in cell.operations.metrics}
    return (*catalog_metrics(), *own.values())


def _read(folder: CellFolder) -> _Read:
    """Read one cell; a cell that cannot be read counts as missing, so that the report is still written."""
    cell: Cell | None = None
    try:
        cell = folder.cell()
        status = folder.status()
        events = [] if status.state == "damaged" else [*folder.events(), *_scores(folder)]
        return _Read(cell, status, events, _problem(status))
    except ConfigError as error:
        return _Read(cell, CellStatus(state="damaged", message=str(error)), [], f"cannot be read: {error}")


def _scores(folder: CellFolder) -> list[AnyEvent]:
    """What was measured after the cell was finished, without Start events, which would count as attempts."""
    return [event for event in folder.scores() if not isinstance(event, Start)]


def _problem(status: CellStatus) -> str:
    """Why a cell is not finished; empty if it is."""
    at = f"step {status.step} of {status.steps}" if status.steps else "before its first step"
    reasons = {
        "planned": "not started",
        "running": f"still running, {at}",
        "interrupted": f"interrupted at {at}" if status.steps else "interrupted before its first step",
        "failed": status.message or "failed without a message",
        "damaged": f"cannot be read: {status.message}",
    }
    return reasons.get(status.state, "")


def _cell_row(cell_id: str, one: _Read, name: Name | None, config: Config) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell_id": cell_id,
        "kind": one.cell.kind if one.cell else "unknown",
        "state": one.status.state,
        "problem": one.problem,
        "step": one.status.step,
        "spent": one.status.seconds,
        **_choices(one.cell),
        "label": name.label if name else cell_id,
        "variant": name.variant if name else "",
        "method": methods.key(config),
        "family": methods.key(config, without=("seed", "backprop")),
        "tuned_family": methods.key(config, without=("seed", "backprop", "optimizer")),
        "any_schedule": methods.key(config, without=("seed", "schedule")),
        "twin": methods.key(config, without=("seed", "model")),
        "protocol": methods.protocol(config),
        "timed": methods.timed(config),
        **_attempts(one.events),
    }
    return row | {field: value for field, value in config.items() if field.startswith(("data.", "physics."))}


def _choices(cell: Cell | None) -> dict[str, Any]:
    """The choices that a cell declares, by name; None if its kind of cell does not have the choice."""
    trained = cell if isinstance(cell, TrainCell) else None
    return {
        "model": methods.short(cell.model.name) if isinstance(cell, ModelCell) else None,
        "backprop": methods.short(trained.backprop.name) if trained else None,
        "schedule": methods.short(trained.schedule.name) if trained else None,
        "baseline": methods.short(cell.baseline.name) if isinstance(cell, BaselineCell) else None,
        "data": cell.data.name if cell else None,
        "iterates": trained.iterates if trained else False,
        "seed": cell.seed if cell else None,
        "world_size": cell.world_size if cell else None,
        "steps": cell.steps if isinstance(cell, TrainCell | TimingCell) else None,
        "warm_up": trained.active_warm_up if trained and trained.active_warm_up < trained.steps else 0,
        "global_batch_size": cell.global_batch_size if isinstance(cell, ModelCell) else None,
        "tol": _tolerance(trained) if trained else None,
    }


def _tolerance(cell: TrainCell) -> float | None:
    """The tolerance of the solves behind a cell's reconstructions; None if they run a fixed number of steps."""
    solve = cell.evaluation or cell.solver
    return solve.tol if cell.backprop.finds_fixed_point else None


def _attempts(events: Iterable[AnyEvent]) -> dict[str, Any]:
    """The code, devices and seconds of the attempts behind the record; attempts may have run different code."""
    starts = [event.environment for event in events if isinstance(event, Start)]
    return {
        "attempts": len(starts),
        "commit": _distinct(environment.get("git_commit", "") for environment in starts),
        "dirty": any(environment.get("git_dirty", False) for environment in starts),
        "device": _distinct(environment.get("device", "") for environment in starts),
        "host": _distinct(environment.get("host", "") for environment in starts),
        "seconds": sum(event.seconds for event in events if isinstance(event, End)),
    }


def _distinct(values: Iterable[Any]) -> str:
    return " ".join(dict.fromkeys(str(value) for value in values))
