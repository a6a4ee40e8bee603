"""Submits the unfinished cells of a grid to Slurm, except those that already have a pending or running job."""

import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from harness.config.cells import Cell
from harness.config.errors import ConfigError
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm.arrays import Submission, arrange, describe_array, script
from launch.slurm.queue import queued, require_commands
from launch.slurm.site import require_fit
from launch.slurm.submissions import Submissions, complete, outside_of_any_job, send

# Words of sbatch's error messages, and the field of the profile that each concerns.
REFUSALS = {
    "invalid partition": "partition",
    "account": "account",
    "qos": "qos",
    "invalid feature": "constraint",
    "generic resource": "gpu",
    "invalid node name": "exclude",
    "time limit": "timeout_min",
    "node configuration": "gpu, ranks_per_node, cpus or memory",
    "memory": "memory",
}


def check(grid: str, cells: list[Cell], profile: Slurm) -> None:
    """Ask Slurm whether it would accept these cells, before anything is written.

    Raises:
        ConfigError: Slurm would refuse them, or is not installed on this machine.
    """
    require_commands()
    require_fit(profile)
    test_only(arrange(grid, cells, profile, unfinished=[], root=Path(), used=[]))


def enqueue(runs: Runs, grid: str, cells: list[Cell], profile: Slurm, console: Console) -> None:
    """Submit every cell that is not finished and has no pending or running job.

    It is safe to call this repeatedly, and from two shells at once.

    Raises:
        ConfigError: sbatch refuses an array.
    """
    submissions = Submissions(runs)
    with submissions.locked():
        unfinished = [cell for cell in cells if runs.cell(cell.cell_id).status().state != "finished"]
        complete(submissions, queued(submissions.names()))
        living = submissions.living([cell.cell_id for cell in unfinished])
        to_send = [cell for cell in unfinished if cell.cell_id not in living]
        job_ids = {cell_id: job.job_id for cell_id, job in living.items()}
        names = {cell.cell_id for cell in unfinished}
        for array in arrange(grid, to_send, profile, names, submissions.root, submissions.names()):
            after = list(dict.fromkeys(job_ids[cell] for cell in array.needs))
            sent = send(array, submissions.root / array.name, runs, after)
            job_ids |= {cell: job for cells, job in zip(array.jobs, sent, strict=True) for cell in cells}
            console.print(f"sent {array.name}: {describe_array(array)}", highlight=False)
    console.print(f"{len(to_send)} cells sent, {len(living)} were queued or running before", highlight=False)


def test_only(arrays: Iterable[Submission]) -> None:
    """Ask Slurm whether it would accept each kind of array.

    Raises:
        ConfigError: Slurm would refuse one; the message names the field of the profile.
    """
    for array in {array.world_size: array for array in arrays}.values():
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(script(array, Path("/tmp")))
            file.flush()
            command = ["sbatch", "--test-only", file.name]
            with outside_of_any_job():
                done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.replace("sbatch: error: ", "").replace("allocation failure: ", "").split())
            field = next((name for words, name in REFUSALS.items() if words in said.lower()), "")
            raise ConfigError(f"--cluster: {field + ': ' if field else ''}{said} ({describe_array(array)})")
