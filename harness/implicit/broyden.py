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
    """K for each sample, never formed: the identity with rank-one corrections from up to `memory` steps.

    A step s that changed f(x) - x by -z, so that z is about (I - J) s, corrects K to
    K + (s - K z) (s^T K) / (s^T K z). All corrections together give K = I + (S - Z) M^-1 S^T, where M_ij is s_i^T z_i
    on the diagonal, s_i^T z_j above it and s_i^T (z_j - s_j) below it (Byrd, Nocedal & Schnabel 1994).
    When the memory is full, K restarts from the identity and the newest step. In our trials, forgetting only the oldest
    step took up to twice the evaluations, and forgetting the oldest rank-one correction made solves diverge.
    """

    def __init__(self, memory: int, x0: Tensor) -> None:
        self.memory = memory
        self.steps = x0.new_zeros(len(x0), memory, x0[0].numel())
        """S^T: the vectors s."""
        self.surprises = torch.zeros_like(self.steps)
        """(S - Z)^T: the errors of K = I in these steps."""
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
        """Remember a step. A sample that did not move, or whose f is not finite, keeps its estimate."""
        moved = (per_sample_norm(s) > 0) & z.isfinite().all(dim=1)
        if slot == 0:
            self._forget(moved)
        self.steps[:, slot] = keep(moved, s, self.steps[:, slot])
        self.surprises[:, slot] = keep(moved, s - z, self.surprises[:, slot])
        column, row = inner_products(self.steps, z), -inner_products(self.surprises, s)
        row[:, slot] = column[:, slot]
        self.matrix[:, :, slot] = keep(moved, column, self.matrix[:, :, slot])
        self.matrix[:, slot] = keep(moved, row, self.matrix[:, slot])

    def _forget(self, mask: Tensor) -> None:
        self.steps.masked_fill_(mask[:, None, None], 0)
        self.surprises.masked_fill_(mask[:, None, None], 0)
        self.matrix = keep(
            mask, torch.eye(self.memory, dtype=self.matrix.dtype, device=self.matrix.device), self.matrix
        )

    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first arguments with which `apply` computes K^T z, an estimate of (I - J)^-T z."""
        return self.surprises, self.steps, self.matrix.mT


def apply(inner: Tensor, outer: Tensor, matrix: Tensor, z: Tensor) -> Tensor:
    """z + outer^T matrix^-1 inner z for flat samples (batch, size); only z where the matrix is singular."""
    weights, _ = torch.linalg.solve_ex(matrix, inner_products(inner, z)[:, :, None])
    correction = (weights.mT @ outer).squeeze(1)
    usable = correction.isfinite().all(dim=1, keepdim=True)
    return z + correction.where(usable, 0)
