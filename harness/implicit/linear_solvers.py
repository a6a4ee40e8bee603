"""Linear solvers of the adjoint equation (I - J^T) w = v, each sample a system of its own.

A sample stops when |v - (I - J^T) w| <= tol |v| and stays frozen. v is first scaled to length one, so the scale of the
loss changes nothing. Products with J^T and with J count alike in nfe, and `max_steps` bounds their number.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.implicit.solvers import Adjoint, Function, Progress, Solution, at_least_float32, keep, per_sample_norm


@dataclass(frozen=True)
class LinearSolver(ABC):
    """Scales v, flattens samples and keeps the books; a Krylov method does the rest."""

    tol: float | None
    """Relative residual at which a sample stops; None continues until rounding error or the last step."""
    max_steps: int
    """Most products; looking at an earlier solution takes one more."""

    def solve_adjoint(self, equation: Adjoint) -> Solution:
        """Find w, (batch, ...): from zero, or from an earlier solution for the samples that it brings closer."""
        v = at_least_float32(equation.v)
        length = per_sample_norm(v)[:, None]
        unit = v.flatten(1) / length.where(length > 0, 1)
        progress = Progress(unit, max(self.tol or 0.0, torch.finfo(v.dtype).eps))

        def less(product: Function) -> Function:
            return lambda u: u - product(u.view_as(v)).flatten(1)

        m, m_transposed = less(equation.vjp), less(equation.jvp)
        if equation.start is None:
            start, left = torch.zeros_like(unit), unit
            progress.update(per_sample_norm(unit), evaluations=0)
        else:
            start = equation.start.to(v.dtype).flatten(1) / length.where(length > 0, 1)
            left = unit - m(start)
            closer = per_sample_norm(left) < per_sample_norm(unit)
            start, left = keep(closer, start, torch.zeros_like(start)), keep(closer, left, unit)
            progress.update(per_sample_norm(left))
        w = start + self.krylov(m, m_transposed, left, progress)
        return progress.solution((length * w).view_as(v))

    @abstractmethod
    def krylov(self, m: Function, m_transposed: Function, v: Tensor, progress: Progress) -> Tensor:
        """Solve M w = v, M = I - J^T, for flat samples v, (batch, size), starting from zero.

        Residuals that `progress` is told are absolute: the right-hand side of the whole equation has length one.
        """


@dataclass(frozen=True)
class Gmres(LinearSolver):
    """GMRES without restart (Saad & Schultz 1986): of all w in span(v, M v, M^2 v, ...) the one of least residual."""

    def krylov(self, m: Function, m_transposed: Function, v: Tensor, progress: Progress) -> Tensor:
        """Arnoldi's basis grows by one product a step; plane rotations keep its matrix triangular."""
        batch, steps = len(v), self.max_steps
        eye = torch.eye(steps + 1, dtype=v.dtype, device=v.device).repeat(batch, 1, 1)
        rotation, triangle = eye, eye[:, :-1, :-1].clone()
        reduced = v.new_zeros(batch, steps)
        basis = v.new_zeros(batch, steps + 1, v.shape[1])
        size = per_sample_norm(v)[:, None]
        basis[:, 0] = v / size.where(size > 0, 1)
        for k in range(steps):
            image, column = _orthogonalise(m(basis[:, k]), basis, k)
            height = column[:, k + 1 : k + 2].clone()
            column = (rotation @ column[:, :, None]).squeeze(-1)
            pair = column[:, k : k + 2]
            length = per_sample_norm(pair)
            cosine, sine = (pair / length[:, None])[:, :, None].unbind(1)
            upper = cosine * rotation[:, k] + sine * rotation[:, k + 1]
            lower = cosine * rotation[:, k + 1] - sine * rotation[:, k]
            residual = size[:, 0] * lower[:, 0].abs()
            moved = progress.running & residual.isfinite()
            progress.update(residual)
            # Only what a sample has really done is written: the rest stays zero, or the identity, and cannot harm.
            column[:, k] = length
            triangle[:, : k + 1, k] = keep(moved, column[:, : k + 1], triangle[:, : k + 1, k])
            reduced[:, k] = (size[:, 0] * upper[:, 0]).where(moved, 0)
            rotation[:, k : k + 2] = keep(moved, torch.stack([upper, lower], dim=1), rotation[:, k : k + 2])
            basis[:, k + 1] = (image / height).where((moved & (height[:, 0] > 0))[:, None], 0)
            if progress.finished(k):
                break
        weights = torch.linalg.solve_triangular(triangle, reduced[:, :, None], upper=True)
        return (weights.mT @ basis[:, :steps]).squeeze(1)


@dataclass(frozen=True)
class CgNormal(LinearSolver):
    """Conjugate gradients on M^T M w = M^T v, in the form that keeps v - M w (Hestenes & Stiefel 1952; CGLS).

    Two products a step, one of them in forward mode, and the square of M's condition number: a yardstick, since it
    converges for every nonsingular M, but seldom the cheapest.
    """

    def krylov(self, m: Function, m_transposed: Function, v: Tensor, progress: Progress) -> Tensor:
        """Search directions conjugate in M^T M."""
        w, r = torch.zeros_like(v), v
        direction, gamma = torch.zeros_like(v), v.new_ones(len(v), 1)
        for step in range(self.max_steps // 2):
            gradient = m_transposed(r)
            gamma, previous = _square(gradient), gamma
            direction = gradient + (gamma / previous) * direction
            image = m(direction)
            size = gamma / _square(image)
            shorter = r - size * image
            residual = per_sample_norm(shorter)
            moved = progress.running & residual.isfinite()
            progress.update(residual, evaluations=2)
            w, r = keep(moved, w + size * direction, w), keep(moved, shorter, r)
            if progress.finished(step):
                break
        return w


def _orthogonalise(image: Tensor, basis: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`image`, (batch, size), less its parts along the first k + 1 vectors of `basis`, and its coordinates.

    Gram-Schmidt twice: once loses orthogonality, twice is enough, and both are matrix products.
    """
    known = basis[:, : k + 1]
    column = basis.new_zeros(basis.shape[:2])
    for _ in range(2):
        parts = known @ image[:, :, None]
        image = image - (parts.mT @ known).squeeze(1)
        column[:, : k + 1] += parts.squeeze(-1)
    column[:, k + 1] = per_sample_norm(image)
    return image, column


def _square(x: Tensor) -> Tensor:
    """Squared norm of flat samples, (batch, size) to (batch, 1)."""
    return x.square().sum(dim=1, keepdim=True)
