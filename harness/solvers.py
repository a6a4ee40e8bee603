"""Fixed-point solvers x = f(x), used for the forward solve and, on w -> v + J^T w, for the adjoint solve.

Every solver stops each sample on its own relative residual |f(x) - x| / |f(x)|, so a result does not depend on how a
batch is composed or sharded; a stopped sample stays frozen. A solver never raises: divergence is a status.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Advance = Callable[[Tensor, Tensor], Tensor]
"""(x, f(x)) -> next x; it may remember earlier calls."""

HOST_CHECK_EVERY = 4
"""Iterations between two reads of "is every sample done?" where a read stops the device's queue."""
GROWTH_LIMIT = 1e3
"""A sample whose residual grew by this factor over its first one has diverged."""


class Status(IntEnum):
    """How a sample's solve ended."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2


@dataclass(frozen=True)
class Solution:
    """What a solve returns; all but `value` have one entry a sample."""

    value: Tensor
    """(batch, ...): the iterate of least residual, or exactly the last one where tol is null."""
    residual: Tensor
    """(batch,): relative residual |f(x) - x| / |f(x)| of the best evaluated iterate."""
    nfe: Tensor
    """(batch,): evaluations of f that the sample needed."""
    status: Tensor
    """(batch,): `Status` codes."""


@dataclass(frozen=True)
class Solver(ABC):
    """`solver(f, x0)` finds x = f(x); samples lie along the first dimension."""

    tol: float | None
    """Relative residual at which a sample stops; None runs exactly `max_steps` evaluations."""
    max_steps: int

    @abstractmethod
    def begin(self, x0: Tensor) -> Advance:
        """A fresh update rule for one solve."""

    def __call__(self, f: Function, x0: Tensor) -> Solution:
        """Iterate from x0, shape (batch, ...), until every sample has stopped or `max_steps` evaluations are done."""
        advance = self.begin(x0)
        tol = -1.0 if self.tol is None else self.tol
        check_every = 1 if x0.device.type == "cpu" else HOST_CHECK_EVERY
        x = best = x0
        running = torch.ones(len(x0), dtype=torch.bool, device=x0.device)
        nfe = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        status = torch.full_like(nfe, Status.MAX_STEPS)
        best_residual = torch.full((len(x0),), torch.inf, dtype=x0.dtype, device=x0.device)
        growth_bound: Tensor | None = None
        for step in range(self.max_steps):
            fx = f(x)
            nfe += running
            difference = per_sample_norm(fx - x)
            residual = difference / per_sample_norm(fx).clamp_min(torch.finfo(x.dtype).tiny)
            growth_bound = GROWTH_LIMIT * difference if growth_bound is None else growth_bound
            converged = running & (residual <= tol)
            diverged = running & ~(residual.isfinite() & (difference <= growth_bound))
            better = running & ~diverged & (residual < best_residual)
            best, best_residual = keep(better, x, best), torch.where(better, residual, best_residual)
            status = status.masked_fill(converged, Status.CONVERGED).masked_fill(diverged, Status.DIVERGED)
            running = running & ~(converged | diverged)
            last_step = step == self.max_steps - 1
            if not last_step and (step + 1) % check_every == 0 and not running.any():
                break
            if not last_step or self.tol is None:
                x = keep(running, advance(x, fx), x)
        value = best if self.tol is not None else keep(running, x, best)
        return Solution(value, best_residual, nfe, status)


@dataclass(frozen=True)
class Picard(Solver):
    """Plain iteration x <- f(x)."""

    def begin(self, x0: Tensor) -> Advance:
        """Nothing to remember."""
        return lambda x, fx: fx


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration, type II (Walker & Ni 2011): the combination of iterates whose residual is least.

    The ridge is relative to the Gram matrix: an absolute one dominates once residuals are small, and undoes the
    acceleration (NUMERICS section 3: 53 evaluations against 14).
    """

    memory: int
    ridge: float
    mixing: float

    def begin(self, x0: Tensor) -> Advance:
        """An empty history."""
        return _AndersonHistory(self, x0)


class _AndersonHistory:
    """The last `memory` values f(x) and residuals f(x) - x, in float32 or wider, and their Gram matrix."""

    def __init__(self, solver: Anderson, x0: Tensor) -> None:
        self.solver = solver
        dtype = torch.promote_types(x0.dtype, torch.float32)
        batch, size = len(x0), x0[0].numel()
        self.values = x0.new_zeros(batch, solver.memory, size, dtype=dtype)
        self.residuals = torch.zeros_like(self.values)
        self.gram = x0.new_zeros(batch, solver.memory, solver.memory, dtype=dtype)
        self.calls = 0

    def __call__(self, x: Tensor, fx: Tensor) -> Tensor:
        slot, filled = self.calls % self.solver.memory, min(self.calls + 1, self.solver.memory)
        self.calls += 1
        self.values[:, slot] = fx.flatten(1)
        self.residuals[:, slot] = (fx - x).flatten(1)
        row = (self.residuals @ self.residuals[:, slot, :, None]).squeeze(-1)
        self.gram[:, slot] = self.gram[:, :, slot] = row
        weights = self._weights(filled, slot)[:, None]
        combined = weights @ self.values[:, :filled]
        if self.solver.mixing < 1:
            combined = combined - (1 - self.solver.mixing) * (weights @ self.residuals[:, :filled])
        return combined.view_as(fx).to(fx.dtype)

    def _weights(self, filled: int, newest: int) -> Tensor:
        """(batch, filled) weights of sum 1 that minimise the combined residual; a singular system takes the newest."""
        gram = self.gram[:, :filled, :filled]
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        eye = torch.eye(filled, dtype=gram.dtype, device=gram.device)
        solution, _ = torch.linalg.solve_ex(gram / scale + self.solver.ridge * eye, torch.ones_like(gram[:, :, :1]))
        weights = solution.squeeze(-1) / solution.sum(dim=1)
        usable = weights.isfinite().all(dim=1, keepdim=True)
        return torch.where(usable, weights, eye[newest])


def per_sample_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each sample, (batch, ...) to (batch,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def keep(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the samples in `mask` (batch,), `old` for the others."""
    return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)
