"""How a process learns that it should stop, and where its rank stands: what the local and the Slurm job share."""

import signal
import time
from types import FrameType
from typing import Any

import submitit

# Why to stop, by the signal that says so. USR2 asks the job to requeue itself, TERM announces its end.
REASONS = {
    signal.SIGUSR2: "time limit or preemption (USR2)",
    signal.SIGTERM: "requeued, preempted or cancelled (TERM)",
}


class StopRequest:
    """Notes that this process was told to stop. The handler does nothing else, because it may interrupt anything."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.since = 0.0

    def listen(self, *signals: signal.Signals) -> None:
        """Handle these signals from now on; without any, all that have a reason."""
        for one in signals or REASONS:
            signal.signal(one, self._note)

    @property
    def reason(self) -> str:
        """Why to stop; empty if nobody has asked."""
        return REASONS[self.signal] if self.signal else ""

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.since = time.monotonic()
        if self.signal != signal.SIGUSR2:
            self.signal = signal.Signals(signum)


def rank_position(job: submitit.JobEnvironment, launch: str, threads: int) -> dict[str, Any]:
    """The fields of `harness.run.distributed.RankPosition`, which imports torch."""
    return {
        "rank": job.global_rank,
        "world_size": job.num_tasks,
        "local_rank": job.local_rank,
        "local_world_size": job.num_tasks // job.num_nodes,
        "launch": launch,
        "threads": threads,
    }
