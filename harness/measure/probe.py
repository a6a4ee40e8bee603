"""The cost of one gradient, measured on a fixed batch outside the training loop.

Time is measured after a warm-up, with synchronization, and repeatedly. Memory comes from the allocator on an
accelerator; on the CPU it is counted equivalently as the storages that tensors created during the gradient keep alive.
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


def probe(model: DistributedDataParallel, loss: Loss, device: torch.device, repeats: int = 3) -> Cost:
    """This rank's cost of one gradient of `loss`; all ranks must call it together."""
    allocated, saved, flops = _memory(model, loss, device)
    synchronized, alone = [], []
    for _ in range(repeats):
        alone.append(_timed_gradient(model, loss, device, model.no_sync()))
        synchronized.append(_timed_gradient(model, loss, device, nullcontext()))
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


def _memory(model: nn.Module, loss: Loss, device: torch.device) -> tuple[int, int, int]:
    """Peak bytes, saved bytes and FLOPs of one gradient."""
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
    with PeakMemory(device) as peak, flops:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss()
        held = sum(saved.values())
        value.backward()
        del value
    model.zero_grad()
    return peak.bytes, held, int(flops.get_total_flops())


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
