"""Runs one cell on one rank: locks the cell directory, joins the other ranks, and records the outcome."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from harness.config.cells import BaselineCell, Cell, PretrainCell, TimingCell, TrainCell
from harness.config.settings import ANYWHERE, Site
from harness.config.trust import require_trust
from harness.data.batches import Loader
from harness.data.dataset import load
from harness.measure.device import hardware, shared_gpu
from harness.measure.scores import CATALOG
from harness.models.precision import DTYPES, set_precision
from harness.records import environment
from harness.records.cell_folder import CellBusy, CellFolder, CellStatus, State
from harness.run.attempt import Attempt
from harness.run.baseline_cell import run_baseline
from harness.run.distributed import (
    RankPosition,
    device_of,
    gather_values,
    must_leave_at_once,
    owned,
    process_group,
)
from harness.run.timing_cell import run_timing
from harness.run.train_cell import run_training
from harness.run.tuning import tuned


def run_cell(
    path: Path,
    position: RankPosition,
    stop: Callable[[], str] = lambda: "",
    site: Site = ANYWHERE,
    trusted: Collection[str] = (),
) -> State:
    """Run the cell in directory `path` to its end, or until `stop` requests a checkpoint and an early exit.

    `trusted` are the packages of a user's own whose classes the cell may name.

    `stop` returns the reason, or "". It may start to return one on any rank at any time; after each step, the ranks
    agree on whether to stop.

    Raises:
        CellBusy: another process is running this cell.
        ConfigError: the cell names a class of another package.
        ValueError: the number of ranks differs from the cell's world_size.
        RuntimeError: the site has GPUs, but this rank has none.
    """
    folder = CellFolder(path)
    cell = folder.cell()
    require_trust(cell, trusted)
    if folder.status().state == "finished":
        return "finished"
    if isinstance(cell, TrainCell) and cell.tune:
        cell = tuned(folder, cell, position.rank == 0)
    cell = cell.model_copy(update={"operations": site.applied_to(cell.operations)})
    if position.world_size != cell.world_size:
        raise ValueError(f"world_size: {cell.cell_id} needs {cell.world_size} ranks (got {position.world_size})")
    meeting = path / "meeting"
    with owned(folder, position, meeting), _failures_recorded(folder, position):
        device = device_of(position, site.wants_gpu)
        with process_group(position, device, meeting):
            return _run(folder, cell, position, device, stop, site.stage)


def _run(
    folder: CellFolder,
    cell: Cell,
    position: RankPosition,
    device: torch.device,
    stop: Callable[[], str],
    stage: str | None,
) -> State:
    begin = time.time()
    set_precision(cell.precision, device)
    ranks = gather_values(hardware(device), device)
    if sharing := shared_gpu(ranks):
        raise RuntimeError(sharing)
    number = folder.new_attempt() if position.rank == 0 else -1
    with folder.open_record(number) if position.rank == 0 else nullcontext() as record:
        described = environment.describe()
        code = environment.code(described)
        status = CellStatus(state="running", attempt=number, started=begin, message="starting", code=code)
        before = folder.status()
        status = status.model_copy(update={"began": before.began or begin, "seconds": before.seconds})
        shared = {"processors": environment.processors(), "ranks_on_host": position.local_world_size}
        surroundings = {**described, **ranks[position.rank], **shared, "ranks": ranks, "attempt": number}
        value_range = cell.value_range if isinstance(cell, PretrainCell) else cell.physics.value_range
        dataset = load(cell.data, folder.decoded_data, stage)
        loader = Loader(dataset, value_range, device, DTYPES[cell.precision], cell.data.crop)
        metrics = (*CATALOG, *cell.operations.metrics)
        attempt = Attempt(folder, position, device, loader, metrics, stop, status, record, surroundings)
        attempt.report()
        state = _run_kind(attempt, cell)
        if state == "finished":
            attempt.end(time.time() - begin)
        if position.rank == 0:
            reason = "" if state == "finished" else stop() or "another rank was asked to stop"
            attempt.report(message=reason)
            folder.end_attempt(state, reason)
    return state


def _run_kind(attempt: Attempt, cell: Cell) -> State:
    match cell:
        case BaselineCell():
            return run_baseline(attempt, cell)
        case TimingCell():
            return run_timing(attempt, cell)
        case _:
            return run_training(attempt, cell)


@contextmanager
def _failures_recorded(folder: CellFolder, position: RankPosition) -> Iterator[None]:
    """Write the first failure of any rank to the status; later failures on other ranks only follow from it."""
    before = folder.newest_attempt
    try:
        yield
    except CellBusy:
        raise
    except BaseException as error:
        _record_failure(folder, position, before, error)
        if must_leave_at_once():
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        raise


def _record_failure(folder: CellFolder, position: RankPosition, before: int, error: BaseException) -> None:
    """Record why an attempt ended; `before` is the number of the attempt before it, as a rank may fail very early."""
    if folder.newest_attempt == before:
        with suppress(FileExistsError):
            folder.new_attempt()
    if folder.newest_attempt in folder.exits():
        return
    # The lines before the message show the place of a syntax error, and those after it are notes.
    said = next(line for line in traceback.format_exception_only(error) if not line.startswith(" "))
    message = "; ".join(text.strip().splitlines()[0] for text in (said, *getattr(error, "__notes__", [])))
    state: State = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    folder.end_attempt(state, f"rank {position.rank} on {environment.host()}: {message}")
