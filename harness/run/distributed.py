"""The process group and communication between ranks; never called inside a solve, as iterations differ by rank."""

import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Its functions store the group that exists when they are first imported as a default value, and DDP imports it late.
import torch.distributed.nn
from torch import nn
from torch.distributed import GradBucket, HashStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from harness.measure.clock import Clock
from harness.records.cell_folder import CellBusy, CellFolder
from harness.records.environment import processors
from harness.records.files import write_atomically

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class RankPosition:
    """The position of a process among the ranks of its cell."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    launch: str = ""
    """Name of this launch, the same on all ranks; empty under torchrun, which has its own rendezvous."""
    threads: int = 0
    """Number of threads of this rank on a CPU; 0 means an equal share of the processors."""

    @staticmethod
    def from_environment() -> "RankPosition":
        """The position set by torchrun, or that of a single process."""
        get = os.environ.get
        return RankPosition(
            rank=int(get("RANK", 0)),
            world_size=int(get("WORLD_SIZE", 1)),
            local_rank=int(get("LOCAL_RANK", 0)),
            local_world_size=int(get("LOCAL_WORLD_SIZE", 1)),
        )


@contextmanager
def process_group(position: RankPosition, device: torch.device, meeting: Path) -> Iterator[None]:
    """Join the ranks of this launch, and leave the group at the end.

    Garbage is collected at the end because the group's threads live until its last reference is gone; a thread that
    frees a tensor while the interpreter shuts down would abort it.
    """
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(
        backend, store=_store(position, meeting), rank=position.rank, world_size=position.world_size, timeout=TIMEOUT
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
        gc.collect()


@contextmanager
def owned(folder: CellFolder, position: RankPosition, meeting: Path) -> Iterator[None]:
    """Lock the cell on behalf of all ranks of this launch.

    Raises:
        CellBusy: another process owns the cell. Rank 0 publishes this in `meeting`, and the other ranks raise it too.
    """
    if position.rank > 0:
        yield
        return
    try:
        with folder.locked():
            yield
    except CellBusy as busy:
        if position.world_size > 1 and position.launch:
            write_atomically(_endpoint(position, meeting), json.dumps(str(busy)))
        raise


def device_of(position: RankPosition) -> torch.device:
    """This rank's accelerator if the machine has one, else the CPU with this rank's share of the threads."""
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(position.local_rank % torch.accelerator.device_count())
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return torch.device(accelerator.type, torch.accelerator.current_device_index())
    torch.set_num_threads(position.threads or max(1, processors() // position.local_world_size))
    return torch.device("cpu")


def data_parallel(model: nn.Module, clock: Clock) -> DistributedDataParallel:
    """The model, with gradients averaged over the ranks.

    Time after the last gradients of a backward pass are ready is synchronization that no computation hides.
    """

    group = dist.group.WORLD
    assert group is not None

    def hook(state: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        if bucket.is_last():
            clock.turn("gradient_synchronization")
        return allreduce_hook(group, bucket)

    wrapped = DistributedDataParallel(model, forward_sync_buffers=False)
    wrapped.register_comm_hook(None, hook)
    return wrapped


def gather(values: list[float], device: torch.device) -> list[list[float]]:
    """Every rank's values, on every rank, in rank order."""
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return [row.tolist() for row in everyone]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, on every rank, in rank order; for rare exchanges without a fixed size."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _store(position: RankPosition, meeting: Path) -> Store:
    """The store through which the ranks find each other.

    Rank 0 takes any free port and publishes it in a file, so ports cannot collide and nothing has to be retried.
    """
    if position.world_size == 1:
        return HashStore()
    if not position.launch:
        return next(rendezvous("env://"))[0]
    endpoint = _endpoint(position, meeting)
    if position.rank == 0:
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        store = TCPStore(host, 0, position.world_size, is_master=True, wait_for_workers=False)
        write_atomically(endpoint, json.dumps([host, store.port]))
        return store
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while not endpoint.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 did not publish {endpoint}")
        time.sleep(0.05)
    published = json.loads(endpoint.read_text())
    if isinstance(published, str):
        raise CellBusy(published)
    host, port = published
    return TCPStore(host, port, position.world_size, is_master=False)


def _endpoint(position: RankPosition, meeting: Path) -> Path:
    """The file in which rank 0 publishes the store's address, or the reason why there is none."""
    return meeting / f"{position.launch}.json"
