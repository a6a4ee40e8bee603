"""Cancels cells that were submitted to Slurm, and resubmits those that failed or lost their job."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from harness.config.cells import Cell, in_order
from harness.config.errors import ConfigError, explain
from harness.config.trust import require_trust
from harness.records.cell_folder import CellFolder
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm import queue as scheduler
from launch.slurm.enqueue import check, enqueue
from launch.slurm.submissions import Submissions, secrets


def cancel_cells(runs: Runs, folders: Sequence[CellFolder]) -> str:
    """Cancel every pending or running job of these cells; returns one line that says what was done.

    Raises:
        ConfigError: Slurm does not answer.
    """
    submissions = Submissions(runs)
    chosen = {folder.cell_id for folder in folders}
    with submissions.locked():
        living = submissions.living(chosen)
        scheduler.cancel(dict.fromkeys(living.values()))
    others = {cell for one in living for cell in submissions.tasks[one].companions} - chosen
    shared = f"; {len(others)} other cells shared these jobs, `launch grid` resubmits them" if others else ""
    return f"cancelled {len(set(living.values()))} jobs of {len(living)} cells{shared}"


def retry_cells(
    runs: Runs, grid: str, folders: Sequence[CellFolder], changes: Mapping[str, Any], console: Console
) -> None:
    """Resubmit unfinished cells that were submitted and no longer have a job, with their last profile and `changes`.

    Raises:
        ConfigError: there are no such cells, one of them names a class that it did not name then, or a change is not
            valid.
    """
    submissions = Submissions(runs)
    unfinished = [folder for folder in folders if folder.status().state != "finished"]
    living = submissions.living([folder.cell_id for folder in unfinished])
    lost = [folder for folder in unfinished if folder.cell_id in submissions.tasks and folder.cell_id not in living]
    if not lost:
        raise ConfigError(f"cell: none of {len(folders)} failed or lost its job; `launch status {grid}` shows them")
    groups: dict[str, tuple[Slurm, list[Cell]]] = {}
    for folder in lost:
        submission = submissions.tasks[folder.cell_id].submission
        require_trust(folder.cell(), submission.trusted)
        profile = _changed(submission.profile, changes)
        cells = groups.setdefault(_key(profile), (profile, []))[1]
        cells += [cell for cell in in_order(folder.cell()) if cell not in cells]
    for profile, cells in groups.values():
        runs.require_own(cells)
        check(grid, cells, profile)
    for profile, cells in groups.values():
        enqueue(runs, grid, cells, profile, console)


def _key(profile: Slurm) -> str:
    """Profiles with the same key are equal."""
    return json.dumps([profile.model_dump_json(), secrets(profile)])


def _changed(profile: Slurm, changes: Mapping[str, Any]) -> Slurm:
    try:
        return Slurm.model_validate({**profile.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"--{explain(error).replace('_', '-')}") from None
