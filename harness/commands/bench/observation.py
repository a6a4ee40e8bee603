"""Work and memory of one gradient, counted alike for everybody, and times taken in turns."""

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
"""(T, start) -> a state whose `backward` leaves the gradient in the parameters."""


@dataclass(frozen=True)
class Method:
    """One row of a table."""

    library: str
    name: str
    gradient: Gradient
    flat: bool = True
    """Whether it claims that its memory does not grow with the depth of the forward solve."""


@dataclass(frozen=True)
class Work:
    """What one gradient took, apart from time: none of it depends on the machine's mood."""

    evaluations: int
    """Of T, for the whole batch; a checkpoint's second one included."""
    products: int
    """Passes back through T, and forward-mode products with J: JFB has one."""
    saved_bytes: int
    """The most that autograd held at any time of the forward and of the backward pass, parameters excluded."""
    peak_bytes: int
    """The most that tensors created on the way occupied at any time."""
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
    """Of at least one value."""
    return Spread(*(float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])))


def measure_error(case: Case, gradient: Gradient, reference: Tensor) -> float:
    """|g - reference| / |reference|."""
    case.map.zero_grad()
    case.loss(gradient(case.T, case.start())).backward()
    return _error(case, reference)


def _error(case: Case, reference: Tensor) -> float:
    return float((case.gradient() - reference).norm() / reference.norm())


def measure_work(case: Case, gradient: Gradient, reference: Tensor) -> Work:
    """Run one gradient under observation."""
    start = case.start()
    counted = CountedMap(case.T)
    case.map.zero_grad()
    saved = SavedBytes([*case.map.parameters(), *case.map.buffers()])
    with PeakMemory(start.device) as peak, saved:
        case.loss(gradient(counted, start)).backward()
    error = _error(case, reference)
    return Work(counted.evaluations, counted.products, saved.peak, peak.bytes, error)


def seconds(case: Case, gradient: Gradient) -> float:
    """Run one gradient against the clock."""
    start = case.start()
    case.map.zero_grad()
    begin = time.perf_counter()
    case.loss(gradient(case.T, start)).backward()
    return time.perf_counter() - begin


def in_turns(rounds: int, jobs: Sequence[Callable[[], float]]) -> np.ndarray:
    """(rounds, jobs): A B C, C B A, A B C, ... so that a drift of the machine's speed hits all jobs alike."""
    table = np.empty((rounds, len(jobs)))
    for turn in range(rounds):
        order = range(len(jobs)) if turn % 2 == 0 else reversed(range(len(jobs)))
        for column in order:
            table[turn, column] = jobs[column]()
    return table


class CountedMap:
    """T, with its evaluations and the products with its Jacobian counted."""

    def __init__(self, f: Function) -> None:
        self.f = f
        self.evaluations = 0
        self.products = 0

    def __call__(self, x: Tensor) -> Tensor:
        """T(x)."""
        # Counted first: a checkpoint's second evaluation is left by an exception as soon as it has what it needs.
        if forward_ad.unpack_dual(x).tangent is not None:
            self.products += 1
            return self.f(x)
        self.evaluations += 1
        image = self.f(x)
        if image.requires_grad:
            image.register_hook(self._went_back)
        return image

    def _went_back(self, gradient: Tensor) -> None:
        self.products += 1


class SavedBytes(saved_tensors_hooks):
    """The most bytes of distinct storages that autograd held at once; those of `excluded` do not count."""

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
    """A saved tensor whose end can be noticed."""

    tensor: Tensor
