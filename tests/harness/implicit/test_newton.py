"""Newton's method against dense linear algebra, where plain and accelerated iteration do not get there."""

import pytest
import torch
from torch import Tensor

from harness.implicit.newton import Newton, linearize
from harness.implicit.solvers import Anderson, Function, Picard, Status
from harness.measure.gradient_fidelity import FORWARD
from tests.problems import MAPS, affine, linear_map, problem, relative_error

SIZE = 60
NEAR = Anderson(tol=1e-13, max_steps=30, memory=10, ridge=1e-14, mixing=1.0)
LONG = Anderson(tol=1e-13, max_steps=300, memory=5, ridge=1e-14, mixing=1.0)
NEWTON = Newton(tol=1e-13, max_steps=30, linear_products=SIZE, first=NEAR)


def piecewise(matrix: Tensor, b: Tensor, slope: float = 0.8) -> Function:
    """x -> L(matrix x + b) with L(z) = z above 0 and slope z below."""
    return lambda x: torch.nn.functional.leaky_relu(affine(matrix, b, x), slope)


def expanding() -> tuple[Tensor, Tensor]:
    """A fixed point that repels, most eigenvalues being outside the unit circle."""
    return linear_map(radius=4.0, size=SIZE)


def test_an_affine_map_that_expands_is_solved_as_by_elimination_where_anderson_stalls() -> None:
    matrix, b = expanding()
    found = NEWTON(lambda x: affine(matrix, b, x), b)
    exact = torch.linalg.solve(torch.eye(SIZE, dtype=b.dtype) - matrix, b)
    assert LONG(lambda x: affine(matrix, b, x), b).residual.min() > 1e-3
    assert found.status.tolist() == [Status.CONVERGED] * 3
    assert relative_error(found.value, exact) < 1e-10


def test_a_piecewise_affine_map_that_expands_is_solved_to_its_own_affine_piece() -> None:
    """Where the solution lies, f is affine: elimination of that piece has the same solution."""
    matrix, b = linear_map(radius=3.0, size=SIZE)
    f = piecewise(matrix, b)
    found = NEWTON(f, b)
    assert LONG(f, b).residual.min() > 1e-3
    assert found.status.tolist() == [Status.CONVERGED] * 3
    slope = 1 - 0.2 * (affine(matrix, b, found.value) < 0).to(b.dtype)
    piece = torch.eye(SIZE, dtype=b.dtype) - slope[:, :, None] * matrix
    assert torch.linalg.eigvals(slope[:, :, None] * matrix).abs().amax(dim=1).min() > 1
    assert relative_error(found.value, torch.linalg.solve(piece, slope * b)) < 1e-10


@pytest.mark.parametrize("name", MAPS)
def test_it_finds_the_fixed_points_of_the_maps_as_dense_newton_does(name: str) -> None:
    one = problem(name)
    start = Picard(tol=None, max_steps=3)
    found = Newton(tol=1e-13, max_steps=20, linear_products=108, first=start)(one.f, one.start)
    at = one.start
    for _ in range(20):
        with torch.no_grad():
            gap = one.f(at) - at
        matrix = torch.eye(at[0].numel(), dtype=at.dtype) - one.jacobian(at)
        at = at + torch.linalg.solve(matrix, gap.flatten(1)).view_as(at)
    assert found.status.tolist() == [Status.CONVERGED] * len(at)
    assert relative_error(found.value, at) < 1e-10


@pytest.mark.parametrize(
    "f",
    [lambda x: x + 1, lambda x: x + 1 + x.square()],
    ids=["translation", "parabola"],
)
def test_a_sample_without_a_fixed_point_is_a_status(f: Function) -> None:
    found = FORWARD(f, torch.ones(2, 5, dtype=torch.float64))
    assert found.status.tolist() == [Status.MAX_STEPS] * 2
    assert found.residual.min() > 1e-3
    assert found.value.isfinite().all()


def test_a_sample_that_is_not_finite_has_diverged() -> None:
    found = FORWARD(lambda x: x * torch.nan, torch.ones(2, 5, dtype=torch.float64))
    assert found.status.tolist() == [Status.DIVERGED] * 2
    assert found.residual.tolist() == [torch.inf] * 2


def test_a_sample_is_solved_as_if_it_were_alone() -> None:
    """Beside one that converges at once, one that diverges and one that never ends."""
    matrix, b = linear_map(radius=3.0, size=SIZE, batch=4)
    matrix[1] *= 0.1
    b[2] = torch.nan
    together = NEWTON(piecewise(matrix, b), b.nan_to_num())
    for place in range(4):
        one = slice(place, place + 1)
        alone = NEWTON(piecewise(matrix[one], b[one]), b[one].nan_to_num())
        assert together.status[place] == alone.status[0]
        assert together.nfe[place] == alone.nfe[0]
        torch.testing.assert_close(together.value[place], alone.value[0], rtol=1e-9, atol=1e-9)


def test_products_are_those_of_the_jacobian_whether_or_not_f_can_be_recorded() -> None:
    one = problem("de-admm")
    u = torch.randn(one.start.shape, dtype=one.d.dtype, generator=torch.Generator().manual_seed(0))
    expected = (one.jacobian(one.start) @ u.flatten(1)[:, :, None]).view_as(u)

    def asks_for_a_number(x: Tensor) -> Tensor:
        return one.f(x) if float(x.sum()) > -1e9 else x

    for f in (one.f, asks_for_a_number):
        torch.testing.assert_close(linearize(f, one.start)(u).detach(), expected)
