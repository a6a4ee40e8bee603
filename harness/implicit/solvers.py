"""Fixed-point solvers for x = f(x), used for the forward solve and, with w -> v + J^T w, for the adjoint solve.

Every solver stops each sample on its own relative residual |f(x) - x| / |f(x)|, so a result does not depend on how a
batch is composed or sharded; a stopped sample stays frozen. A solver never raises: divergence is a status.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Advance = Callable[[Tensor, Tensor], Tensor]
"""(x, f(x)) -> next x; may remember earlier calls. It is called once after every evaluation, including the last."""

HOST_CHECK_EVERY = 4
"""Iterations between two checks of whether every sample has stopped, on devices where a check stalls the queue."""
GROWTH_LIMIT = 1e3
"""A sample has diverged if |f(x) - x| grows by this factor over its first value, or over sqrt(eps) times the first
|f(x)| if that is larger."""


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    FIXED_STEPS = 3
    """It took the requested number of steps; there was no tolerance to meet."""


@dataclass(frozen=True)
class Solution:
    """The result of a solve; every tensor except `value` has one entry per sample."""

    value: Tensor
    """(batch, ...): the iterate of least residual, or the last one if tol is None."""
    residual: Tensor
    """(batch,): relative residual of the best evaluated iterate: |f(x) - x| / |f(x)|, or over |v| in adjoint solves."""
    nfe: Tensor
    """(batch,): evaluations of f, or products with the Jacobian, that the sample needed."""
    status: Tensor
    """(batch,): `Status` codes."""


@dataclass(frozen=True)
class Adjoint:
    """The adjoint equation w = v + J^T w, one linear system per sample, known only through products."""

    v: Tensor
    """(batch, ...): the right-hand side."""
    vjp: Function
    """w -> J^T w."""
    jvp: Function
    """u -> J u; costs about three times as much as `vjp`."""
    start: Tensor | None = None
    """(batch, ...): an earlier w, from which a solver may continue; None means that there is none."""


class AdjointSolver(Protocol):
    """Solves the adjoint equation, as every fixed-point solver and every linear solver does."""

    def solve_adjoint(self, equation: Adjoint) -> Solution:
        """Find w."""


@dataclass(frozen=True)
class Solver(ABC):
    """`solver(f, x0)` finds x = f(x); samples lie along the first dimension."""

    tol: float | None
    """Relative residual at which a sample stops; None runs exactly `max_steps` evaluations."""
    max_steps: int

    @abstractmethod
    def begin(self, x0: Tensor) -> Advance:
        """A new update rule for one solve."""

    def __call__(self, f: Function, x0: Tensor) -> Solution:
        """Iterate from x0, shape (batch, ...), until every sample has stopped or `max_steps` evaluations are done."""
        x0 = at_least_float32(x0)
        return self.iterate(f, x0, self.begin(x0))

    def iterate(self, f: Function, x0: Tensor, advance: Advance, length: Tensor | None = None) -> Solution:
        """Iterate with an update rule that the caller keeps. The state is in float32 or wider, whatever f returns.

        Residuals are relative to |f(x)|, or to `length`, (batch,), if it is given.
        """
        x = best = x0
        progress = Progress(x0, -1.0 if self.tol is None else self.tol)
        growth_bound: Tensor | None = None
        for step in range(self.max_steps):
            fx = f(x).to(x.dtype)
            difference, scale = per_sample_norm(fx - x), per_sample_norm(fx)
            if growth_bound is None:
                # A warm start may be a fixed point up to rounding, and growth from a rounding error is not divergence.
                growth_bound = GROWTH_LIMIT * difference.maximum(torch.finfo(x.dtype).eps ** 0.5 * scale)
            relative = ratio(difference, scale if length is None else length)
            better = progress.update(relative, failed=difference > growth_bound)
            best = keep(better, x, best)
            x = keep(progress.running, advance(x, fx), x)
            if progress.finished(step):
                break
        if self.tol is not None:
            return progress.solution(best)
        return progress.solution(keep(progress.running, x, best), cut=Status.FIXED_STEPS)

    def solve_adjoint(self, equation: Adjoint) -> Solution:
        """Find the fixed point of w -> v + J^T w, to a residual |v + J^T w - w| <= tol |v|, as a linear solver does.

        Relative to |w|, the same tolerance would mean little: w is tens of times longer than v if an eigenvalue of J
        lies close to 1 (docs/numerics.md, section 7).
        """
        v = at_least_float32(equation.v)
        start = v if equation.start is None else at_least_float32(equation.start)
        return self.iterate(lambda w: v + equation.vjp(w), start, self.begin(start), per_sample_norm(v))


@dataclass(frozen=True)
class Picard(Solver):
    """Relaxed iteration x <- x + relaxation (f(x) - x) (Krasnoselskii 1955); 1 is the plain one."""

    relaxation: float = 1.0

    def begin(self, x0: Tensor) -> Advance:
        """The relaxed step, which remembers nothing."""
        return lambda x, fx: fx if self.relaxation == 1 else torch.lerp(x, fx, self.relaxation)


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration, type II (Walker & Ni 2011): the combination of iterates whose residual is least.

    The ridge penalizes each weight in units of the square of its own residual. An absolute ridge dominates once
    residuals are small and undoes the acceleration (53 evaluations instead of 14; docs/numerics.md, section 6). One
    relative to the mean square dominates the newest residuals if the memory spans many orders of magnitude (63
    evaluations instead of 24).
    """

    memory: int
    ridge: float
    mixing: float

    def begin(self, x0: Tensor) -> Advance:
        """An empty history."""
        return _AndersonHistory(self, x0)


