"""Times the phases of a training step.

A clock is handed explicitly to what it times: a backward pass runs in another thread on CUDA, where neither a
thread-local nor a context variable would be seen. It only marks moments; nothing is waited for until `read`.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch


class Clock:
    """A timeline of marks, each with the phase that begins there; a nested phase interrupts the one around it."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type != "cpu"
        self._device = device
        self._marks: list[tuple[str, torch.Event | float]] = []
        self._stack = ["other"]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """The enclosed code belongs to `phase`."""
        self._enter(phase)
        try:
            yield
        finally:
            self._stack.pop()
            self._mark()

    def turn(self, phase: str) -> None:
        """What is left of the phase around the caller belongs to `phase`."""
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
        """Forget what was timed since the last read."""
        self._marks = []

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last read; waits for the device once."""
        marks, self._marks = self._marks, []
        if self._on_device:
            torch.accelerator.synchronize(self._device)
        seconds: dict[str, float] = defaultdict(float)
        for (phase, begin), (_, end) in pairwise(marks):
            seconds[phase] += _between(begin, end)
        seconds.pop("other", None)
        return dict(seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a CPU has by the time it is asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _between(begin: torch.Event | float, end: torch.Event | float) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    assert isinstance(begin, torch.Event)
    assert isinstance(end, torch.Event)
    return begin.elapsed_time(end) / 1000
