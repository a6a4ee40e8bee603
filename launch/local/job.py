"""The job that submitit's local executor pickles and starts on every rank. Torch-free until it runs."""

import os
import signal
from collections.abc import Collection
from pathlib import Path

import submitit
from submitit.helpers import DelayedSubmission

from harness.config.settings import Site
from harness.records.cell_folder import CellFolder
from launch.slurm.stop_request import StopRequest, rank_position


class CellJob:
    """Runs one cell; when asked to stop, all ranks checkpoint first, and then rank 0 requeues the job."""

    def __init__(self, folder: Path, site: Site, threads: int, trusted: Collection[str]) -> None:
        self.folder = folder
        self.site = site
        self.threads = threads
        self.trusted = trusted

    def __call__(self) -> str:
        """Run the cell on this rank and return its final state."""
        from harness.run.cell import run_cell
        from harness.run.distributed import RankPosition

        job = submitit.JobEnvironment()
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        requeue, stop = signal.getsignal(signal.SIGUSR2), StopRequest()
        stop.listen(signal.SIGUSR2)
        # All ranks read the same number of attempts, because rank 0 adds one only after all ranks have met.
        launch = f"{job.job_id}-{CellFolder(self.folder).newest_attempt + 1}"
        position = RankPosition(**rank_position(job, launch, self.threads))
        state = run_cell(self.folder, position, lambda: stop.reason, self.site, self.trusted)
        if state == "interrupted" and job.global_rank == 0 and callable(requeue):
            requeue(signal.SIGUSR2, None)
        return state

    def checkpoint(self) -> DelayedSubmission:
        """The job that submitit requeues: the same one, which resumes from the cell's own checkpoint."""
        return DelayedSubmission(CellJob(self.folder, self.site, self.threads, self.trusted))
