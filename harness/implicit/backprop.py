"""Ways to backpropagate through a fixed point s* = T(s*; Theta). Each is a small value that the model receives.

A method solves the forward problem with the given solver and returns a state that carries the gradient. Training thus
always ends in `loss.backward()`, and DistributedDataParallel's reducer sees every gradient (`torch.autograd.grad` on
parameters would bypass it). Below, v = dl/ds at s* and J = dT/ds. Every product J^T v is one vector-Jacobian product
with respect to the state alone; the parameters are differentiated only once, at the end.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function as AutogradFunction
from torch.utils.checkpoint import checkpoint

from harness.implicit.broyden import Broyden, apply
from harness.implicit.solvers import (
    Adjoint,
    AdjointSolver,
    Function,
    Picard,
    Solution,
    Solver,
    Status,
    at_least_float32,
    keep,
    per_sample_norm,
    ratio,
)

Timed = Callable[[str], AbstractContextManager[Any]]
"""Attributes the enclosed code to a named phase; supplied by the code that measures."""


def untimed(phase: str) -> AbstractContextManager[Any]:
    """Measure nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Problem:
    """One fixed-point problem s = f(s), and what else a backprop method may need to know about it."""

    f: Function
    """s -> T(s; d), differentiable in the parameters."""
    start: Tensor
    """(batch, ...): where the forward solve starts."""
    solver: Solver
    """Finds the fixed point."""
    timed: Timed = untimed
    """Names the phases of the solve for the code that measures them."""
    draws: Tensor | None = None
    """(batch,): one number per sample, uniform on [0, 1), for random methods. The caller derives it from the identity
    of the sample, so that a gradient depends neither on the batch nor on the ranks."""
    adjoint_start: Tensor | None = None
    """(batch, ...): an earlier adjoint solution of the same samples, from which an adjoint solver may continue; None
    means that there is none."""
    progress: float = 1.0
    """Share of the training that is done, for methods whose accuracy depends on it; 1 outside training."""

    def solve(self) -> Solution:
        """Run the forward solve, without a graph."""
        with self.timed("forward_solve"), torch.no_grad():
            return self.solver(self.f, self.start)


@dataclass
class Differentiable:
    """A state that carries the gradient, and how it was found."""

    state: Tensor
    """(batch, ...): T(s*), attached to the graph of the parameters."""
    forward: Solution
    """The outcome of the forward solve."""
    adjoint: list[Solution] = field(default_factory=list)
    """Filled during `loss.backward()` by methods that solve an adjoint equation."""


class Backprop(Protocol):
    """One way to backpropagate."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Find the fixed point of the problem and attach its gradient."""


@dataclass(frozen=True)
class Jfb:
    """The gradient v dT/dTheta, in which I replaces (I - J)^-1 (Fung et al. 2022; paper, eq. 6)."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, then take one step with it."""
        solution = problem.solve()
        return Differentiable(problem.f(solution.value), solution)


@dataclass(frozen=True)
class Implicit:
    """The exact gradient v (I - J)^-1 dT/dTheta (paper, eq. 5): `solver` solves w = v + J^T w."""

    solver: AdjointSolver
    first_tol: float | None = None
    """Tolerance at the start of training, which falls geometrically to the solver's own; None always uses that."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, take one step with it, and replace v by w in the backward pass."""
        return attach(problem, self.solver_at(problem.progress).solve_adjoint)

    def solver_at(self, progress: float) -> AdjointSolver:
        """The adjoint solver with the tolerance that applies after this share of the training."""
        if self.first_tol is None:
            return self.solver
        solver: Any = self.solver
        tightened: AdjointSolver = replace(solver, tol=self.first_tol ** (1 - progress) * solver.tol**progress)
        return tightened


@dataclass(frozen=True)
class Neumann:
    """The first terms of the Neumann series of (I - J)^-1: w = sum over j <= order of (J^T)^j v (order 0 is JFB)."""

    order: int

    def __call__(self, problem: Problem) -> Differentiable:
        """Make `order` plain iterations of w <- v + J^T w, starting at v."""
        if self.order == 0:
            return Jfb()(problem)
        return attach(problem, self._sum)

    def _sum(self, equation: Adjoint) -> Solution:
        """Start at v, whatever `equation.start` is: another start would give another sum."""
        return Picard(tol=None, max_steps=self.order).solve_adjoint(replace(equation, start=None))


@dataclass(frozen=True)
class StochasticNeumann:
    """The whole series on average: it is truncated at a random depth, each term divided by its probability.

    Term j is reached with probability `continuation`^j (Russian roulette; Chen et al. 2019 for residual flows). The
    gradient is unbiased if the series converges, and its variance is finite if |J|^2 < continuation.
    """

    continuation: float

    def __call__(self, problem: Problem) -> Differentiable:
        """Truncate the series of each sample at the depth that its own draw determines."""
        return attach(problem, partial(self._sum, problem.draws))

    def _sum(self, draws: Tensor | None, equation: Adjoint) -> Solution:
        """One truncated series per sample; as for `Neumann`, its residual is the relative size of the last term."""
        assert draws is not None, "a random gradient needs one draw per sample"
        depth = (torch.log1p(-draws.double()) / math.log(self.continuation)).long()
        v = w = term = last = at_least_float32(equation.v)
        for j in range(1, int(depth.max()) + 1):
            term = equation.vjp(term) / self.continuation
            w, last = keep(depth >= j, w + term, w), keep(depth >= j, term, last)
        finite = w.flatten(1).isfinite().all(dim=1)
        status = torch.full_like(depth, Status.FIXED_STEPS).masked_fill(~finite, Status.DIVERGED)
        return Solution(keep(finite, w, v), ratio(per_sample_norm(last), per_sample_norm(w)), depth, status)


