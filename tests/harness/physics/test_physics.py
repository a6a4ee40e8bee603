"""The blur against an ordinary convolution, and its exact solves against dense algebra and conjugate gradients."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.physics.base import observe
from harness.physics.blur import GaussianBlur

BOUNDARIES = ("zero", "circular")


@dataclass(frozen=True)
class Blur:
    """One blur and three random pictures for it."""

    physics: GaussianBlur
    radius: int
    boundary: str
    x: Tensor
    z: Tensor
    d: Tensor


@st.composite
def blurs(draw: st.DrawFn) -> Blur:
    size = draw(st.integers(2, 12))
    kernel_size = 2 * draw(st.integers(0, min(size - 1, 4))) + 1
    std, boundary = draw(st.floats(0.2, 6.0)), draw(st.sampled_from(BOUNDARIES))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), size, size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pictures = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    physics = GaussianBlur(size, kernel_size, std, 0.01, (0.0, 1.0), boundary)
    return Blur(physics, kernel_size // 2, boundary, *pictures)


def dense(physics: GaussianBlur, height: int, width: int) -> Tensor:
    """A on one channel as a matrix, column by column."""
    basis = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    return physics.A(basis).flatten(1).T


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


@given(blurs())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_adjoint_is_the_adjoint(blur: Blur) -> None:
    left, right = inner(blur.physics.A(blur.x), blur.d), inner(blur.x, blur.physics.A_adjoint(blur.d))
    assert abs(left - right) <= 1e-12 * blur.x.norm() * blur.d.norm()


@given(blurs(), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_proximal_step_satisfies_its_optimality_condition(blur: Blur, penalty: float) -> None:
    """penalty A^T (Ax - d) + x - z = 0, and no other x is better: the problem is strictly convex."""
    x = blur.physics.prox_l2(blur.z, blur.d, penalty)
    slope = penalty * blur.physics.A_adjoint(blur.physics.A(x) - blur.d) + x - blur.z
    assert slope.norm() <= 1e-12 * (1 + penalty) * (blur.z.norm() + blur.d.norm())


@given(blurs())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_norm_is_the_largest_singular_value(blur: Blur) -> None:
    assert blur.physics.norm == pytest.approx(
        float(torch.linalg.matrix_norm(dense(blur.physics, *blur.x.shape[-2:]), 2)), rel=1e-12
    )


@given(blurs())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_constant_picture_stays_but_for_the_rim_of_a_zero_boundary(blur: Blur) -> None:
    """The kernel sums to one; what lies beyond a zero boundary is missing."""
    image = blur.physics.A(torch.ones_like(blur.x))
    rim = blur.radius if blur.boundary == "zero" else 0
    inside = image[..., rim : image.shape[-2] - rim, rim : image.shape[-1] - rim]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    assert float(image.max()) <= 1 + 1e-12


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
def test_the_blur_is_a_convolution(kernel_size: int, boundary: str) -> None:
    """Against torch's own, with the kernel exp(-(i^2 + j^2) / (2 s^2)) of sum 1 and padding k // 2."""
    physics, radius, std = GaussianBlur(10, kernel_size, 1.7, 0.01, (0.0, 1.0), boundary), kernel_size // 2, 1.7
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * std**2))
    x = torch.rand(2, 3, 10, 10, dtype=torch.float64)
    padded = F.pad(x, [radius] * 4, mode="circular" if boundary == "circular" else "constant")
    expected = F.conv2d(padded, (kernel / kernel.sum()).expand(3, 1, -1, -1), groups=3)
    torch.testing.assert_close(physics.A(x), expected)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("penalty", [0.1, 4.0, 100.0])
def test_the_proximal_step_against_dense_elimination_and_conjugate_gradients(penalty: float, boundary: str) -> None:
    physics = GaussianBlur(8, 5, 5**0.5, 0.01, (0.0, 1.0), boundary)
    z, d = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = physics.prox_l2(z, d, penalty)
    a = dense(physics, 8, 8)
    matrix = torch.eye(64, dtype=torch.float64) + penalty * a.T @ a
    right = (z.flatten(2) + penalty * d.flatten(2) @ a).flatten(0, 1)
    torch.testing.assert_close(found.flatten(2).flatten(0, 1), torch.linalg.solve(matrix, right.T).T)
    torch.testing.assert_close(found, conjugate_gradients(physics, z, d, penalty))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_pictures_of_any_size_may_come(boundary: str) -> None:
    """Neither square nor of the size that the blur was made with."""
    physics = GaussianBlur(8, 5, 5**0.5, 0.01, (0.0, 1.0), boundary)
    z, d = torch.randn(2, 2, 3, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = dense(physics, 7, 10)
    torch.testing.assert_close(a, dense(GaussianBlur(7, 5, 5**0.5, 0.01, (0.0, 1.0), boundary), 7, 10))
    found = physics.prox_l2(z, d, 3.0)
    torch.testing.assert_close(found, conjugate_gradients(physics, z, d, 3.0))
    assert physics.A(d.float().double()).shape == d.shape
    with pytest.raises(ValueError, match=r"physics\.kernel_size: 5 does not fit a picture of 2 pixels"):
        physics.A(torch.zeros(1, 3, 8, 2, dtype=torch.float64))


def conjugate_gradients(physics: GaussianBlur, z: Tensor, d: Tensor, penalty: float) -> Tensor:
    """(I + penalty A^T A) x = z + penalty A^T d by products alone."""
    x, r = torch.zeros_like(z), z + penalty * physics.A_adjoint(d)
    p, square = r, inner(r, r)
    while square > 1e-26 * inner(z, z):
        image = p + penalty * physics.A_adjoint(physics.A(p))
        step = square / inner(p, image)
        x, r = x + step * p, r - step * image
        previous, square = square, inner(r, r)
        p = r + (square / previous) * p
    return x


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_inverse_undoes_a_well_conditioned_blur(boundary: str) -> None:
    physics = GaussianBlur(9, 3, 0.5, 0.01, (0.0, 1.0), boundary)
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(physics.inverse(physics.A(x)), x)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_proximal_step_is_differentiable_in_every_argument(boundary: str) -> None:
    physics = GaussianBlur(4, 3, 1.0, 0.01, (0.0, 1.0), boundary)
    z, d = (torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    penalty = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(physics.prox_l2, (z, d, penalty))


def test_the_blur_of_the_paper_is_indefinite() -> None:
    """Nearly half the eigenvalues of A are negative on `paper`: A may never stand where A^T A is meant."""
    physics = GaussianBlur(128, 5, 5**0.5, 0.01, (0.0, 1.0), "zero")
    spectrum = physics.spectrum(torch.empty(128, 128))
    assert 0.4 < float((spectrum < 0).double().mean()) < 0.5
    assert float(spectrum.square().min()) < 1e-8


def test_noise_has_the_level_of_the_physics() -> None:
    physics = GaussianBlur(4, 3, 1.0, 0.25, (-1.0, 1.0), "zero")
    images, noise = torch.rand(2, 2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(observe(physics, images, noise) - physics.A(images), 0.25 * noise)


def test_a_kernel_that_does_not_fit_is_the_users_mistake() -> None:
    with pytest.raises(ValueError, match=r"physics\.kernel_size: 9 does not fit a picture of 4 pixels"):
        GaussianBlur(4, 9, 1.0, 0.01, (0.0, 1.0), "zero")
