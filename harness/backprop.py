"""Ways to backpropagate through a fixed point s* = T(s*; Theta). Each is a small value handed to the model.

A method solves the forward problem with the solver it is given and returns a state that carries the gradient, so
training always ends in `loss.backward()`: DistributedDataParallel's reducer sees every gradient (`torch.autograd.grad`
on parameters would bypass it). Below, v = dl/ds at s*, J = dT/ds, and every product v J is one vector-Jacobian
product with respect to the state alone; parameters come in once, at the end.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from harness.solvers import Function as Map
from harness.solvers import Solution, Solver, Status, per_sample_norm

Timed = Callable[[str], AbstractContextManager[Any]]
"""Names the phase that the enclosed code belongs to; handed in by whoever measures."""


def untimed(phase: str) -> AbstractContextManager[Any]:
    """Measures nothing."""
    return nullcontext()


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

    def __call__(self, f: Map, start: Tensor, solver: Solver, timed: Timed = untimed) -> Differentiable:
        """Find the fixed point of f from `start` and attach its gradient."""


@dataclass(frozen=True)
class Jfb:
    """The gradient v dT/dTheta: (I - J)^-1 replaced by I (Fung et al. 2022; paper, eq. 6)."""

    def __call__(self, f: Map, start: Tensor, solver: Solver, timed: Timed = untimed) -> Differentiable:
        """Solve without a graph, then one step with it."""
        solution = fixed_point(f, start, solver, timed)
        return Differentiable(f(solution.value), solution)


@dataclass(frozen=True)
class Implicit:
    """The exact gradient v (I - J)^-1 dT/dTheta (paper, eq. 5): w = v + w J is solved by `solver`."""

    solver: Solver

    def __call__(self, f: Map, start: Tensor, solver: Solver, timed: Timed = untimed) -> Differentiable:
        """Solve without a graph, one step with it, and replace v by w on its way back."""
        solution = fixed_point(f, start, solver, timed)
        at = solution.value.detach().requires_grad_()
        state = f(at)
        adjoint: list[Solution] = []

        def solve(v: Tensor) -> Tensor:
            with timed("adjoint_solve"):
                adjoint.append(self.solver(lambda w: v + vjp(state, at, w), v))
                return adjoint[-1].value

        return Differentiable(Replace.apply(state, solve), solution, adjoint)


@dataclass(frozen=True)
class Unrolled:
    """Automatic differentiation through `steps` plain steps; the cell's solver is not used (deep unrolling)."""

    steps: int

    def __call__(self, f: Map, start: Tensor, solver: Solver, timed: Timed = untimed) -> Differentiable:
        """Every step is part of the graph."""
        state = previous = start
        with timed("forward_solve"):
            for _ in range(self.steps):
                previous, state = state, f(state)
        with torch.no_grad():
            residual = per_sample_norm(state - previous) / per_sample_norm(state)
        nfe = torch.full((len(start),), self.steps, device=start.device)
        status = torch.where(residual.isfinite(), Status.MAX_STEPS, Status.DIVERGED)
        return Differentiable(state, Solution(state.detach(), residual, nfe, status))


class Replace(Function):
    """Identity forward; backward replaces the incoming v by `transform(v)`."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
        """The state itself."""
        ctx.transform = transform
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The transformed gradient."""
        return ctx.transform(gradients[0]), None


def fixed_point(f: Map, start: Tensor, solver: Solver, timed: Timed) -> Solution:
    """The forward solve, without a graph."""
    with timed("forward_solve"), torch.no_grad():
        return solver(f, start)


def vjp(output: Tensor, at: Tensor, w: Tensor) -> Tensor:
    """w J on the graph of `output` = f(`at`), which is kept for the next product."""
    return torch.autograd.grad(output, at, w, retain_graph=True)[0]
