"""A model of the time of a training step on any number of ranks.

A step takes as long as its slowest rank, and a rank takes as long as its slowest sample: evaluations of T, products
with its Jacobian, and what does not depend on them. An all-reduce follows, less the part that computation hides. How
many evaluations the slowest of many samples takes is the expected maximum of as many draws from recorded counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar, nnls

Algorithm = Literal["ring", "tree"]
BUCKET_BYTES = 25 * 2**20
"""DistributedDataParallel reduces gradients in buckets of this size; nothing hides the reduction of the last one."""

PRODUCT_POWERS = (-3.0, 5.0)
"""A backward pass through T is taken to cost 2 to the power of one of these, or between them, times an evaluation."""


@dataclass(frozen=True)
class Link:
    """What a message between two ranks costs."""

    latency: float
    """Seconds per message."""
    bandwidth: float
    """Bytes per second."""

    def all_reduce(self, ranks: int, size: float, algorithm: Algorithm = "ring") -> float:
        """Seconds to add `size` bytes over the ranks.

        A ring passes 2 (ranks - 1) messages, each of the size over the ranks. A binary tree, whose messages are cut so
        that its levels work at the same time, waits for 2 log2(ranks) messages and passes every byte up and down.
        """
        if ranks < 2:
            return 0.0
        if algorithm == "ring":
            return 2 * (ranks - 1) * (self.latency + size / ranks / self.bandwidth)
        return 2 * math.ceil(math.log2(ranks)) * self.latency + 2 * size / self.bandwidth

    def exposed(self, ranks: int, size: float, hiding: float = 0.0, algorithm: Algorithm = "ring") -> float:
        """Seconds of an all-reduce that `hiding` seconds of a backward pass do not hide: at least the last bucket's."""
        last = min(size, BUCKET_BYTES)
        earlier = self.all_reduce(ranks, size - last, algorithm) if size > last else 0.0
        return max(0.0, earlier - hiding) + self.all_reduce(ranks, last, algorithm)


NO_LINK = Link(0.0, math.inf)
"""Communication that takes no time."""


def fit_link(ranks: npt.ArrayLike, sizes: npt.ArrayLike, seconds: npt.ArrayLike) -> Link:
    """The latency and bandwidth of measured all-reduces, taken to be rings; all arguments are (measurements,).

    Relative errors count, so that small messages determine the latency and large ones the bandwidth; neither is
    negative.
    """
    n, size, measured = (np.asarray(values, dtype=np.float64) for values in (ranks, sizes, seconds))
    columns = np.stack([2 * (n - 1), 2 * (n - 1) / n * size], axis=1)
    latency, per_byte = nnls(columns / measured[:, None], np.ones_like(measured))[0]
    return Link(float(latency), float(1 / per_byte) if per_byte else math.inf)


def expected_maximum(counts: npt.ArrayLike, draws: int) -> float:
    """The expected largest of `draws` independent draws, with replacement, from counts of shape (samples,)."""
    values, frequencies = np.unique(np.asarray(counts, dtype=np.float64), return_counts=True)
    below = np.cumsum(frequencies) / frequencies.sum()
    return float(values @ np.diff(below**draws, prepend=0.0))


@dataclass(frozen=True)
class Kind:
    """Steps whose samples can stand for each other: with a pool, those that solve in full, or those that continue."""

    steps: Sequence[Sequence[int]]
    """The counts of each step's samples."""
    limit: int | None = None
    """As if one more sample had taken that many: samples that were not seen may be slower than all that were, but not
    slower than the solver's limit. None counts on no sample slower than those seen."""


def expected_slowest(kinds: Sequence[Kind], draws: int) -> float:
    """The expected count of the slowest of `draws` samples of one kind, as a mean over the steps of all kinds."""
    known = [kind for kind in kinds if len(kind.steps)]
    expected = [
        len(kind.steps) * expected_maximum([*chain(*kind.steps), *([] if kind.limit is None else [kind.limit])], draws)
        for kind in known
    ]
    return sum(expected) / sum(len(kind.steps) for kind in known) if known else 0.0


@dataclass(frozen=True)
class Point:
    """The work of one training step, on average, and how long it took."""

    ranks: int
    batch: int
    """Samples per rank."""
    evaluations: float
    """Evaluations of T by the slowest sample of all ranks, the one that carries the gradient included."""
    products: float
    """Backward passes through T for the slowest sample of all ranks, the one to the parameters included."""
    gradient_bytes: float
    seconds: float = math.nan
    """Measured."""


@dataclass(frozen=True)
class Work:
    """What a rank's work costs."""

    step: float
    """Seconds per step."""
    evaluation: float
    """Seconds per evaluation of T, whatever the batch."""
    sample: float
    """Seconds per evaluation of T and sample."""
    product: float
    """The time of a backward pass through T over that of an evaluation."""

    def seconds(self, point: Point) -> float:
        """The time until the slowest rank is ready to synchronize."""
        passes = point.evaluations + self.product * point.products
        return self.step + passes * (self.evaluation + self.sample * point.batch)

    def last_product(self, batch: int) -> float:
        """Seconds of the backward pass to the parameters, which may hide communication."""
        return self.product * (self.evaluation + self.sample * batch)


def fit_work(points: Sequence[Point], link: Link = NO_LINK) -> Work:
    """The costs that best explain measured steps, by their relative errors; none is negative.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("no point")
    alone = np.array([max(p.seconds - link.exposed(p.ranks, p.gradient_bytes), 1e-9) for p in points])

    def solve(product: float) -> tuple[npt.NDArray[np.float64], float]:
        passes = [(point.evaluations + product * point.products, point.batch) for point in points]
        amounts = np.array([(1.0, count, count * batch) for count, batch in passes])
        return nnls(amounts / alone[:, None], np.ones(len(points)))

    best = minimize_scalar(lambda power: solve(2.0**power)[1], bounds=PRODUCT_POWERS, method="bounded").x
    step, evaluation, sample = map(float, solve(2.0**best)[0])
    return Work(step, evaluation, sample, float(2.0**best))


def predict(point: Point, work: Work, link: Link, algorithm: Algorithm = "ring") -> float:
    """Seconds of a step with this work."""
    hiding = work.last_product(point.batch)
    return work.seconds(point) + link.exposed(point.ranks, point.gradient_bytes, hiding, algorithm)
