"""Times the phases of a training step.

A clock is passed explicitly to the code it times: on CUDA, a backward pass runs in another thread, which would see
neither thread-local nor context variables. A clock only records marks; it does not wait for the device until `read`.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch


class Clock:
    """A timeline of marks, each naming the phase that begins there; a nested phase interrupts the enclosing one."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type != "cpu"
        self._device = device
        self._marks: list[tuple[str, torch.Event | float]] = []
        self._stack = ["other"]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Attribute the time of the enclosed code to `phase`."""
        self._enter(phase)
        try:
            yield
        finally:
            self._stack.pop()
            self._mark()

    def turn(self, phase: str) -> None:
        """Attribute the rest of the caller's current phase to `phase`."""
        self._stack[-1] = phase
        self._mark()

    def _enter(self, phase: str) -> None:
        self._stack.append(phase)
        self._mark()

    def _mark(self) -> None:
        if not self._on_device:
            self._marks.append((self._stack[-1], time.perf_counter()))
            return
        event = torch.Event(device=self._device, enable_timing=True)
        event.record()
        self._marks.append((self._stack[-1], event))

    def reset(self) -> None:
        """Forget what was timed before, and start the timeline here."""
        self._marks = []
        self._mark()

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the reset; waits for the device once.

        What belongs to no phase is "other", so the phases add up to the time between reset and read.
        """
        self._mark()
        marks, self._marks = self._marks, []
        if self._on_device:
            torch.accelerator.synchronize(self._device)
        seconds: dict[str, float] = defaultdict(float)
        for (phase, begin), (_, end) in pairwise(marks):
            seconds[phase] += _between(begin, end)
        return dict(seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work; on a CPU there is nothing to wait for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _between(begin: torch.Event | float, end: torch.Event | float) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    assert isinstance(begin, torch.Event)
    assert isinstance(end, torch.Event)
    return begin.elapsed_time(end) / 1000