@dataclass(frozen=True)
class Shine:
    """The adjoint solution by the transpose of the forward solve's estimate of (I - J)^-1 (Ramzi et al. 2022)."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve by Broyden's method without a graph, then take one step with it; no product with J is needed."""
        solver, start = problem.solver, at_least_float32(problem.start)
        assert isinstance(solver, Broyden), "the catalog allows no other solver"
        estimate = solver.begin(start)
        with problem.timed("forward_solve"), torch.no_grad():
            solution = solver.iterate(problem.f, start, estimate)

        def transform(v: Tensor, inner: Tensor, outer: Tensor, matrix: Tensor) -> Tensor:
            with problem.timed("adjoint_solve"):
                return apply(inner, outer, matrix, at_least_float32(v).flatten(1)).view_as(v)

        return Differentiable(Replace.apply(problem.f(solution.value), transform, *estimate.transposed()), solution)


@dataclass(frozen=True)
class Phantom:
    """Differentiation through `steps` damped steps s <- (1 - tau) s + tau T(s) that start at s* (Geng et al. 2021)."""

    steps: int
    tau: float

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, then take a few steps with it."""
        solution = problem.solve()
        state = solution.value
        for _ in range(self.steps):
            stepped = problem.f(state)
            state = stepped if self.tau == 1 else torch.lerp(state, stepped.to(state.dtype), self.tau)
        return Differentiable(state, solution)


@dataclass(frozen=True)
class Truncated:
    """Differentiation through the last `steps` plain steps only, which are taken at s* (one step is JFB)."""

    steps: int

    def __call__(self, problem: Problem) -> Differentiable:
        """Take phantom steps without damping."""
        return Phantom(self.steps, tau=1.0)(problem)


@dataclass(frozen=True)
class Unrolled:
    """Automatic differentiation through `steps` plain steps; the cell's solver is not used (deep unrolling)."""

    steps: int
    checkpoint: bool = False
    """Store only the states, and compute each step a second time in the backward pass."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Take every step with a graph."""
        state = previous = problem.start
        with problem.timed("forward_solve"):
            for _ in range(self.steps):
                previous, state = state, self._step(problem.f, state)
        with torch.no_grad():
            residual = ratio(per_sample_norm(state - previous), per_sample_norm(state))
        nfe = torch.full((len(state),), self.steps, device=state.device)
        status = torch.where(residual.isfinite(), Status.FIXED_STEPS, Status.DIVERGED)
        return Differentiable(state, Solution(state.detach(), residual, nfe, status))

    def _step(self, f: Function, state: Tensor) -> Tensor:
        if self.checkpoint:
            # A map draws no random numbers, so there is no generator to restore.
            return checkpoint(f, state, use_reentrant=False, preserve_rng_state=False)
        return f(state)


class Replace(AutogradFunction):
    """The identity, whose backward pass replaces the incoming v by `transform(v, *saved)`."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, transform: Callable[..., Tensor], *saved: Tensor) -> Tensor:
        """The state itself."""
        ctx.transform = transform
        ctx.save_for_backward(*saved)
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The transformed gradient."""
        (v,) = gradients
        return ctx.transform(v, *ctx.saved_tensors).to(v.dtype), None, *[None] * len(ctx.saved_tensors)


def attach(problem: Problem, solve: Callable[[Adjoint], Solution]) -> Differentiable:
    """Solve, then take one step from s* with a graph, whose backward pass replaces v by the solution of `solve`."""
    solution = problem.solve()
    at = solution.value.detach().requires_grad_()
    state = problem.f(at)
    adjoint: list[Solution] = []

    def transform(v: Tensor) -> Tensor:
        with problem.timed("adjoint_solve"):
            equation = Adjoint(v, partial(vjp, state, at), partial(jvp, problem.f, at), problem.adjoint_start)
            adjoint.append(solve(equation))
            return adjoint[-1].value

    return Differentiable(Replace.apply(state, transform), solution, adjoint)


def vjp(output: Tensor, at: Tensor, w: Tensor) -> Tensor:
    """J^T w on the graph of `output` = f(`at`), which is retained for the next product."""
    return torch.autograd.grad(output, at, w, retain_graph=True)[0]


def jvp(f: Function, at: Tensor, u: Tensor) -> Tensor:
    """J u at `at`, in forward mode. It takes about three times as long as a vjp, but needs no second graph."""
    with torch.no_grad():
        return torch.func.jvp(f, (at.detach(),), (u.to(at.dtype),))[1].to(u.dtype)