class _AndersonHistory:
    """The last `memory` values f(x) and residuals f(x) - x and their Gram matrix."""

    def __init__(self, solver: Anderson, x0: Tensor) -> None:
        self.solver = solver
        batch, size = len(x0), x0[0].numel()
        self.values = x0.new_zeros(batch, solver.memory, size)
        self.residuals = torch.zeros_like(self.values)
        self.gram = x0.new_zeros(batch, solver.memory, solver.memory)
        self.calls = 0

    def __call__(self, x: Tensor, fx: Tensor) -> Tensor:
        slot, filled = self.calls % self.solver.memory, min(self.calls + 1, self.solver.memory)
        self.calls += 1
        self.values[:, slot] = fx.flatten(1)
        self.residuals[:, slot] = (fx - x).flatten(1)
        self.gram[:, slot] = self.gram[:, :, slot] = inner_products(self.residuals, self.residuals[:, slot])
        weights = self._weights(filled, slot)[:, None]
        combined = weights @ self.values[:, :filled]
        if self.solver.mixing < 1:
            combined = combined - (1 - self.solver.mixing) * (weights @ self.residuals[:, :filled])
        return combined.view_as(fx)

    def _weights(self, filled: int, newest: int) -> Tensor:
        """(batch, filled) weights of sum 1 with the least combined residual; the newest alone if that is singular."""
        gram = self.gram[:, :filled, :filled]
        lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
        cosines = gram / (lengths[:, :, None] * lengths[:, None])
        shares = (lengths.amin(dim=1, keepdim=True) / lengths)[:, :, None]
        eye = torch.eye(filled, dtype=gram.dtype, device=gram.device)
        solution, _ = torch.linalg.solve_ex(cosines + self.solver.ridge * eye, shares)
        weights = (shares * solution).squeeze(-1)
        weights = weights / weights.sum(dim=1, keepdim=True)
        usable = weights.isfinite().all(dim=1, keepdim=True)
        return torch.where(usable, weights, eye[newest])


class Progress:
    """Tracks which samples still run, what each has cost, its best residual, and how it ended."""

    def __init__(self, x0: Tensor, tol: float) -> None:
        self.tol = tol
        self.check_every = 1 if x0.device.type == "cpu" else HOST_CHECK_EVERY
        self.running = torch.ones(len(x0), dtype=torch.bool, device=x0.device)
        self.nfe = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        self.residual = torch.full((len(x0),), torch.inf, dtype=x0.dtype, device=x0.device)

    def update(self, residual: Tensor, failed: Tensor | None = None, evaluations: int = 1) -> Tensor:
        """Account for `evaluations` that led to `residual`, (batch,); returns which samples improved on their best."""
        # As few operations as possible: with a small T, they take more time than the evaluation.
        self.nfe.add_(self.running, alpha=evaluations)
        # A residual is never negative, so this tests whether it is finite, in a third of the time of isfinite.
        sound = self.running & (residual < torch.inf)
        if failed is not None:
            sound = sound & ~failed
        better = sound & (residual < self.residual)
        self.residual = torch.where(better, residual, self.residual)
        self.running = sound & (residual > self.tol)
        return better

    def finished(self, step: int) -> bool:
        """Whether no sample runs any more, as far as the host knows after `step`."""
        if self.tol < 0 and self.check_every > 1:
            return False  # Only divergence ends such a solve early, for which a device need not wait.
        return (step + 1) % self.check_every == 0 and not self.running.any()

    def solution(self, value: Tensor, cut: Status = Status.MAX_STEPS) -> Solution:
        """The outcome: a sample that stopped has met the tolerance or diverged; the others get the status `cut`."""
        stopped = torch.where(self.residual <= self.tol, Status.CONVERGED, Status.DIVERGED)
        return Solution(value, self.residual, self.nfe, torch.where(self.running, cut, stopped))


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 or wider, because half precision is too narrow for residuals and inner products."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_sample_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each sample, (batch, ...) to (batch,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def inner_products(vectors: Tensor, x: Tensor) -> Tensor:
    """Inner products of `vectors`, (batch, n, size), with `x`, (batch, size): (batch, n)."""
    # A row times a matrix is twice as fast as the transpose.
    return (x[:, None] @ vectors.mT).squeeze(1)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, for norms; 0 / 0 is 0."""
    return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny)


def keep(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the samples in `mask` (batch,), `old` for the others."""
    # The usual case, and cheap to recognize on a CPU, where reading the mask stalls no queue.
    if mask.device.type == "cpu" and new.shape == old.shape and mask.all():
        return new
    return torch.where(mask.view(-1, *[1] * (old.dim() - 1)), new, old)
