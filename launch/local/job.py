"""What submitit's local executor pickles and starts on every rank. Torch-free until it runs."""

import os
import signal
from pathlib import Path
from types import FrameType

import submitit
from submitit.helpers import DelayedSubmission

from harness.config.cells import Site


class CellJob:
    """Runs one cell; a job that is told to leave checkpoints on all ranks first and is requeued by rank 0."""

    def __init__(self, folder: Path, site: Site, threads: int) -> None:
        self.folder = folder
        self.site = site
        self.threads = threads
        self._told_to_leave = False

    def __call__(self) -> str:
        """Run the cell on this rank; its state at the end."""
        from harness.run.cell import run_cell
        from harness.run.distributed import RankPosition

        job = submitit.JobEnvironment()
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        submitits_handler = signal.signal(signal.SIGUSR2, self._leave)
        position = RankPosition(
            rank=job.global_rank,
            world_size=job.num_tasks,
            local_rank=job.local_rank,
            local_world_size=job.num_tasks,
            launch=f"{job.job_id}-{self._attempt()}",
            threads=self.threads,
        )
        state = run_cell(self.folder, position, lambda: "time limit (USR2)" if self._told_to_leave else "", self.site)
        if state == "interrupted" and job.global_rank == 0 and callable(submitits_handler):
            submitits_handler(signal.SIGUSR2, None)
        return state

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues: the same job, which resumes from the cell's own checkpoint."""
        return DelayedSubmission(CellJob(self.folder, self.site, self.threads))

    def _leave(self, signum: int, frame: FrameType | None) -> None:
        self._told_to_leave = True

    def _attempt(self) -> int:
        """Number of finished attempts; the same on all ranks until rank 0 has met them."""
        return len(list((self.folder / "attempts").glob("[0-9]*")))
