"""The last line of a job's script, reached when srun ended with an error: says what is known and starts it again.

    python -m launch.slurm.epilogue runs/submissions/NAME

It runs outside of srun on the first node, so that it is there when every rank was killed or never came to life.
"""

import os
import subprocess
import sys
from pathlib import Path

from harness.records import environment
from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from launch.slurm.bundle import failures
from launch.slurm.submissions import read


def main(folder: Path) -> int:
    """Close the attempts of this job that nobody closed; requeue the job unless it failed too often."""
    submission = read(folder)
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    runs = Runs(folder.parent.parent)
    cells = [runs.cell(cell) for cell in submission.jobs[index]]
    last_words = _last_words(folder / f"{environment.job()}_0_log.err")
    unfinished = [cell for cell in cells if cell.status().state not in ("finished", "running")]
    for cell in unfinished:
        if cell.newest_attempt not in cell.exits() and cell.newest_attempt >= 0:
            cell.end_attempt("failed", last_words)
    if unfinished and not any(_ended_here(cell) for cell in cells):
        # Not one cell came to life.
        unfinished[0].new_attempt()
        unfinished[0].end_attempt("failed", last_words)
    if any(failures(cell) <= submission.profile.retries for cell in unfinished):
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
    return 1


def _ended_here(cell: CellFolder) -> bool:
    """Whether the newest attempt ended in this run of this job."""
    ended = cell.exits().get(cell.newest_attempt)
    return ended is not None and (ended.job, ended.restart) == (environment.job(), environment.restart())


def _last_words(log: Path) -> str:
    """What srun said of the end, else the last line that the first rank said."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    said = [line for line in lines if line.strip()]
    of_srun = [line.removeprefix("srun: error: ") for line in said if line.startswith("srun: error: ")]
    return (of_srun or said or ["the job ended without a word"])[-1]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
