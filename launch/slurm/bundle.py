"""What a Slurm job runs on every rank: its cells, each in its own process. Torch-free.

The rank's own process supervises. It starts cells from a forkserver that has imported torch once, forwards the
scheduler's signals, and survives when a cell's process is killed, so that it can record what happened.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from harness.config.settings import Site
from harness.records import environment
from harness.records.cell_folder import CellBusy, CellFolder
from launch.planning.profiles import Slurm
from launch.slurm.stop_request import REASONS, StopRequest, rank_position

EXIT_CODES = {"finished": 0, "interrupted": 3, "busy": 4}
OUT_OF_MEMORY = "OutOfMemoryError"
POLL_SECONDS = 1.0
ECHO_SECONDS = 2.0
BUSY_SECONDS = 30.0
# Longer than a site's KillWait and about as long as a typical grace time.
END_SECONDS = 600.0


@dataclass
class Child:
    """The process of a cell."""

    folder: CellFolder
    process: ForkServerProcess
    slot: int
    """Which of the side-by-side slots it occupies, counted from 0."""


class Bundle:
    """Runs cells one after the other or side by side; asked to stop, requeues the job after all cells have ended."""

    def __init__(self, cells: list[Path], at_once: int, profile: Slurm, trusted: list[str]) -> None:
        self.cells = cells
        self.at_once = at_once
        self.profile = profile
        self.trusted = trusted

    def __call__(self) -> dict[str, str]:
        """Run the cells on this rank and return the final state of each.

        Raises:
            RuntimeError: some cells failed.
        """
        job = submitit.JobEnvironment()
        os.environ["MASTER_ADDR"] = "127.0.0.1" if job.num_nodes == 1 else job.hostnames[0]
        requeue = signal.getsignal(signal.SIGUSR2)
        stop = StopRequest()
        context = _forkserver()
        stop.listen()
        states = self._run(
            context, rank_position(job, f"{job.job_id}-{environment.restart()}", self.profile.cpus), stop
        )
        if "interrupted" in states.values() or "busy" in states.values():
            if job.global_rank == 0 and stop.signal != signal.SIGTERM and callable(requeue):
                time.sleep(BUSY_SECONDS if "busy" in states.values() else 0)
                requeue(signal.SIGUSR2, None)
            # Wait for Slurm to end the job: one that exited by itself now would count as completed.
            time.sleep(END_SECONDS)
        failed = [name for name, state in states.items() if state == "failed"]
        if failed:
            raise RuntimeError(f"failed: {', '.join(failed)}")
        return states

    def checkpoint(self) -> DelayedSubmission:
        """The job that submitit requeues: the same one, whose cells resume from their own checkpoints."""
        return DelayedSubmission(Bundle(self.cells, self.at_once, self.profile, self.trusted))

    def _run(self, context: ForkServerContext, position: dict[str, Any], stop: StopRequest) -> dict[str, str]:
        waiting = deque(CellFolder(path) for path in self.cells if self._may_run(CellFolder(path)))
        running: list[Child] = []
        states: dict[str, str] = {}
        while running or (waiting and not stop.signal):
            while waiting and len(running) < self.at_once and not stop.signal:
                slot = min(set(range(self.at_once)) - {child.slot for child in running})
                running.append(self._start(context, waiting.popleft(), position, slot))
            wait([child.process.sentinel for child in running], POLL_SECONDS)
            for child in list(running):
                if child.process.is_alive():
                    self._pass_on(stop, child)
                else:
                    running.remove(child)
                    states[child.folder.cell_id] = _state(child, position["rank"], stop)
        return states | {folder.cell_id: "interrupted" for folder in waiting}

    def _start(self, context: ForkServerContext, folder: CellFolder, position: dict[str, Any], slot: int) -> Child:
        arguments = (folder.path, position, slot, self.profile, self.trusted)
        process = context.Process(target=_run_cell, args=arguments, name=folder.cell_id)
        process.start()
        return Child(folder, process, slot)

    def _may_run(self, folder: CellFolder) -> bool:
        """Whether the cell has retries left in this job; one that has used them up must not hold up the others."""
        return may_retry(folder, self.profile.retries)

    def _pass_on(self, stop: StopRequest, child: Child) -> None:
        """Forward the stop signal to a cell, and kill the cell if it does not end in time.

        The signal is sent repeatedly, because the cell's process may not have been listening yet.
        """
        if stop.signal is None or child.process.pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(child.process.pid, stop.signal)
        if stop.signal == signal.SIGUSR2 and time.monotonic() - stop.since > self.profile.signal_delay_s / 2:
            child.process.kill()


def may_retry(folder: CellFolder, retries: int) -> bool:
    """Whether a cell may be started again in this job. What did not fit into memory will not fit next time."""
    here = [ended for ended in folder.exits().values() if ended.job == environment.job()]
    return failures(folder) <= retries and not any(OUT_OF_MEMORY in ended.reason for ended in here)


def failures(folder: CellFolder) -> int:
    """The number of times that a cell failed in this job."""
    return sum(ended.state == "failed" and ended.job == environment.job() for ended in folder.exits().values())


def _forkserver() -> ForkServerContext:
    """A fork server that has imported torch and ignores the signals that Slurm sends to every process of a job."""
    for one in REASONS:
        signal.signal(one, signal.SIG_IGN)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.run.cell"])
    forkserver.ensure_running()
    return context


def _run_cell(path: Path, position: dict[str, Any], slot: int, site: Site, trusted: list[str]) -> None:
    """The main function of a cell's process."""
    _die_with_parent()
    stop = StopRequest()
    stop.listen()
    _write_to(path / "logs" / f"{position['launch']}_{position['rank']}_log.txt")
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if position["world_size"] == 1 and len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot]

    from harness.run.cell import run_cell
    from harness.run.distributed import RankPosition

    try:
        sys.exit(EXIT_CODES[run_cell(path, RankPosition(**position), lambda: stop.reason, site, trusted)])
    except CellBusy as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CODES["busy"])


def _state(child: Child, rank: int, stop: StopRequest) -> str:
    """The state in which an ended process left its cell."""
    code = child.process.exitcode
    assert code is not None
    for state, its_code in EXIT_CODES.items():
        if code == its_code:
            return state
    if code < 0:
        name = signal.Signals(-code).name
        if stop.signal:
            child.folder.end_attempt("interrupted", f"{stop.reason}, no checkpoint in time")
            return "interrupted"
        # The other ranks are about to report a closed connection; wait, so that the actual cause is recorded last.
        time.sleep(ECHO_SECONDS)
        child.folder.end_attempt("failed", f"rank {rank} was killed by {name} on {environment.host()}")
    return "failed"


def _write_to(path: Path) -> None:
    """Redirect the standard output and error of this process to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


def _die_with_parent() -> None:
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
