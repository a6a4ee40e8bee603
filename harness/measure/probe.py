"""The cost of one gradient, measured on a fixed batch outside the training loop.

Time is measured after a warm-up, with synchronization, and repeatedly. Memory comes from the allocator on an
accelerator; on the CPU it is counted equivalently as the storages that tensors created during the gradient keep alive.
A compiled map is timed before anything else, because torch.compile gives up a function that it meets under a dispatch
mode. Where such a mode counts (FLOPs, and the memory of a CPU), the map runs uncompiled.
Bytes saved for the backward pass are the distinct storages that autograd holds after the forward pass, without
parameters and buffers.
"""

import statistics
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from harness.measure.clock import synchronize
from harness.records.events import Cost

Loss = Callable[[], Tensor]
"""Runs the forward pass on the fixed batch."""


def probe(model: DistributedDataParallel, loss: Loss, device: torch.device, repeats: int = 5) -> Cost:
    """This rank's cost of one gradient of `loss`; all ranks must call it together."""
    _timed_gradient(model, loss, device, nullcontext())  # warms up
    synchronized, alone = [], []
    for _ in range(repeats):
        alone.append(_timed_gradient(model, loss, device, model.no_sync()))
        synchronized.append(_timed_gradient(model, loss, device, nullcontext()))
    allocated, allocator = _memory(model, loss, device)
    saved, flops = _counts(model, loss)
    totals = [forward + backward for forward, backward in synchronized]
    quartiles = statistics.quantiles(totals, n=4)
    exposed = statistics.median(b for _, b in synchronized) - statistics.median(b for _, b in alone)
    return Cost(
        peak_allocated_bytes=allocated,
        saved_bytes=saved,
        flops=flops,
        seconds=statistics.median(totals),
        seconds_spread=quartiles[2] - quartiles[0],
        exposed_communication=exposed,
        gradient_bytes=sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad),
        **allocator,
    )


def _timed_gradient(
    model: nn.Module, loss: Loss, device: torch.device, mode: AbstractContextManager[Any]
) -> tuple[float, float]:
    """Seconds of the forward and the backward pass."""
    model.zero_grad()
    synchronize(device)
    begin = time.perf_counter()
    with mode:
        value = loss()
        synchronize(device)
        middle = time.perf_counter()
        value.backward()
    synchronize(device)
    return middle - begin, time.perf_counter() - middle


def _memory(model: nn.Module, loss: Loss, device: torch.device) -> tuple[int, dict[str, int]]:
    """Peak bytes of one gradient, and what the allocator of a CUDA device says besides."""
    model.zero_grad()
    with _uncompiled() if device.type == "cpu" else nullcontext(), PeakMemory(device) as peak:
        loss().backward()
    model.zero_grad()
    return peak.bytes, allocator_figures(device)


def allocator_figures(device: torch.device) -> dict[str, int]:
    """Peaks of a CUDA allocator in bytes, its failed attempts, and the memory in use outside it; {} on other devices.

    Requested is what tensors asked for, active what blocks in use take, reserved what the allocator holds; libraries,
    other processes and the context of the device use the rest.
    """
    if device.type != "cuda":
        return {}
    found = torch.cuda.memory_stats(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak_requested_bytes": found["requested_bytes.all.peak"],
        "peak_active_bytes": found["active_bytes.all.peak"],
        "peak_reserved_bytes": found["reserved_bytes.all.peak"],
        "outside_bytes": total - free - found["reserved_bytes.all.current"],
        "allocation_retries": found["num_alloc_retries"],
    }


def _counts(model: nn.Module, loss: Loss) -> tuple[int, int]:
    """Saved bytes and FLOPs of one uncompiled gradient."""
    model.zero_grad()
    excluded = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    flops = FlopCounterMode(display=False)
    flops.mod_tracker = _NoModules()
    with _uncompiled(), flops:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss()
        held = sum(saved.values())
        value.backward()
        del value
    model.zero_grad()
    return held, int(flops.get_total_flops())


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled functions as they were written, without marking them as impossible to compile."""
    return torch.compiler.set_stance("force_eager")


class _NoModules(ModuleTracker):
    """Disables the FLOP counter's module tracking, whose hooks fail on `torch.autograd.grad` in a backward pass."""

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *error: object) -> None:
        return


class PeakMemory:
    """Peak bytes allocated inside the context, in excess of what was allocated at its start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._storages = _LiveStorages()

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cpu":
            self._storages.__enter__()
        else:
            synchronize(self.device)
            torch.accelerator.reset_peak_memory_stats(self.device)
            self._start = torch.accelerator.memory_allocated(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device.type == "cpu":
            self._storages.__exit__(*error)
            self.bytes = self._storages.peak
        else:
            self.bytes = torch.accelerator.max_memory_allocated(self.device) - self._start


class _LiveStorages(TorchDispatchMode):
    """Tracks the total bytes of the storages that operations have created and that are not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._track(leaf.untyped_storage(), arguments)
        return result

    def _track(self, storage: torch.UntypedStorage, older: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in older:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
