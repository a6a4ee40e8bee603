"""Linear solvers for the adjoint equation (I - J^T) w = v, an independent system for each sample.

A sample stops when |v - (I - J^T) w| <= tol |v| and then stays frozen. v is first scaled to length one, so the scale of
the loss does not matter. Products with J^T and with J count alike in nfe, and `max_steps` limits their number.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.implicit.solvers import Adjoint, Function, Progress, Solution, at_least_float32, keep, per_sample_norm


@dataclass(frozen=True)
class LinearSolver(ABC):
    """Scales v, flattens samples and tracks progress; the Krylov method of a subclass does the rest."""

    tol: float | None
    """Relative residual at which a sample stops; None continues until rounding error or the last step."""
    max_steps: int
    """Maximum number of products; checking an earlier solution takes one more."""

    def solve_adjoint(self, equation: Adjoint) -> Solution:
        """Find w, (batch, ...): starting from zero, or for samples that it brings closer, from an earlier solution."""
        v = at_least_float32(equation.v)
        length = per_sample_norm(v)[:, None]
        unit = v.flatten(1) / length.where(length > 0, 1)
        progress = Progress(unit, max(self.tol or 0.0, torch.finfo(v.dtype).eps))

        def identity_minus(product: Function) -> Function:
            return lambda u: u - product(u.view_as(v)).flatten(1)

        m, m_transposed = identity_minus(equation.vjp), identity_minus(equation.jvp)
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
        """Solve M w = v with M = I - J^T for flat samples v, (batch, size), starting from zero.

        The residuals reported to `progress` are absolute: the right-hand side of the whole equation has length one.
        """


@dataclass(frozen=True)
class Gmres(LinearSolver):
    """GMRES without restart (Saad & Schultz 1986): the w of least residual in span(v, M v, M^2 v, ...)."""

    def krylov(self, m: Function, m_transposed: Function, v: Tensor, progress: Progress) -> Tensor:
        """Extend Arnoldi's basis by one product per step; plane rotations keep its matrix triangular."""
        batch, steps = len(v), self.max_steps
        eye = torch.eye(steps + 1, dtype=v.dtype, device=v.device).repeat(batch, 1, 1)
        rotation, triangle = eye, eye[:, :-1, :-1].clone()
        reduced = v.new_zeros(batch, steps)
        basis = v.new_zeros(batch, steps + 1, v.shape[1])
        size = per_sample_norm(v)[:, None]
        basis[:, 0] = v / size.where(size > 0, 1)
        for k in range(steps):
            image, column = _orthogonalize(m(basis[:, k]), basis, k)
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
            # Write only the steps that a sample really took; all else stays zero, or the identity, without effect.
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
    """Conjugate gradients on M^T M w = M^T v, in the form that updates v - M w (CGLS; Hestenes & Stiefel 1952).

    Each step takes two products, one of them in forward mode, and convergence depends on the square of M's condition
    number. It converges for every nonsingular M, which makes it a yardstick, but it is seldom the cheapest.
    """

    def krylov(self, m: Function, m_transposed: Function, v: Tensor, progress: Progress) -> Tensor:
        """Minimize along search directions that are conjugate in M^T M."""
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


def _orthogonalize(image: Tensor, basis: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Subtract from `image`, (batch, size), its parts along the first k + 1 vectors of `basis`; also return its
    coordinates.

    Gram-Schmidt is applied twice: once loses orthogonality, twice is enough, and both are matrix products.
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
