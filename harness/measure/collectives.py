"""Times all-reduces between the ranks of this machine, from which a model of a step gets its latency and bandwidth."""

import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from harness.measure.clock import synchronize
from harness.measure.device import accelerator
from harness.records.check import Check
from harness.records.collectives import AllReduce, Sweep
from harness.records.environment import host, processors

SIZES = tuple(4**power for power in range(5, 13))
"""Bytes: 1 KiB to 16 MiB."""
WARM_UP, REPEATS = 3, 15


def sweep(sizes: tuple[int, ...] = SIZES, repeats: int = REPEATS) -> Sweep:
    """Time all-reduces over 2, 4, ... ranks, as many as this machine has accelerators or, without one, processors."""
    kind = accelerator() or torch.device("cpu")
    places = torch.accelerator.device_count() if kind.type != "cpu" else processors()
    counts = [2**power for power in range(1, places.bit_length()) if 2**power <= places]
    times = [one for ranks in counts for one in _times(kind.type, ranks, sizes, repeats)]
    backend = dist.get_default_backend_for_device(kind)
    return Sweep(device=kind.type, backend=backend, host=host(), processors=processors(), times=tuple(times))


def check_collectives(folder: Path) -> Iterator[Check]:
    """Measure a sweep, write it to a runs directory, and say what was found."""
    found = sweep()
    if not found.times:
        yield Check(False, "collectives: not measured, because two ranks need two devices and there is only one")
        return
    path = found.write(folder)
    for ranks in sorted({one.ranks for one in found.times}):
        first, *_, last = (one for one in found.times if one.ranks == ranks)
        small, large = f"{first.bytes} B in {first.seconds * 1e6:.0f} us", f"{last.bytes / 2**20:.0f} MiB"
        said = f"{ranks} ranks by {found.backend}: {small}, {large} in {last.seconds * 1e3:.1f} ms"
        yield Check(True, f"collectives: {said}")
    yield Check(True, f"collectives: saved as {path}; reports of scaling studies read it")


def _times(kind: str, ranks: int, sizes: tuple[int, ...], repeats: int) -> list[AllReduce]:
    with TemporaryDirectory() as meeting:
        spawn(partial(_one_rank, kind, ranks, sizes, repeats, meeting), nprocs=ranks)
        measured = [json.loads(Path(meeting, f"{rank}.json").read_text()) for rank in range(ranks)]
    slowest = [[max(repeat) for repeat in zip(*rows, strict=True)] for rows in zip(*measured, strict=True)]
    medians = map(statistics.median, slowest)
    return [AllReduce(ranks=ranks, bytes=size, seconds=t) for size, t in zip(sizes, medians, strict=True)]


def _one_rank(kind: str, ranks: int, sizes: tuple[int, ...], repeats: int, meeting: str, rank: int) -> None:
    """Write the seconds of every repeat of every size."""
    if kind == "cpu":
        torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind != "cpu" else torch.device("cpu")
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, init_method=f"file://{meeting}/store", rank=rank, world_size=ranks)
    seconds = [[_seconds(size, device) for _ in range(WARM_UP + repeats)][WARM_UP:] for size in sizes]
    Path(meeting, f"{rank}.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def _seconds(size: int, device: torch.device) -> float:
    """One all-reduce of float32 numbers, begun by all ranks together."""
    numbers = torch.ones(size // 4, device=device)
    dist.barrier()
    synchronize(device)
    begin = time.perf_counter()
    dist.all_reduce(numbers)
    synchronize(device)
    return time.perf_counter() - begin
