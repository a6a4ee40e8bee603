"""Turns cells into job arrays: which cells share a job or an array, and the array's script. Pure functions."""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.config.cells import Cell, TrainCell
from harness.config.spec import Frozen
from harness.config.trust import packages_of
from launch.planning.chunks import chunks
from launch.planning.profiles import CPU_ENVIRONMENT, Slurm

ENVIRONMENT = "environment.sh"
"""The file of a submission that sets the variables of its profile."""


class Submission(Frozen):
    """One job array, saved before it is submitted. Its name is also the name of its jobs, so Slurm can find them."""

    name: str
    grid: str
    profile: Slurm
    world_size: int
    """Ranks of each of its cells."""
    needs: list[str]
    """The unfinished cells that its cells wait for."""
    jobs: list[list[str]]
    """The cells that each index of the array runs."""
    trusted: list[str] = []
    """The packages whose classes these cells may name: those that they named when the user planned them."""


@dataclass(frozen=True)
class Layout:
    """How the ranks of one job are distributed over nodes."""

    nodes: int
    tasks_per_node: int
    at_once: int
    """Cells that each task runs side by side."""

    @staticmethod
    def of(submission: Submission) -> "Layout":
        """The fewest nodes that the profile allows, with the same number of ranks on each."""
        profile, ranks = submission.profile, submission.world_size
        fewest = math.ceil(ranks / profile.ranks_per_node)
        nodes = next(nodes for nodes in range(fewest, ranks + 1) if ranks % nodes == 0)
        longest = max(map(len, submission.jobs))
        return Layout(nodes, ranks // nodes, min(profile.cells_at_once, longest) if ranks == 1 else 1)


def arrange(
    grid: str, cells: Sequence[Cell], profile: Slurm, unfinished: Collection[str], root: Path, used: Iterable[str]
) -> list[Submission]:
    """The arrays that run `cells`, ordered so that an array comes after those that its cells need.

    `root` is the directory of the submissions; it is part of the names, so that arrays of different runs directories
    have different names. No name is in `used`.

    The cells of an array have the same world_size and the same number of stages of `unfinished` cells before them:
    none, a denoiser, or denoisers and then trials. Cells that wait for the same cells are adjacent, so that an array
    waits for as few cells as possible; cells that wait for different trials are in different arrays.
    """

    def waits_for(cell: Cell) -> list[str]:
        return [needed.cell_id for needed in cell.prerequisites if needed.cell_id in unfinished]

    def stage(cell: Cell) -> int:
        return max((1 + stage(needed) for needed in cell.prerequisites if needed.cell_id in unfinished), default=0)

    def shape(cell: Cell) -> tuple[int, int, list[str]]:
        trials = {trial.cell_id for trial in cell.trials} if isinstance(cell, TrainCell) else set()
        return stage(cell), cell.world_size, [needed for needed in waits_for(cell) if needed in trials]

    taken = set(used)
    submissions = []
    ordered = sorted(cells, key=lambda cell: (*shape(cell), waits_for(cell)))
    for (_, world_size, _), group in groupby(ordered, key=shape):
        for some in chunks(list(chunks(list(group), profile.cells_per_job)), profile.array_size):
            jobs = [[cell.cell_id for cell in job] for job in some]
            needs = sorted({needed for job in some for cell in job for needed in waits_for(cell)})
            name = _unused_name(grid, root, jobs, taken)
            taken.add(name)
            trusted = sorted(packages_of(cell for job in some for cell in job))
            submissions.append(
                Submission(
                    name=name,
                    grid=grid,
                    profile=profile,
                    world_size=world_size,
                    needs=needs,
                    jobs=jobs,
                    trusted=trusted,
                )
            )
    return submissions


def parameters(submission: Submission, folder: Path, after: Sequence[str]) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor; `after` lists the jobs that must have succeeded before."""
    profile, layout = submission.profile, Layout.of(submission)
    side_by_side = layout.tasks_per_node * layout.at_once
    gpus = f"{profile.gpu}:{side_by_side}" if profile.gpu else None
    return {
        "job_name": submission.name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": ",".join(profile.exclude) or None,
        "exclusive": profile.exclusive or None,
        "time": math.ceil(profile.timeout_min),
        "signal_delay_s": profile.signal_delay_s,
        "nodes": layout.nodes,
        "ntasks_per_node": layout.tasks_per_node,
        "cpus_per_task": profile.cpus * layout.at_once,
        "mem": f"{int(profile.memory[:-1]) * side_by_side}{profile.memory[-1]}",
        "gres": gpus,
        "array_parallelism": profile.throttle,
        "dependency": f"afterok:{':'.join(after)}" if after else None,
        "wckey": None,
        "setup": _setup(profile, folder),
        # If processes of the job died, the epilogue decides whether it runs again.
        "teardown": [f"[ $? -eq 0 ] || {python(profile)} -m launch.slurm.epilogue {shlex.quote(str(folder))}"],
        # When one rank dies, end the others at once instead of leaving them waiting in a collective.
        "srun_args": ["--kill-on-bad-exit=1", *profile.srun_args],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
    }


def script(submission: Submission, folder: Path, after: Sequence[str] = ()) -> str:
    """The script that is passed to sbatch."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{python(submission.profile)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = len(submission.jobs)
    options = parameters(submission, folder, after)
    text: str = _make_sbatch_string(command, folder, map_count=count if count > 1 else None, **options)
    return text


def describe_array(array: Submission) -> str:
    """One line with the number of cells and jobs, and what each job requests."""
    layout, cells = Layout.of(array), sum(map(len, array.jobs))
    shape = f"{layout.nodes} x {layout.tasks_per_node} ranks" + (f" x {layout.at_once}" if layout.at_once > 1 else "")
    after = f", after {', '.join(array.needs[:3])}{' ...' if len(array.needs) > 3 else ''}" if array.needs else ""
    return f"{cells} cells in {len(array.jobs)} jobs of {shape}{after}"


def python(profile: Slurm) -> str:
    """The shell command that starts Python on a node."""
    return shlex.join(profile.python or [sys.executable])


def exports(variables: Mapping[str, str]) -> list[str]:
    """The shell commands that set environment variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _setup(profile: Slurm, folder: Path) -> list[str]:
    # From Slurm 22.05 to 23.11, srun ignores sbatch's --cpus-per-task.
    threads = {"OMP_NUM_THREADS": str(profile.cpus)}
    # A script is shown by a dry run and kept by Slurm, so it reads the profile's own variables, which may be secret.
    own = f". {shlex.quote(str(folder / ENVIRONMENT))} || exit 1  # sets {' '.join(profile.environment)}"
    srun = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
    return [*profile.setup, srun, *exports(CPU_ENVIRONMENT | threads), *([own] if profile.environment else [])]


def _unused_name(grid: str, root: Path, jobs: list[list[str]], taken: set[str]) -> str:
    """A name derived from the cells, with the next free number, so that a dry run shows the name of the submission."""
    digest = hashlib.sha256(json.dumps([str(root), jobs]).encode()).hexdigest()[:8]
    number = 0
    while f"{grid}-{digest}-{number}" in taken:
        number += 1
    return f"{grid}-{digest}-{number}"
