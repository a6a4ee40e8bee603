"""Counts work and memory of one gradient, for all methods alike, and times jobs in turns."""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from harness.commands.bench.case import Case
from harness.implicit.solvers import Function
from harness.measure.probe import PeakMemory

Gradient = Callable[[Function, Tensor], Tensor]
"""(T, start) -> a state whose backward pass stores the gradient in the parameters."""


@dataclass(frozen=True)
class Method:
    """A way to compute a gradient, shown as one row of a table."""

    library: str
    name: str
    gradient: Gradient
    flat: bool = True
    """Whether it claims that its memory does not grow with the depth of the forward solve."""


@dataclass(frozen=True)
class Work:
    """The cost of one gradient except time; unlike time, it is the same in every run."""

    evaluations: int
    """Number of evaluations of T on the whole batch, including recomputation by checkpoints."""
    products: int
    """Number of backward passes through T and forward-mode products with J; JFB needs one."""
    saved_bytes: int
    """The most bytes that autograd held at any time in the forward or backward pass, excluding parameters."""
    peak_bytes: int
    """The most bytes that newly created tensors occupied at any time."""
    error: float
    """|g - reference| / |reference|."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """The median and quartiles of at least one value."""
    return Spread(*(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])))


def measure_error(case: Case, gradient: Gradient, reference: Tensor) -> float:
    """|g - reference| / |reference|."""
    case.map.zero_grad()
    case.loss(gradient(case.T, case.start())).backward()
    return _error(case, reference)


def _error(case: Case, reference: Tensor) -> float:
    return float((case.gradient() - reference).norm() / reference.norm())


def measure_work(case: Case, gradient: Gradient, reference: Tensor) -> Work:
    """Compute one gradient, and count its work and memory."""
    start = case.start()
    counted = CountedMap(case.T)
    case.map.zero_grad()
    saved = SavedBytes([*case.map.parameters(), *case.map.buffers()])
    with PeakMemory(start.device) as peak, saved:
        case.loss(gradient(counted, start)).backward()
    error = _error(case, reference)
    return Work(counted.evaluations, counted.products, saved.peak, peak.bytes, error)


def seconds(case: Case, gradient: Gradient) -> float:
    """Compute one gradient, and return its time in seconds."""
    start = case.start()
    case.map.zero_grad()
    begin = time.perf_counter()
    case.loss(gradient(case.T, start)).backward()
    return time.perf_counter() - begin


def in_turns(rounds: int, jobs: Sequence[Callable[[], float]]) -> np.ndarray:
    """Results (rounds, jobs) in the order A B C, C B A, A B C, ..., so that drifts in speed affect all jobs alike."""
    table = np.empty((rounds, len(jobs)))
    for turn in range(rounds):
        order = range(len(jobs)) if turn % 2 == 0 else reversed(range(len(jobs)))
        for column in order:
            table[turn, column] = jobs[column]()
    return table


class CountedMap:
    """A wrapper of T that counts evaluations and products with the Jacobian."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.evaluations = 0
        self.products = 0

    def __call__(self, x: Tensor) -> Tensor:
        """T(x)."""
        # Counted first, because a checkpoint aborts its second evaluation by an exception once it has what it needs.
        if forward_ad.unpack_dual(x).tangent is not None:
            self.products += 1
            return self.f(x)
        self.evaluations += 1
        image = self.f(x)
        if image.requires_grad:
            image.register_hook(self._count_product)
        return image

    def _count_product(self, gradient: Tensor) -> None:
        self.products += 1


class SavedBytes(saved_tensors_hooks):
    """Tracks the most bytes of distinct storages that autograd held at once, except the storages of `excluded`."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        super().__init__(self._pack, lambda held: held.tensor)
        self.live = 0
        self.peak = 0
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in excluded}
        self._holders: Counter[int] = Counter()

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor)
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if pointer not in self._excluded:
            self.live += size if self._holders[pointer] == 0 else 0
            self.peak = max(self.peak, self.live)
            self._holders[pointer] += 1
            weakref.finalize(held, self._release, pointer, size)
        return held

    def _release(self, pointer: int, size: int) -> None:
        self._holders[pointer] -= 1
        self.live -= size if self._holders[pointer] == 0 else 0


@dataclass(eq=False)
class _Held:
    """A wrapper of a saved tensor whose deletion can be detected."""

    tensor: Tensor
