"""Process group and what ranks tell each other. Nothing here is called inside a solve: iterations differ by rank."""

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

# Its functions keep the group that exists when they are first imported, as a default value, and DDP imports it late.
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
    """Where a process stands among the ranks of its cell."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    launch: str = ""
    """Names this launch, the same on all ranks; empty under torchrun, which brings its own rendezvous."""
    threads: int = 0
    """Threads of this rank on a CPU; 0 takes its share of the processors."""

    @staticmethod
    def from_environment() -> "RankPosition":
        """The position that torchrun sets, or a single process's."""
        get = os.environ.get
        return RankPosition(
            rank=int(get("RANK", 0)),
            world_size=int(get("WORLD_SIZE", 1)),
            local_rank=int(get("LOCAL_RANK", 0)),
            local_world_size=int(get("LOCAL_WORLD_SIZE", 1)),
        )


@contextmanager
def process_group(position: RankPosition, device: torch.device, meeting: Path) -> Iterator[None]:
    """Join the ranks of this launch and leave them at the end.

    The group's threads end with its last reference: one that frees a tensor while the interpreter shuts down aborts it.
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
    """Own the cell on behalf of all ranks of this launch.

    Raises:
        CellBusy: another process owns it; the other ranks, told so at the meeting, raise it too.
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
    """This rank's accelerator where the machine has one, else the CPU with this rank's share of the threads."""
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(position.local_rank % torch.accelerator.device_count())
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return torch.device(accelerator.type, torch.accelerator.current_device_index())
    torch.set_num_threads(position.threads or max(1, processors() // position.local_world_size))
    return torch.device("cpu")


def data_parallel(model: nn.Module, clock: Clock) -> DistributedDataParallel:
    """The model with its gradients averaged over the ranks.

    What is left of a backward pass when its last gradients are ready is synchronisation that no computation hides.
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
    """Every rank's value, on every rank, in rank order; for what is rare and has no fixed size."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _store(position: RankPosition, meeting: Path) -> Store:
    """The store at which the ranks meet.

    Rank 0 takes any free port and publishes it in a file, which leaves no port to collide on and nothing to retry.
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
    """Where rank 0 publishes where the ranks meet, or why they do not."""
    return meeting / f"{position.launch}.json"
