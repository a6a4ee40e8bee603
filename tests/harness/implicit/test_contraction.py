"""Norms and eigenvalues from products, against dense Jacobians."""

import math

import pytest
import torch
from torch import Tensor

from harness.implicit.contraction import iterate, mean_square_jacobian, normal_directions, spectrum
from tests.problems import MAPS, affine, flat, linear_map, problem, relative_error


def measured(matrix: Tensor, products: int = 12) -> "tuple[Tensor, Tensor, Tensor]":
    """Norm, eigenvalue and residual of x -> matrix x for matrices (batch, size, size)."""
    b = torch.zeros(matrix.shape[:2], dtype=matrix.dtype)
    found = spectrum(lambda x: affine(matrix, b, x), b, products, products)
    return found.norm, found.eigenvalue, found.residual


@pytest.mark.parametrize("name", MAPS)
def test_norm_and_spectral_radius_are_those_of_the_dense_jacobian(name: str) -> None:
    one = problem(name)
    at = one.fixed_point()
    jacobian = one.jacobian(at)
    found = spectrum(one.f, at, norm_products=at[0].numel(), spectrum_products=at[0].numel())
    assert found.norm == pytest.approx(torch.linalg.matrix_norm(jacobian, 2), rel=1e-6)
    assert found.eigenvalue.abs() == pytest.approx(torch.linalg.eigvals(jacobian).abs().amax(dim=1), rel=1e-6)
    assert (found.residual < 1e-3).all()


@pytest.mark.parametrize("name", MAPS)
def test_few_products_already_tell_and_the_norm_never_says_too_much(name: str) -> None:
    one = problem(name)
    at = one.fixed_point()
    jacobian = one.jacobian(at)
    found = spectrum(one.f, at)
    norm = torch.linalg.matrix_norm(jacobian, 2)
    assert (found.norm <= norm * (1 + 1e-12)).all()
    assert found.norm == pytest.approx(norm, rel=0.01)
    assert found.eigenvalue.abs() == pytest.approx(torch.linalg.eigvals(jacobian).abs().amax(dim=1), rel=0.01)


def test_rotation_has_a_radius_though_its_rayleigh_quotient_is_zero() -> None:
    quarter = 0.9 * torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)
    norm, eigenvalue, residual = measured(quarter)
    assert norm.item() == pytest.approx(0.9)
    assert eigenvalue.item() == pytest.approx(0.9j)
    assert residual.item() < 1e-12


def test_negative_dominant_eigenvalue_keeps_its_sign() -> None:
    """What an undamped map trained with a pool ended at."""
    matrix, _ = linear_map(1.0, symmetric=True)
    values, vectors = torch.linalg.eigh(matrix)
    values[:, 0], values[:, 1:] = -1.17, values[:, 1:].clamp(-0.9, 0.9)
    norm, eigenvalue, residual = measured(vectors @ torch.diag_embed(values) @ vectors.mT)
    assert eigenvalue.real == pytest.approx(torch.full((3,), -1.17))
    assert (eigenvalue.imag == 0).all()
    assert norm == pytest.approx(torch.full((3,), 1.17))
    assert (residual < 1e-10).all()


def test_nonnormal_map_can_contract_in_the_end_though_its_norm_is_above_one() -> None:
    matrix = torch.tensor([[[0.5, 3.0], [0.0, -0.8]]], dtype=torch.float64)
    norm, eigenvalue, _ = measured(matrix)
    assert norm.item() == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item())
    assert eigenvalue.item() == pytest.approx(-0.8)


def test_zero_identity_and_broken_jacobians_harm_no_other_sample() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    matrix = torch.stack([0 * eye, eye, math.nan * eye, torch.diag(torch.tensor([0.1, 0.2, -0.7, 0.3]))])
    norm, eigenvalue, _ = measured(matrix)
    assert norm[[0, 1, 3]] == pytest.approx(torch.tensor([0, 1, 0.7], dtype=torch.float64))
    assert eigenvalue[[0, 1, 3]].real == pytest.approx(torch.tensor([0, 1, -0.7], dtype=torch.float64))
    assert norm[2].isnan()
    assert eigenvalue[2].isnan()


def test_sample_alone_gives_what_it_gives_in_a_batch() -> None:
    matrix, _ = linear_map(0.9)
    together, alone = measured(matrix), measured(matrix[1:2])
    for batch, one in zip(together, alone, strict=True):
        assert one.item() == pytest.approx(batch[1].item())


def test_iteration_far_past_the_training_depth_shows_the_drift() -> None:
    """|x| falls by .5 or grows by 1.1 at each evaluation."""
    factor = torch.tensor([[0.5], [1.1]], dtype=torch.float64)
    found = iterate(lambda x: factor * x, torch.ones(2, 1, dtype=torch.float64), (2, 4, 20))
    assert list(found) == [2, 4, 20]
    for count, (state, residual) in found.items():
        assert state == pytest.approx(factor**count)
        assert residual == pytest.approx(torch.tensor([1.0, 0.1 / 1.1], dtype=torch.float64))


# -------------------------------------------------------------------------------------------- Jacobian penalty


@pytest.mark.parametrize("name", MAPS)
def test_the_mean_square_over_an_orthogonal_basis_is_that_of_the_dense_jacobian(name: str) -> None:
    """Hutchinson's mean over all probes, exactly: sum over the basis e of |J^T e|^2 = |J|_F^2."""
    one = problem(name)
    at = one.fixed_point()
    size = at[0].numel()
    basis = torch.eye(size, dtype=at.dtype).view(size, 1, *at.shape[1:])
    total = sum(mean_square_jacobian(one.f, at, e.expand_as(at)).detach() for e in basis)
    torch.testing.assert_close(total, one.jacobian(at).square().sum(dim=(1, 2)) / size)


def test_its_gradient_is_that_of_the_dense_jacobian() -> None:
    one = problem("de-hqs")
    at, parameters = one.fixed_point()[:1], one.parameters()
    size = at.numel()
    f = one.map
    dense = torch.autograd.functional.jacobian(lambda s: f(s, one.d[:1]), at, create_graph=True)
    expected = torch.autograd.grad(dense.square().sum() / size, parameters, allow_unused=True)
    basis = torch.eye(size, dtype=at.dtype).view(size, *at.shape)
    total = sum((mean_square_jacobian(lambda s: f(s, one.d[:1]), at, e).sum() for e in basis), torch.zeros(()))
    assert relative_error(flat(torch.autograd.grad(total, parameters, allow_unused=True)), flat(expected)) < 1e-10


def test_normal_probes_give_it_in_the_mean_and_belong_to_their_sample() -> None:
    matrix, _ = linear_map(0.9, batch=1)
    draws = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = torch.zeros(4000, 12, dtype=torch.float64)
    probes = normal_directions(draws, at)
    found = mean_square_jacobian(lambda x: x @ matrix[0].mT, at, probes)
    error = (found.mean() - matrix.square().sum() / 12) / (found.std() / 4000**0.5)
    assert abs(float(error)) < 3
    assert torch.equal(normal_directions(draws[7:9], at[7:9]), probes[7:9])
    assert float(probes.std()) == pytest.approx(1, rel=0.01)


def test_probes_are_drawn_on_the_cpu_whatever_the_device() -> None:
    drawn = normal_directions(torch.tensor([0.25, 0.5]), torch.empty(2, 3, device="meta"))
    assert drawn.device.type == "meta"
    assert drawn.shape == (2, 3)
