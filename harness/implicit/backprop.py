"""Ways to backpropagate through a fixed point s* = T(s*; Theta). Each is a small value handed to the model.

A method solves the forward problem with the solver it is given and returns a state that carries the gradient, so
training always ends in `loss.backward()`: DistributedDataParallel's reducer sees every gradient (`torch.autograd.grad`
on parameters would bypass it). Below, v = dl/ds at s*, J = dT/ds, and every product J^T v is one vector-Jacobian
product with respect to the state alone; parameters come in once, at the end.
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
"""Names the phase that the enclosed code belongs to; handed in by whoever measures."""


def untimed(phase: str) -> AbstractContextManager[Any]:
    """Measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Problem:
    """One fixed-point problem s = f(s), and what else a backprop method may need to know of it."""

    f: Function
    """s -> T(s; d), differentiable in the parameters."""
    start: Tensor
    """(batch, ...): where the forward solve starts."""
    solver: Solver
    """Finds the fixed point."""
    timed: Timed = untimed
    """Names the phases of the solve for whoever measures them."""
    draws: Tensor | None = None
    """(batch,): one number per sample, uniform on [0, 1), for methods that are random. The caller draws it from the
    identity of the sample, so that a gradient depends neither on the batch nor on the ranks."""
    adjoint_start: Tensor | None = None
    """(batch, ...): the earlier adjoint solution of the same samples, from which an iterative adjoint solver may go on;
    None starts afresh."""

    progress: float = 1.0
    """Share of the training that is done, for methods whose accuracy follows it; 1 outside of training."""

    def solve(self) -> Solution:
        """The forward solve, without a graph."""
        with self.timed("forward_solve"), torch.no_grad():
            return self.solver(self.f, self.start)


@dataclass
class Differentiable:
    """A state that carries the gradient, and how it was found."""

    state: Tensor
    """(batch, ...): T(s*), attached to the graph of the parameters."""
    forward: Solution
    adjoint: list[Solution] = field(default_factory=list)
    """Filled during `loss.backward()` by methods that solve an adjoint equation."""


class Backprop(Protocol):
    """One way to backpropagate."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Find the fixed point of the problem and attach its gradient."""


@dataclass(frozen=True)
class Jfb:
    """The gradient v dT/dTheta: (I - J)^-1 replaced by I (Fung et al. 2022; paper, eq. 6)."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, then one step with it."""
        solution = problem.solve()
        return Differentiable(problem.f(solution.value), solution)


@dataclass(frozen=True)
class Implicit:
    """The exact gradient v (I - J)^-1 dT/dTheta (paper, eq. 5): w = v + J^T w is solved by `solver`."""

    solver: AdjointSolver
    first_tol: float | None = None
    """Tolerance at the start of training, from which it falls geometrically to the solver's own; None: always that."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, one step with it, and replace v by w on its way back."""
        return attach(problem, self.solver_at(problem.progress).solve_adjoint)

    def solver_at(self, progress: float) -> AdjointSolver:
        """The adjoint solver with the tolerance that is due after this share of the training."""
        if self.first_tol is None:
            return self.solver
        solver: Any = self.solver
        tightened: AdjointSolver = replace(solver, tol=self.first_tol ** (1 - progress) * solver.tol**progress)
        return tightened


@dataclass(frozen=True)
class Neumann:
    """The first terms of the series of (I - J)^-1: w = sum over j <= order of (J^T)^j v (order 0 is JFB)."""

    order: int

    def __call__(self, problem: Problem) -> Differentiable:
        """`order` plain iterations of w <- v + J^T w, started at v."""
        if self.order == 0:
            return Jfb()(problem)
        return attach(problem, self._sum)

    def _sum(self, equation: Adjoint) -> Solution:
        """Always from v: from elsewhere it would be another sum."""
        return Picard(tol=None, max_steps=self.order).solve_adjoint(replace(equation, start=None))


@dataclass(frozen=True)
class StochasticNeumann:
    """The whole series in the mean: cut at a random depth, each term divided by the probability to reach it.

    Term j is reached with probability `continuation`^j (Russian roulette; Chen et al. 2019 for residual flows). The
    gradient is unbiased if the series converges, and its variance is finite if |J|^2 < continuation.
    """

    continuation: float

    def __call__(self, problem: Problem) -> Differentiable:
        """Every sample stops at the depth that its own draw says."""
        return attach(problem, partial(self._sum, problem.draws))

    def _sum(self, draws: Tensor | None, equation: Adjoint) -> Solution:
        """One truncated series a sample; its residual is the last term's share, as for `Neumann`."""
        assert draws is not None, "a random gradient needs one draw a sample"
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
    """The adjoint solved by Broyden's estimate of (I - J)^-1 from the forward solve, transposed (Ramzi et al. 2022)."""

    def __call__(self, problem: Problem) -> Differentiable:
        """A Broyden solve without a graph, one step with it; no product with the Jacobian."""
        solver, start = problem.solver, at_least_float32(problem.start)
        assert isinstance(solver, Broyden), "the catalog lets no other solver through"
        estimate = solver.begin(start)
        with problem.timed("forward_solve"), torch.no_grad():
            solution = solver.iterate(problem.f, start, estimate)

        def transform(v: Tensor, inner: Tensor, outer: Tensor, matrix: Tensor) -> Tensor:
            with problem.timed("adjoint_solve"):
                return apply(inner, outer, matrix, at_least_float32(v).flatten(1)).view_as(v)

        return Differentiable(Replace.apply(problem.f(solution.value), transform, *estimate.transposed()), solution)


@dataclass(frozen=True)
class Phantom:
    """Through `steps` damped steps s <- (1 - tau) s + tau T(s), started at s* (Geng et al. 2021)."""

    steps: int
    tau: float

    def __call__(self, problem: Problem) -> Differentiable:
        """Solve without a graph, then a few steps with it."""
        solution = problem.solve()
        state = solution.value
        for _ in range(self.steps):
            stepped = problem.f(state)
            state = stepped if self.tau == 1 else torch.lerp(state, stepped.to(state.dtype), self.tau)
        return Differentiable(state, solution)


@dataclass(frozen=True)
class Truncated:
    """Through the last `steps` plain steps only, those taken at s* (one step is JFB)."""

    steps: int

    def __call__(self, problem: Problem) -> Differentiable:
        """Phantom steps without damping."""
        return Phantom(self.steps, tau=1.0)(problem)


@dataclass(frozen=True)
class Unrolled:
    """Automatic differentiation through `steps` plain steps; the cell's solver is not used (deep unrolling)."""

    steps: int
    checkpoint: bool = False
    """Keep only the states, and compute each step a second time on the way back."""

    def __call__(self, problem: Problem) -> Differentiable:
        """Every step is part of the graph."""
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
    """Identity forward; backward replaces the incoming v by `transform(v, *saved)`."""

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
    """Solve, then one step from s* with a graph; on its way back v is replaced by `solve`'s adjoint solution."""
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
    """J^T w on the graph of `output` = f(`at`), which is kept for the next product."""
    return torch.autograd.grad(output, at, w, retain_graph=True)[0]


def jvp(f: Function, at: Tensor, u: Tensor) -> Tensor:
    """J u at `at`, in forward mode: about three vjps' time, but no second graph as for differentiating one again."""
    with torch.no_grad():
        return torch.func.jvp(f, (at.detach(),), (u.to(at.dtype),))[1].to(u.dtype)
