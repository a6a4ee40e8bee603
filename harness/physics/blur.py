"""Gaussian blur: A, its adjoint, its inverse and its proximal operator, all exact.

Pictures have shape (batch, 3, height, width). `A`, `A_adjoint` and `prox_l2` are called as in deepinv.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn


class GaussianBlur(nn.Module):
    """Blur of each channel with the kernel g_ij ~ exp(-(i^2 + j^2) / (2 std^2)), normalized to sum 1.

    The kernel is separable, so on an h x w picture A x = M_h x M_w, where M_n is a symmetric n x n matrix: banded for
    zero padding, circulant for a circular boundary. With M = Q diag(l) Q^T, every solve with A is two changes of basis
    and a division. It is exact for both boundaries, and no matrix of size n^2 x n^2 is ever formed.

    Pictures may have any size: the matrices for a new side length are computed when it first occurs.
    """

    def __init__(
        self,
        image_size: int,
        kernel_size: int,
        kernel_std: float,
        noise_std: float,
        value_range: tuple[float, float],
        boundary: str,
    ) -> None:
        super().__init__()
        self.noise_std = noise_std
        self.value_range = value_range
        self._matrix = partial(_blur_matrix, kernel_size=kernel_size, std=kernel_std, circular=boundary == "circular")
        self._axes = nn.ModuleDict({str(image_size): Axis(self._matrix(image_size))})
        self.norm = float(self._axis(image_size).eigenvalues.abs().max()) ** 2
        """Largest singular value of A on square pictures of `image_size`."""

    def A(self, x: Tensor) -> Tensor:
        """M_h x M_w for every channel."""
        rows, columns = self._sides(x)
        return rows.M @ x @ columns.M

    def A_adjoint(self, d: Tensor) -> Tensor:
        """A^T d = A d, because A is symmetric."""
        return self.A(d)

    def prox_l2(self, z: Tensor, d: Tensor, penalty: Tensor | float) -> Tensor:
        """(I + penalty A^T A)^-1 (z + penalty A^T d), exactly; differentiable in every argument."""
        spectrum = self.spectrum(d)
        z_hat, d_hat = self._to_spectrum(z), self._to_spectrum(d)
        return self._from_spectrum((z_hat + penalty * spectrum * d_hat) / (1 + penalty * spectrum**2))

    def inverse(self, d: Tensor) -> Tensor:
        """A^-1 d. Noise explodes: eigenvalues of A^T A go down to 2e-10 (docs/numerics.md, section 1)."""
        return self._from_spectrum(self._to_spectrum(d) / self.spectrum(d))

    def spectrum(self, x: Tensor) -> Tensor:
        """(height, width): the eigenvalues of A for pictures of the size of x, in the basis Q_h (x) Q_w."""
        rows, columns = self._sides(x)
        return torch.outer(rows.eigenvalues, columns.eigenvalues)

    def _to_spectrum(self, x: Tensor) -> Tensor:
        rows, columns = self._sides(x)
        return rows.Q.mT @ x @ columns.Q

    def _from_spectrum(self, x_hat: Tensor) -> Tensor:
        rows, columns = self._sides(x_hat)
        return rows.Q @ x_hat @ columns.Q.mT

    def _sides(self, x: Tensor) -> tuple["Axis", "Axis"]:
        """The one-dimensional blurs along height and width."""
        for size in x.shape[-2:]:
            if str(size) not in self._axes:
                self._axes[str(size)] = Axis(self._matrix(size)).to(x.device, x.dtype)
        return self._axis(x.shape[-2]), self._axis(x.shape[-1])

    def _axis(self, size: int) -> "Axis":
        axis = self._axes[str(size)]
        assert isinstance(axis, Axis)
        return axis


class Axis(nn.Module):
    """The one-dimensional blur for one side length, M = Q diag(eigenvalues) Q^T."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        eigenvalues, basis = torch.linalg.eigh(matrix)
        self.M = nn.Buffer(matrix, persistent=False)
        self.Q = nn.Buffer(basis, persistent=False)
        self.eigenvalues = nn.Buffer(eigenvalues, persistent=False)


def _blur_matrix(size: int, kernel_size: int, std: float, *, circular: bool) -> Tensor:
    """The one-dimensional blur as a symmetric (size, size) matrix in float64."""
    radius = kernel_size // 2
    if radius >= size:
        raise ValueError(f"physics.kernel_size: {kernel_size} does not fit a picture of {size} pixels")
    taps = [math.exp(-(i**2) / (2 * std**2)) for i in range(-radius, radius + 1)]
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, tap in zip(range(-radius, radius + 1), taps, strict=True):
        for row in range(size):
            column = row + offset
            if circular:
                matrix[row, column % size] += tap / sum(taps)
            elif 0 <= column < size:
                matrix[row, column] += tap / sum(taps)
    return matrix
