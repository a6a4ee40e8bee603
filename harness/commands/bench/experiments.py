"""The other experiments: cost at equal error, forward solves, invariances, memory format and compilation."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.commands.bench import methods, peers
from harness.commands.bench.case import Case, CompiledCase, Residual
from harness.commands.bench.observation import (
    CountedMap,
    Gradient,
    Method,
    Spread,
    Work,
    in_turns,
    measure_error,
    measure_work,
    seconds,
    spread,
)
from harness.config.build import build
from harness.config.catalog.solvers import Anderson, Broyden, Picard
from harness.implicit.solvers import Function, Solver, per_sample_norm
from harness.models.equilibrium import compile_map
from harness.models.networks import OUTPUT_SCALE

EQUAL_ERROR = 1e-4
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
FORWARD_TOL = 1e-5
PIXEL_SCALE = 255.0
LOSS_SCALE = 1e-3
STEPS = 10
"""Number of evaluations timed together, because one is too short for the clock."""


@dataclass(frozen=True)
class EqualErrorRow:
    """Implicit differentiation at the loosest tolerance that reaches EQUAL_ERROR; lists have one entry per problem."""

    library: str
    name: str
    tol: list[float]
    work: list[Work]
    time: Spread
    """Time as a multiple of the first row's on the same problem in the same round, over problems and rounds."""


@dataclass(frozen=True)
class ForwardRow:
    """One forward solve."""

    library: str
    name: str
    evaluations: int
    residual: float
    """The largest |T(x) - x| / |T(x)| over the samples, computed afterward."""


@dataclass(frozen=True)
class Invariance:
    """How much a result changes if only the units or the batch change."""

    library: str
    solver: str
    change: str
    evaluations: tuple[int, int]
    """Before and after the change; for adjoint solves, the number of products with the Jacobian."""
    difference: float
    """Relative difference in the norm of the whole result."""


@dataclass(frozen=True)
class MemoryFormat:
    """Time with the default memory format as a multiple of the time with channels_last."""

    step: Spread
    """One evaluation without a graph."""
    gradient: Spread
    """One evaluation with its backward pass."""


@dataclass(frozen=True)
class Compiled:
    """Time with T compiled by torch.compile as a multiple of the time without."""

    step: Spread
    """One evaluation without a graph."""
    jfb: Spread
    """One evaluation with its backward pass."""
    implicit: Spread
    """A gradient by the first method of the equal-error table, including both solves."""
    seconds: float
    """Time to compile T with and without a graph, which each job pays once."""


def at_equal_error(problems: Sequence[Case], rounds: int) -> list[EqualErrorRow]:
    """Measure implicit differentiation, each method at the loosest of TOLERANCES that reaches EQUAL_ERROR."""
    columns = [_loosest_sufficient(case) for case in problems]
    jobs = [
        partial(seconds, case, method.gradient)
        for case, column in zip(problems, columns, strict=True)
        for _, method, _ in column
    ]
    times = in_turns(rounds, jobs).reshape(rounds * len(problems), -1)
    return [
        EqualErrorRow(
            library=row[0][1].library,
            name=row[0][1].name,
            tol=[tol for tol, _, _ in row],
            work=[work for _, _, work in row],
            time=spread(times[:, i] / times[:, 0]),
        )
        for i, row in enumerate(zip(*columns, strict=True))
    ]


def _loosest_sufficient(case: Case) -> list[tuple[float, Method, Work]]:
    """Every method at its own loosest sufficient tolerance, with its work."""
    reference = case.exact_gradient()
    at = {tol: _implicit(tol) for tol in TOLERANCES}
    found = []
    for i in range(len(at[TOLERANCES[0]])):
        good = (tol for tol in TOLERANCES if measure_error(case, at[tol][i].gradient, reference) <= EQUAL_ERROR)
        tol = next(good, TOLERANCES[-1])
        found.append((tol, at[tol][i], measure_work(case, at[tol][i].gradient, reference)))
    return found


@torch.no_grad()
def forward_solves(case: Case) -> list[ForwardRow]:
    """Count the evaluations that each solver needs for a relative residual of FORWARD_TOL."""
    rows = []
    for library, name, solve in _forward_solvers():
        evaluations, x = _count(solve, case.T, case.start())
        image = case.T(x)
        residual = per_sample_norm(image - x) / per_sample_norm(image)
        rows.append(ForwardRow(library, name, evaluations, float(residual.max())))
    return rows


