"""The last command of a job's script, run if srun ended with an error: records the failure and requeues the job.

    python -m launch.slurm.epilogue runs/submissions/NAME

It runs outside srun on the first node, so it also runs if every rank was killed or never started.
"""

import os
import subprocess
import sys
from pathlib import Path

from harness.records import environment
from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from launch.slurm.bundle import may_retry
from launch.slurm.submissions import read


def main(folder: Path) -> int:
    """Record the end of this job's attempts that did not record it; requeue the job if a cell has retries left."""
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
        # No cell started.
        unfinished[0].new_attempt()
        unfinished[0].end_attempt("failed", last_words)
    if any(may_retry(cell, submission.profile.retries) for cell in unfinished):
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
    return 1


def _ended_here(cell: CellFolder) -> bool:
    """Whether the newest attempt ended in this run of this job."""
    ended = cell.exits().get(cell.newest_attempt)
    return ended is not None and (ended.job, ended.restart) == (environment.job(), environment.restart())


def _last_words(log: Path) -> str:
    """srun's last error message or, if there is none, the last line that the first rank wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    said = [line for line in lines if line.strip()]
    of_srun = [line.removeprefix("srun: error: ") for line in said if line.startswith("srun: error: ")]
    return (of_srun or said or ["the job ended without a message"])[-1]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
