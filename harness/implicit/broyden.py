"""Broyden's good method with limited memory (Broyden 1965), and its estimate of (I - J)^-1 for SHINE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.implicit.solvers import Solver, inner_products, keep, per_sample_norm


@dataclass(frozen=True)
class Broyden(Solver):
    """Quasi-Newton steps x <- x + K (f(x) - x), where K estimates (I - J)^-1 from up to `memory` steps."""

    memory: int

    def begin(self, x0: Tensor) -> "InverseEstimate":
        """K = I: the first step is Picard's."""
        return InverseEstimate(self.memory, x0)


class InverseEstimate:
    """K for each sample, never formed: what rank-one corrections by up to `memory` steps make of the identity.

    A step s that changed f(x) - x by -z, so that z is about (I - J) s, corrects K to
    K + (s - K z) (s^T K) / (s^T K z). All corrections at once are K = I + (S - Z) M^-1 S^T, where M_ij is s_i^T z_i
    on the diagonal, s_i^T z_j above it and s_i^T (z_j - s_j) below it (Byrd, Nocedal & Schnabel 1994).
    With the memory full, K starts again from the identity and the newest step. Forgetting only the oldest step took
    up to twice the evaluations in our trials, and forgetting the oldest rank-one correction made solves diverge.
    """

    def __init__(self, memory: int, x0: Tensor) -> None:
        self.memory = memory
        self.steps = x0.new_zeros(len(x0), memory, x0[0].numel())
        """S^T: the vectors s."""
        self.surprises = torch.zeros_like(self.steps)
        """(S - Z)^T: what K = I gets wrong."""
        self.matrix = torch.eye(memory, dtype=x0.dtype, device=x0.device).repeat(len(x0), 1, 1)
        self.calls = 0
        self.x = self.g = x0.flatten(1)

    def __call__(self, x: Tensor, fx: Tensor) -> Tensor:
        """The next iterate, (batch, ...)."""
        x_flat, g = x.flatten(1), (fx - x).flatten(1)
        slot = (self.calls - 1) % self.memory
        used = slice(slot + 1 if self.calls > 0 else 0)
        if self.calls > 0:
            self._learn(x_flat - self.x, self.g - g, slot)
        self.calls += 1
        self.x, self.g = x_flat, g
        return x + apply(self.steps[:, used], self.surprises[:, used], self.matrix[:, used, used], g).view_as(x)

    def _learn(self, s: Tensor, z: Tensor, slot: int) -> None:
        """Remember a step. A sample that stands still, or whose f failed, keeps what it has."""
        moved = (per_sample_norm(s) > 0) & z.isfinite().all(dim=1)
        if slot == 0:
            self._forget(moved)
        self.steps[:, slot] = keep(moved, s, self.steps[:, slot])
        self.surprises[:, slot] = keep(moved, s - z, self.surprises[:, slot])
        column, row = inner_products(self.steps, z), -inner_products(self.surprises, s)
        row[:, slot] = column[:, slot]
        self.matrix[:, :, slot] = keep(moved, column, self.matrix[:, :, slot])
        self.matrix[:, slot] = keep(moved, row, self.matrix[:, slot])

    def _forget(self, who: Tensor) -> None:
        self.steps.masked_fill_(who[:, None, None], 0)
        self.surprises.masked_fill_(who[:, None, None], 0)
        self.matrix = keep(who, torch.eye(self.memory).to(self.matrix), self.matrix)

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `apply` needs to apply K^T, which is about (I - J)^-T."""
        return self.surprises, self.steps, self.matrix.mT


def apply(inner: Tensor, outer: Tensor, matrix: Tensor, z: Tensor) -> Tensor:
    """z + outer^T matrix^-1 inner z for flat samples (batch, size); just z where the matrix is singular."""
    weights, _ = torch.linalg.solve_ex(matrix, inner_products(inner, z)[:, :, None])
    correction = (weights.mT @ outer).squeeze(1)
    usable = correction.isfinite().all(dim=1, keepdim=True)
    return z + correction.where(usable, 0)
