"""Runs one archived cell again on this machine and compares what it records with the archive."""

import math
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.config.errors import ConfigError
from harness.config.trust import require_trust
from harness.records.cell_folder import CellFolder
from harness.records.events import AnyEvent, Evaluation, Start, Step
from launch.local.single import run_here
from launch.planning.runs_folder import Runs
from launch.planning.selection import the_one
from launch.tracking.archive import unpack


@dataclass(frozen=True)
class Comparison:
    """How far two records of one cell are apart."""

    cell_id: str
    steps: int
    """Training steps compared."""
    loss: float
    """Largest relative difference of the loss of a step."""
    psnr: float
    """Largest difference of a mean PSNR, in decibels."""


def rerun(file: Path, cell: str, fields: Mapping[str, Any], runs: Runs, trusted: Collection[str] = ()) -> Comparison:
    """Run an archived cell, after what it needs, in another runs directory.

    It may only name classes of the `trusted` packages.

    Raises:
        ConfigError: the archive is none, it holds no such finished cell, or the cell names a class of another package
            or needs more than one rank.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archived = Runs(Path(scratch))
        unpack(file, archived, {})
        folder = archived.cell(the_one(cell, archived.cell_ids(), str(file)))
        if folder.status().state != "finished":
            raise ConfigError(f"cell: {folder.cell_id} is not finished in {file}, so there is nothing to compare with")
        require_trust(folder.cell(), trusted)
        if folder.cell().world_size > 1:
            raise ConfigError(f"cell: {folder.cell_id} runs on {folder.cell().world_size} ranks; use `launch unpack`")
        unpack(file, runs, fields, fresh=True)
        _run(runs.cell(folder.cell_id), archived, trusted)
        return compare(folder.cell_id, folder.events(), runs.cell(folder.cell_id).events())


def _run(folder: CellFolder, archived: Runs, trusted: Collection[str]) -> None:
    """Run a cell, after what it needs, with as many threads as before: sums of another number round differently."""
    for needed in folder.prerequisites():
        _run(needed, archived, trusted)
    starts = [event for event in archived.cell(folder.cell_id).events() if isinstance(event, Start)]
    threads = starts[-1].environment.get("threads", 0) if starts else 0
    run_here(folder, trusted=trusted, threads=threads)


def compare(cell_id: str, before: list[AnyEvent], after: list[AnyEvent]) -> Comparison:
    """Compare the losses of all steps and the mean PSNR of all evaluations of two records.

    Raises:
        ConfigError: the records do not hold the same steps and evaluations.
    """
    losses = [{event.step: event.loss for event in events if isinstance(event, Step)} for events in (before, after)]
    scores = [
        {(event.split, event.step): fmean(event.scores["psnr"]) for event in events if isinstance(event, Evaluation)}
        for events in (before, after)
    ]
    if losses[0].keys() != losses[1].keys() or scores[0].keys() != scores[1].keys():
        raise ConfigError(f"cell: {cell_id} recorded other steps or evaluations than in the archive")
    differences = [_apart(losses[1][step], loss, abs(loss)) for step, loss in losses[0].items()]
    moved = [_apart(scores[1][key], psnr) for key, psnr in scores[0].items()]
    return Comparison(cell_id, len(differences), max(differences, default=0.0), max(moved, default=0.0))


def _apart(one: float, other: float, unit: float = 1.0) -> float:
    """Their difference in this unit: infinite if only one of them is a number, so that no maximum passes over it."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other) / unit if unit else math.inf
    return difference if math.isfinite(difference) else math.inf
