"""What local and Slurm jobs share: how a process learns that it should stop, and the position of its rank."""

import signal
import time
from types import FrameType
from typing import Any

import submitit

# The reason for stopping, by signal. USR2 asks the job to requeue itself; TERM announces that the job is about to end.
REASONS = {
    signal.SIGUSR2: "time limit or preemption (USR2)",
    signal.SIGTERM: "requeued, preempted or cancelled (TERM)",
}


class StopRequest:
    """Records that this process was asked to stop. The handler does nothing else, as it may interrupt any code."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.since = 0.0

    def listen(self, *signals: signal.Signals) -> None:
        """Start to handle these signals, by default all that have a reason."""
        for one in signals or REASONS:
            signal.signal(one, self._note)

    @property
    def reason(self) -> str:
        """The reason for stopping; empty while there has been no request."""
        return REASONS[self.signal] if self.signal else ""

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.since = time.monotonic()
        if self.signal != signal.SIGUSR2:
            self.signal = signal.Signals(signum)


def rank_position(job: submitit.JobEnvironment, launch: str, threads: int) -> dict[str, Any]:
    """The fields of `harness.run.distributed.RankPosition`, as a mapping because that module imports torch."""
    return {
        "rank": job.global_rank,
        "world_size": job.num_tasks,
        "local_rank": job.local_rank,
        "local_world_size": job.num_tasks // job.num_nodes,
        "launch": launch,
        "threads": threads,
    }
