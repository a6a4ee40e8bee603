"""Prints the output of every rank of a cell, in every attempt and job."""

from pathlib import Path

from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from launch.slurm.submissions import Submissions


def print_logs(runs: Runs, folder: CellFolder) -> None:
    """Print the logs of a cell, oldest first, and how each attempt ended."""
    for path in sorted(log_files(runs, folder), key=lambda path: path.stat().st_mtime):
        print(f"==> {path} <==")
        print(path.read_text(encoding="utf-8", errors="replace"))
    for number, ended in folder.exits().items():
        job = f", job {ended.job}" if ended.job else ""
        why = f": {ended.reason}" if ended.reason else ""
        print(f"attempt {number} on {ended.host}{job}: {ended.state} at step {ended.step}{why}")


def log_files(runs: Runs, folder: CellFolder) -> list[Path]:
    """The log files of the cell's own processes, then those of its jobs, which may have run other cells too."""
    found = list((folder.path / "logs").glob("*_log.*"))
    submissions = Submissions(runs)
    for submission in submissions.readable:
        submission_folder = submissions.root / submission.name
        for index, cells in enumerate(submission.jobs):
            if folder.cell_id in cells:
                # JOB_INDEX_RANK_log.err, without the index if there is only one job.
                is_array = len(submission.jobs) > 1
                found += submission_folder.glob(f"*_{index}_*_log.*" if is_array else "*_log.*")
    return [path for path in dict.fromkeys(found) if path.stat().st_size]
