"""Cancels cells that were submitted to Slurm, and resubmits those that failed or lost their job."""

import json
from collections import Counter
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
) -> list[str]:
    """Resubmit unfinished cells that were submitted and no longer have a job, with their last profile and `changes`.

    Returns what is wrong with each cell that cannot be read.

    Raises:
        ConfigError: there are no such cells, one of them names a class that it did not name then, or a change is not
            valid.
    """
    submissions = Submissions(runs)
    sound, damage = _readable(folders)
    unfinished = {folder: cell for folder, cell in sound.items() if folder.status().state != "finished"}
    living = submissions.living([folder.cell_id for folder in unfinished])
    lost = [folder for folder in unfinished if folder.cell_id in submissions.tasks and folder.cell_id not in living]
    if not lost:
        if damage:
            return damage
        raise ConfigError(_why_none(runs, grid, folders, [one for one in unfinished if one.cell_id not in living]))
    groups: dict[str, tuple[Slurm, list[Cell]]] = {}
    for folder in lost:
        submission = submissions.tasks[folder.cell_id].submission
        require_trust(sound[folder], submission.trusted)
        profile = _changed(submission.profile, changes)
        cells = groups.setdefault(_key(profile), (profile, []))[1]
        cells += [cell for cell in in_order(sound[folder]) if cell not in cells]
    for profile, cells in groups.values():
        runs.require_own(cells)
        check(grid, cells, profile)
    for profile, cells in groups.values():
        enqueue(runs, grid, cells, profile, console)
    return damage


def _readable(folders: Sequence[CellFolder]) -> tuple[dict[CellFolder, Cell], list[str]]:
    """The cells that can be read, and what is wrong with each of the others."""
    sound: dict[CellFolder, Cell] = {}
    damage: list[str] = []
    for folder in folders:
        status = folder.status()
        try:
            if status.state == "damaged":
                raise ConfigError(status.message)
            sound[folder] = folder.cell()
        except ConfigError as error:
            damage.append(str(error))
    return sound, damage


def _why_none(runs: Runs, grid: str, folders: Sequence[CellFolder], here: Sequence[CellFolder]) -> str:
    """Why nothing is resubmitted: no cell failed, or those that did ran on this machine without a scheduler."""
    counts = Counter(folder.status().state for folder in here)
    said = ", ".join(f"{counts[state]} {state}" for state in ("failed", "interrupted") if counts[state])
    if said:
        again = f"python -m launch grid ...{runs.option}"
        return (
            f"cell: {said} of {len(folders)} ran on this machine, without a scheduler; "
            f"repeat the `{again}` that launched {grid}, which continues them"
        )
    return f"cell: none of {len(folders)} failed or lost its job; `launch status {grid}{runs.option}` shows them"


def _key(profile: Slurm) -> str:
    """Profiles with the same key are equal."""
    return json.dumps([profile.model_dump_json(), secrets(profile)])


def _changed(profile: Slurm, changes: Mapping[str, Any]) -> Slurm:
    try:
        return Slurm.model_validate({**profile.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"--{explain(error).replace('_', '-')}") from None
