"""The process group and communication between ranks; never called inside a solve, as iterations differ by rank."""

import gc
import io
import json
import os
import socket
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
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from harness.measure.clock import Clock
from harness.measure.device import accelerator, why_no_gpu
from harness.records.cell_folder import CellBusy, CellFolder
from harness.records.environment import host, processors
from harness.records.files import write_atomically

MEETING_TIMEOUT = timedelta(minutes=30)
"""For the ranks to meet and to finish their first step: nodes start at different times, and some compile first."""
STEP_TIMEOUT = timedelta(minutes=10)
"""For each collective after the first step. Ranks then wait for each other only as long as a solve takes."""
LOOPBACK = "127.0.0.1"

ANSWER_SECONDS = 5.0
"""How long after a timeout a rank waits for the others to say that they waited too."""


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

    @property
    def on_one_node(self) -> bool:
        """Whether all ranks of the cell are on this node."""
        return self.world_size == self.local_world_size

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

    After an error, ranks that communicate by NCCL are not left in order: that would wait for the other ranks, which may
    sit in a collective that this rank never joins. The caller records the error and ends the process instead.

    Garbage is collected at the end because the group's threads live until its last reference is gone; a thread that
    frees a tensor while the interpreter shuts down would abort it.
    """
    if position.on_one_node and "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # by itself, gloo takes the interface of the host's name
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(
        backend,
        store=_store(position, meeting),
        rank=position.rank,
        world_size=position.world_size,
        timeout=MEETING_TIMEOUT,
        # With a device, NCCL connects now, so that a rank without a connection fails here and not in its first step.
        device_id=None if device.type == "cpu" else device,
    )
    store = dist.distributed_c10d._get_default_store()
    store.set(f"host/{position.rank}", host())
    try:
        yield
    except BaseException as error:
        if any(word in str(error).lower() for word in ("timed out", "timeout")):
            error.add_note(_silent_ranks(store, position) or "it is not known which rank stalled")
        if not must_leave_at_once():
            _leave()
        raise
    _leave()


def _silent_ranks(store: Store, position: RankPosition) -> str:
    """Which ranks a collective waited for: all that waited say so in the store. Empty if that can't be known."""
    try:
        store.set(f"waited/{position.rank}", "")
        # Rank 0 has the store, so it waits until the others have read it.
        time.sleep(2 * ANSWER_SECONDS if position.rank == 0 else ANSWER_SECONDS)
        others = [rank for rank in range(position.world_size) if not store.check([f"waited/{rank}"])]
        named = [f"rank {rank} on {store.get(f'host/{rank}').decode()}" for rank in others]
    except RuntimeError:  # rank 0, which has the store, is gone
        return ""
    return f"no sign of {', '.join(named)}" if named else ""


def _leave() -> None:
    dist.destroy_process_group()
    gc.collect()


def must_leave_at_once() -> bool:
    """Whether a rank that has failed must end its process without leaving the group."""
    return dist.is_initialized() and dist.get_world_size() > 1 and dist.get_backend() == "nccl"


def wait_less() -> None:
    """Shorten the time that a collective may wait, once all ranks have finished their first step."""
    dist.distributed_c10d._set_pg_timeout(STEP_TIMEOUT)


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


def device_of(position: RankPosition, wants_gpu: bool | None = None) -> torch.device:
    """This rank's GPU, or the CPU with this rank's share of the threads.

    `wants_gpu` is what the cluster profile says; without a profile, None takes a GPU if there is one. Where
    JFBENCH_WITHOUT_GPU is 1, as on a test cluster whose GPUs are names only, the CPU stands in for a missing one.

    Raises:
        RuntimeError: the profile asks for GPUs and this rank has none, or fewer are visible than ranks need.
    """
    found = None if wants_gpu is False else accelerator()
    if found is None and wants_gpu and os.environ.get("JFBENCH_WITHOUT_GPU") != "1":
        raise RuntimeError(why_no_gpu())
    if found is None:
        torch.set_num_threads(position.threads or max(1, processors() // position.local_world_size))
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    # A scheduler may show each task only its own GPU; whether ranks then share one is checked once they have met.
    index = position.local_rank if count > 1 else 0
    if index >= count:
        raise RuntimeError(f"{position.local_world_size} ranks on {host()} need as many GPUs, and {count} are visible")
    torch.accelerator.set_device_index(index)
    return torch.device(found.type, index)


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
    rows: list[list[float]] = torch.stack(everyone).tolist()  # one copy from the device, not one per rank
    return rows


def gather_values(value: Any, device: torch.device) -> list[Any]:
    """Every rank's value, on every rank, in rank order; for rare exchanges without a fixed size.

    A value consists of numbers, text, tensors, lists and mappings. Nothing else is accepted from another rank, because
    to unpickle an object runs code of the sender's choice.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    mine = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8).to(device)
    lengths = [int(row[0]) for row in gather([float(len(mine))], device)]
    everyone = [torch.zeros(max(lengths), dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(everyone, pad(mine, (0, max(lengths) - len(mine))))
    parts = [row[:length].cpu().numpy().tobytes() for row, length in zip(everyone, lengths, strict=True)]
    return [torch.load(io.BytesIO(part), map_location="cpu", weights_only=True) for part in parts]


def _store(position: RankPosition, meeting: Path) -> Store:
    """The store through which the ranks find each other.

    Rank 0 takes any free port and publishes it in a file, so ports cannot collide and nothing has to be retried. The
    store has no authentication: that of ranks on one node listens on the loopback interface only.
    """
    if position.world_size == 1:
        return HashStore()
    if not position.launch:
        return next(rendezvous("env://", timeout=MEETING_TIMEOUT))[0]
    endpoint = _endpoint(position, meeting)
    if position.rank == 0:
        address, port, listener = _listener(position)
        store = TCPStore(
            address,
            port,
            position.world_size,
            is_master=True,
            wait_for_workers=False,
            timeout=MEETING_TIMEOUT,
            master_listen_fd=listener,
        )
        write_atomically(endpoint, json.dumps([address, store.port]))
        return store
    deadline = time.monotonic() + MEETING_TIMEOUT.total_seconds()
    while not endpoint.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 did not publish {endpoint}")
        time.sleep(0.05)
    published = json.loads(endpoint.read_text())
    if isinstance(published, str):
        raise CellBusy(published)
    address, port = published
    return TCPStore(address, port, position.world_size, is_master=False, timeout=MEETING_TIMEOUT)


def _listener(position: RankPosition) -> tuple[str, int, int | None]:
    """Address and port of the store, and the descriptor of the socket that listens there; None if torch opens it."""
    if not position.on_one_node:
        return os.environ.get("MASTER_ADDR", LOOPBACK), 0, None
    # By itself, torch listens on every interface, whatever the address.
    listener = socket.create_server((LOOPBACK, 0))
    return LOOPBACK, listener.getsockname()[1], listener.detach()


def _endpoint(position: RankPosition, meeting: Path) -> Path:
    """The file in which rank 0 publishes the store's address, or the reason why there is none."""
    return meeting / f"{position.launch}.json"
