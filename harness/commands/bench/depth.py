"""The cost of a gradient after K steps: every method at every depth, and JFB compared with its floor."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.commands.bench import methods, peers
from harness.commands.bench.case import Case
from harness.commands.bench.observation import Method, Spread, Work, in_turns, measure_work, seconds, spread


@dataclass(frozen=True)
class DepthRow:
    """One method at every depth; lists have one entry per depth."""

    library: str
    name: str
    flat: bool
    time: list[Spread]
    """Time as a multiple of the floor's at the same depth in the same round."""
    time_slope: Spread
    """Time per additional step as a multiple of the floor's."""
    work: list[Work]
    saved_slope: float
    """Saved bytes per additional step."""
    peak_slope: float
    """Peak bytes per additional step."""


@dataclass(frozen=True)
class FloorRow:
    """Times of gradients at one depth, each divided by the mean of the floors just before and just after it."""

    depth: int
    pairs: int
    jfb: Spread
    again: Spread
    """The floor measured in the same way, which shows what this machine can resolve."""


def against_depth(case: Case, depths: Sequence[int], rounds: int) -> list[DepthRow]:
    """Measure every method of every library at every depth."""
    reference = case.exact_gradient()
    columns = [_methods(depth) for depth in depths]
    work = [[measure_work(case, method.gradient, reference) for method in column] for column in columns]
    jobs = [
        partial(seconds, case, gradient)
        for depth, column in zip(depths, columns, strict=True)
        for gradient in (methods.floor(depth), *(method.gradient for method in column))
    ]
    times = in_turns(rounds, jobs).reshape(rounds, len(depths), -1)
    floor = times[:, :, 0]
    floor_slopes = [_slope(depths, row) for row in floor]

    def row(i: int, method: Method) -> DepthRow:
        mine = times[:, :, i + 1]
        slopes = [_slope(depths, row) / base for row, base in zip(mine, floor_slopes, strict=True)]
        works = [column[i] for column in work]
        return DepthRow(
            library=method.library,
            name=method.name,
            flat=method.flat,
            time=[spread(ratios) for ratios in (mine / floor).T],
            time_slope=spread(slopes),
            work=works,
            saved_slope=_slope(depths, [w.saved_bytes for w in works]),
            peak_slope=_slope(depths, [w.peak_bytes for w in works]),
        )

    return [row(i, method) for i, method in enumerate(columns[0])]


def against_floor(case: Case, depths: Sequence[int], evaluations: int) -> list[FloorRow]:
    """Time JFB between two floors many times, because the machine's speed differs between minutes.

    Each depth K has evaluations / K pairs, but at least two.
    """
    return [_beside_floor(case, depth, max(2, evaluations // depth)) for depth in depths]


def _beside_floor(case: Case, depth: int, pairs: int) -> FloorRow:
    (jfb,) = [method for method in methods.our_methods(depth) if method.name == "jfb"]
    floor = methods.floor(depth)
    # The floor is also compared with itself, as the middle one of the last three.
    turns = (floor, jfb.gradient, floor, floor, floor)
    times = np.array([[seconds(case, gradient) for gradient in turns] for _ in range(pairs)])
    before, mine, between, again, after = times.T
    return FloorRow(
        depth, pairs, jfb=spread(2 * mine / (before + between)), again=spread(2 * again / (between + after))
    )


def _methods(depth: int) -> list[Method]:
    """All methods: plain loops, ours, and the peers' equivalents if installed."""
    theirs = peers.at_depth(depth) if peers.installed() else []
    return [*methods.plain_loops(depth), *methods.our_methods(depth), *theirs]


def _slope(depths: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the least-squares line; exactly zero for equal values."""
    return statistics.linear_regression(depths, list(values)).slope