@torch.no_grad()
def forward_invariances(case: Case) -> list[Invariance]:
    """Compare forward solves with those of a duplicated batch, and of pixel values 255 times as large."""
    twice = case.duplicated()
    rows = []

    def larger(x: Tensor) -> Tensor:
        return PIXEL_SCALE * case.T(x / PIXEL_SCALE)

    for library, name, solve in _forward_solvers():
        nfe, x = _count(solve, case.T, case.start())
        nfe_twice, x_twice = _count(solve, twice.T, twice.start())
        nfe_larger, x_larger = _count(solve, larger, PIXEL_SCALE * case.start())
        rows += [
            Invariance(library, name, "batch duplicated", (nfe, nfe_twice), _relative(x_twice[: len(x)], x)),
            Invariance(library, name, "pixels x 255", (nfe, nfe_larger), _relative(x_larger / PIXEL_SCALE, x)),
        ]
    return rows


def adjoint_invariances(case: Case) -> list[Invariance]:
    """Compare gradients with those of a loss scaled by 0.001."""
    rows = []
    for method in _implicit(methods.ADJOINT_TOL):
        (products, gradient), (products_small, gradient_small) = (
            _adjoint(case, method.gradient, scale) for scale in (1.0, LOSS_SCALE)
        )
        difference = _relative(gradient_small / LOSS_SCALE, gradient)
        rows.append(Invariance(method.library, method.name, "loss x 0.001", (products, products_small), difference))
    return rows


def memory_formats(case: Case, rounds: int) -> MemoryFormat:
    """Time the same map with N's weights and features in either memory format."""
    plain = copy.deepcopy(case)
    assert isinstance(plain.map.network, Residual)
    # Our DnCNN converts its input to channels_last, whereas its layers alone keep the format they are given.
    layers = nn.Sequential(*plain.map.network.network.children())
    for parameter in layers.parameters():
        parameter.data = parameter.data.contiguous()
    for parameter in layers[-1].parameters():
        parameter.data *= OUTPUT_SCALE
    plain.map.network = Residual(layers)

    jobs = [partial(_steps, one) for one in (plain, case)]
    jobs += [partial(seconds, one, methods.floor(0)) for one in (plain, case)]
    for job in jobs:
        job()
    times = in_turns(max(rounds, 5), jobs)
    return MemoryFormat(spread(times[:, 0] / times[:, 1]), spread(times[:, 2] / times[:, 3]))


def compiled(case: Case, rounds: int) -> Compiled:
    """Time the same problem with T uncompiled and compiled, in turns."""
    fused = CompiledCase(case.map, case.d, case.target, compile_map(case.map))
    gradients = [methods.floor(0), methods.our_implicit(EQUAL_ERROR)[0].gradient]
    jobs = [partial(_steps, one) for one in (case, fused)]
    jobs += [partial(seconds, one, gradient) for gradient in gradients for one in (case, fused)]
    begin = time.perf_counter()
    for job in jobs[1::2]:
        job()
    spent = time.perf_counter() - begin
    times = in_turns(max(rounds, 5), jobs)
    step, jfb, implicit = (spread(times[:, i + 1] / times[:, i]) for i in (0, 2, 4))
    return Compiled(step, jfb, implicit, spent)


@torch.no_grad()
def _steps(case: Case) -> float:
    """Time of STEPS evaluations of T in seconds."""
    state = case.start()
    begin = time.perf_counter()
    for _ in range(STEPS):
        state = case.T(state)
    return time.perf_counter() - begin


def _implicit(tol: float) -> list[Method]:
    return [*methods.our_implicit(tol), *(peers.implicit(tol) if peers.installed() else [])]


ForwardSolve = Callable[[Function, Tensor], Tensor]


def _forward_solvers() -> list[tuple[str, str, ForwardSolve]]:
    specs = [spec(tol=FORWARD_TOL, max_steps=methods.MAX_STEPS) for spec in (Picard, Anderson, Broyden)]
    theirs = peers.forward_solvers(FORWARD_TOL) if peers.installed() else {}
    return [
        *(("jfbench", spec.name, partial(_value, build(spec))) for spec in specs),
        *((peers.NAME, name, solve) for name, solve in theirs.items()),
    ]


def _value(solver: Solver, f: Function, start: Tensor) -> Tensor:
    return solver(f, start).value


def _count(solve: ForwardSolve, f: Function, start: Tensor) -> tuple[int, Tensor]:
    counted = CountedMap(f)
    value = solve(counted, start)
    return counted.evaluations, value


def _adjoint(case: Case, gradient: Gradient, scale: float) -> tuple[int, Tensor]:
    counted = CountedMap(case.T)
    case.map.zero_grad()
    (scale * case.loss(gradient(counted, case.start()))).backward()
    return counted.products, case.gradient()


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
