"""Checks whether measurements on this device can be trusted; a missing accelerator is a failed check.

Each check compares a result of the device with one obtained in another way, and reports both.
"""

import time
from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from harness.config import catalog
from harness.config.build import build
from harness.measure.clock import Clock, synchronize
from harness.measure.device import accelerator, why_no_gpu
from harness.measure.probe import PeakMemory
from harness.models.equilibrium import Equilibrium
from harness.models.precision import set_precision
from harness.physics.base import observe
from harness.records.check import Check

GRADIENT_TOLERANCE = 1e-3
"""Largest relative error of a float32 gradient."""
MEMORY_TOLERANCE = 0.25
"""Largest relative deviation of the peak: allocators round up, and libraries allocate workspace."""
CLOCK_TOLERANCE = 0.1
"""Largest relative deviation from wall time."""
SIZE, BATCH = 64, 4


def check_device() -> Iterator[Check]:
    """Run every check, on the accelerator or, after a failed check that says why, on the CPU."""
    device = accelerator()
    if device is None:
        device = torch.device("cpu")
        yield Check(False, f"device: {why_no_gpu()}; the same checks on the CPU follow")
    else:
        name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
        yield Check(True, f"device: {torch.accelerator.device_count()} x {name}")
    yield check_gradient(device)
    yield check_memory(device)
    yield check_clock(device)
    yield check_all_reduce(device)


def check_gradient(device: torch.device) -> Check:
    """Compare a whole model's float32 gradient on the device with its float64 gradient on the CPU."""
    exact = _gradient(torch.device("cpu"), torch.float64)
    found = _gradient(device, torch.float32).to(exact)
    error = float((found - exact).norm() / exact.norm())
    return Check(error < GRADIENT_TOLERANCE, f"gradient: relative error {error:.1e} against float64 on the CPU")


def check_memory(device: torch.device) -> Check:
    """Compare the peak reported by the allocator with the bytes of the tensors that were alive."""
    sizes = [2**20 * megabytes for megabytes in (8, 16, 4)]
    torch.zeros(1, device=device)
    with PeakMemory(device) as peak:
        kept = [torch.zeros(size, dtype=torch.uint8, device=device) for size in sizes[:2]]
        kept.pop(0)
        kept.append(torch.zeros(sizes[2], dtype=torch.uint8, device=device))
    expected = max(sizes[0] + sizes[1], sizes[1] + sizes[2])
    off = abs(peak.bytes - expected) / expected
    return Check(off < MEMORY_TOLERANCE, f"memory: peak {peak.bytes / 2**20:.1f} MiB, {expected / 2**20:.1f} computed")


def check_clock(device: torch.device) -> Check:
    """Compare the clock that times training phases with wall time."""
    matrix = torch.randn(512, 512, device=device)
    clock = Clock(device)
    for _ in range(2):  # the first round warms up
        clock.reset()
        synchronize(device)
        begin = time.perf_counter()
        with clock("work"):
            for _ in range(50):
                matrix = torch.nn.functional.normalize(matrix @ matrix)
        synchronize(device)
        wall = time.perf_counter() - begin
        timed = clock.read()["work"]
    off = abs(timed - wall) / wall
    return Check(off < CLOCK_TOLERANCE, f"clock: {timed * 1e3:.1f} ms measured, {wall * 1e3:.1f} ms passed")


def check_all_reduce(device: torch.device) -> Check:
    """Sum a tensor over two ranks, each with its own device, and check the result."""
    if device.type != "cpu" and torch.accelerator.device_count() < 2:
        return Check(True, "all-reduce: not tried, because two ranks need two devices and there is only one")
    with TemporaryDirectory() as meeting:
        try:
            spawn(partial(_sum_with_other, device.type, meeting), nprocs=2)
        except (ProcessRaisedException, ProcessExitedException) as error:
            return Check(False, f"all-reduce: {str(error).strip().splitlines()[-1]}")
    return Check(True, f"all-reduce: 2 ranks by {dist.get_default_backend_for_device(device)} agree")


def _sum_with_other(kind: str, meeting: str, rank: int) -> None:
    device = torch.device(kind, rank) if kind != "cpu" else torch.device("cpu")
    backend = dist.get_default_backend_for_device(device)
    dist.init_process_group(backend, init_method=f"file://{meeting}/store", rank=rank, world_size=2)
    numbers = torch.full((2**20,), float(rank + 1), device=device)
    dist.all_reduce(numbers)
    if not bool((numbers == 3).all()):
        raise ValueError(f"the sum of 1 and 2 is {float(numbers[0])}")
    dist.destroy_process_group()


def _gradient(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The gradient of all parameters of a small model, on one batch that is the same on every device.

    The last layer of a new network is zero, and every gradient before it would be, so all weights are drawn anew.
    """
    set_precision("float32", device)
    torch.manual_seed(0)
    physics = build(catalog.GaussianBlur(), SIZE)
    network = build(catalog.DnCNN(depth=3, width=8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images, noise = torch.rand(BATCH, 3, SIZE, SIZE), torch.randn(BATCH, 3, SIZE, SIZE)
    map = build(catalog.DeProx(), physics, network).to(device, dtype)
    model = Equilibrium(map, build(catalog.Picard(tol=None, max_steps=5)), build(catalog.Jfb()))
    truth = images.to(device, dtype)
    d = observe(physics, truth, noise.to(device, dtype))
    torch.nn.functional.mse_loss(model(d).image, truth).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).cpu()
