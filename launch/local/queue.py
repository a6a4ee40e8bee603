"""Starts the unfinished cells of a grid and waits for them: a bounded queue on top of submitit's local executor.

submitit's local executor starts every job at once and, by default, stops it after two minutes. The queue here keeps as
many ranks running as the machine has room for, and takes the time limit from the cluster profile.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import submitit
from rich.console import Console
from rich.live import Live

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.environment import processors
from launch.local.job import CellJob
from launch.planning.profiles import CPU_ENVIRONMENT, Local
from launch.planning.runs_folder import Runs
from launch.tracking.status import read_rows_without_scheduler, table

POLL_SECONDS = 0.3
STANDARD_ERROR = 2
PATIENCE_SECONDS = 10.0
"""How long the other ranks of a cell may live on after one of them has failed; they may wait for it in a collective."""


@dataclass(frozen=True)
class Running:
    """A cell whose job was started."""

    folder: CellFolder
    slots: list[int]
    since: float
    job: submitit.Job[str]


@dataclass
class Queue:
    """Waiting and running cells; a cell starts when the cells that it needs are finished and there is room."""

    waiting: list[CellFolder]
    needed: dict[str, list[CellFolder]]
    """The cells that each of them waits for."""
    world_size: dict[str, int]
    """The ranks of each of them."""
    capacity: int
    """Ranks that may run at once. Each occupies a slot, which is a share of the processors or a GPU."""
    running: list["Running"] = field(default_factory=list)

    @staticmethod
    def of(folders: Sequence[CellFolder], capacity: int) -> "Queue":
        """A queue in which all cells wait."""
        needed = {folder.cell_id: folder.prerequisites() for folder in folders}
        return Queue(list(folders), needed, {folder.cell_id: folder.cell().world_size for folder in folders}, capacity)

    def startable(self) -> Iterator[tuple[CellFolder, list[int]]]:
        """Cells that can start now, in order, with the slots of their ranks."""
        taken = {slot for running in self.running for slot in running.slots}
        free = [slot for slot in range(self.capacity) if slot not in taken]
        for folder in list(self.waiting):
            ranks = self.world_size[folder.cell_id]
            ready = all(one.status().state == "finished" for one in self.needed[folder.cell_id])
            fits = ranks <= len(free) or not self.running
            if ready and fits:
                self.waiting.remove(folder)
                slots, free = free[:ranks], free[ranks:]
                yield folder, slots

    def end_stranded(self) -> None:
        """Cancel jobs of which a rank has failed while others still wait for it."""
        for running in self.running:
            status = running.folder.status()
            failed_for = time.time() - status.updated
            if status.state == "failed" and status.updated >= running.since and failed_for > PATIENCE_SECONDS:
                running.job.cancel()

    def settle(self) -> None:
        """Remove jobs that have ended; a cell whose job ended without writing a status is marked as failed."""
        for running in [running for running in self.running if running.job.done()]:
            self.running.remove(running)
            status = running.folder.status()
            if status.state not in ("finished", "failed") and status.updated < running.since:
                message = last_error(running.job) or "the job ended without a message"
                running.folder.write_status(CellStatus(state="failed", updated=time.time(), message=message))


def last_error(job: submitit.Job[str]) -> str:
    """The last line of standard error, from the first rank that wrote any."""
    for task in range(job.num_tasks):
        path = job.task(task).paths.stderr
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        said = [line for line in lines if line.strip()]
        if said:
            return said[-1]
    return ""


def run_locally(
    runs: Runs, grid: str, folders: list[CellFolder], profile: Local, console: Console, trusted: Collection[str] = ()
) -> None:
    """Run cells, which may name classes of the `trusted` packages, to their end on this machine; show their progress.

    Ctrl-C, SIGTERM and a closing terminal (unless under `nohup`) cancel the running cells, which resume from their last
    checkpoint at the next launch, so no cell keeps running unnoticed.
    """
    # Background jobs of a shell ignore SIGINT, and their children would too; but submitit cancels its jobs with SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    queue = Queue.of(folders, profile.ranks or processors())
    with _live_sync(runs, grid), Live(console=console, refresh_per_second=2, transient=True) as live:
        try:
            while queue.waiting or queue.running:
                queue.end_stranded()
                queue.settle()
                for folder, slots in queue.startable():
                    job = _start(folder, slots, queue.capacity, profile, trusted)
                    queue.running.append(Running(folder, slots, time.time(), job))
                if queue.waiting and not queue.running:
                    return  # the remaining cells wait for one that failed
                live.update(table(read_rows_without_scheduler(folders)))
                time.sleep(POLL_SECONDS)
        finally:
            for running in queue.running:
                running.job.cancel()


def _start(
    folder: CellFolder, slots: list[int], capacity: int, profile: Local, trusted: Collection[str]
) -> submitit.Job[str]:
    ranks = folder.cell().world_size
    threads = max(1, processors() // max(capacity, ranks))
    executor = submitit.LocalExecutor(folder=folder.path / "logs")
    executor.update_parameters(
        tasks_per_node=ranks,
        timeout_min=profile.timeout_min,
        gpus_per_node=len(slots) if profile.gpus else 0,
        visible_gpus=visible_gpus(slots) if profile.gpus else slots,
        signal_delay_s=profile.signal_delay_s,
    )
    variables = submitit.helpers.environment_variables(**CPU_ENVIRONMENT, OMP_NUM_THREADS=str(threads))
    with variables, standard_error_to(folder.path / "logs" / "controller.err"):
        return executor.submit(CellJob(folder.path, profile, threads, trusted))


@contextmanager
def standard_error_to(path: Path) -> Iterator[None]:
    """Append what processes started meanwhile write to standard error to a file.

    The ranks have logs of their own; this is for submitit's controller, which answers Ctrl-C with a traceback.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(STANDARD_ERROR)
    with open(path, "ab") as log:
        os.dup2(log.fileno(), STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(terminal, STANDARD_ERROR)
        os.close(terminal)


def visible_gpus(slots: Sequence[int]) -> list[int]:
    """The GPUs of these slots, counted among those that this process may use.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES names fewer GPUs, or names them in another way than by number.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return list(slots)
    numbers = allowed.split(",")
    if max(slots) >= len(numbers) or not all(number.strip().isdigit() for number in numbers):
        raise ConfigError(f"CUDA_VISIBLE_DEVICES: {allowed!r} must number at least {max(slots) + 1} GPUs, as in 0,1")
    return [int(numbers[slot]) for slot in slots]


@contextmanager
def _live_sync(runs: Runs, grid: str) -> Iterator[None]:
    """Run `launch sync --follow` beside the jobs; when its standard input closes, it syncs once more and ends."""
    command = [sys.executable, "-m", "launch", "sync", grid, "--runs", str(runs.root), "--follow"]
    process = subprocess.Popen(["nice", *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.communicate()
