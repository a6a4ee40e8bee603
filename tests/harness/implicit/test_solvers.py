"""Fixed-point and linear solvers against dense linear algebra, against each other, and on problems that fail."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from harness.implicit import solvers
from harness.implicit.broyden import Broyden, InverseEstimate, apply
from harness.implicit.linear_solvers import CgNormal, Gmres
from harness.implicit.solvers import Adjoint, AdjointSolver, Anderson, Picard, Solution, Solver, Status
from tests.problems import MAPS, affine, linear_map, problem, relative_error


def fixed_point_solvers(tol: float | None, max_steps: int) -> dict[str, Solver]:
    return {
        "picard": Picard(tol, max_steps),
        "anderson": Anderson(tol, max_steps, memory=5, ridge=1e-6, mixing=1.0),
        "mixed anderson": Anderson(tol, max_steps, memory=5, ridge=1e-6, mixing=0.7),
        "broyden": Broyden(tol, max_steps, memory=8),
    }


def adjoint_solvers(tol: float | None, max_steps: int) -> dict[str, AdjointSolver]:
    linear = {"gmres": Gmres(tol, max_steps), "cg-normal": CgNormal(tol, max_steps)}
    return {**fixed_point_solvers(tol, max_steps), **linear}


FORWARD = tuple(fixed_point_solvers(None, 1))
LINEAR = ("gmres", "cg-normal")


def transposed_products(matrix: Tensor, v: Tensor) -> Adjoint:
    """w = v + J^T w for J = `matrix`, sample by sample."""
    nothing = torch.zeros_like(v)
    return Adjoint(v, lambda w: affine(matrix.mT, nothing, w), lambda u: affine(matrix, nothing, u))


def dense(matrix: Tensor, b: Tensor) -> Tensor:
    """x = matrix x + b."""
    return torch.linalg.solve(torch.eye(matrix.shape[1], dtype=matrix.dtype) - matrix, b)


def same(a: Solution, b: Solution, samples: list[int]) -> bool:
    """Bit by bit the same outcome for `samples`."""
    pairs = [(a.value, b.value), (a.residual, b.residual), (a.nfe, b.nfe), (a.status, b.status)]
    return all(torch.equal(x[samples], y[samples]) for x, y in pairs)


# -------------------------------------------------------------------------------------------- what they find


@pytest.mark.parametrize("map_name", MAPS)
@pytest.mark.parametrize("name", FORWARD)
def test_the_residual_is_the_true_one_and_within_tol(name: str, map_name: str) -> None:
    case = problem(map_name)
    with torch.no_grad():
        found = fixed_point_solvers(1e-10, 300)[name](case.f, case.start)
        image = case.f(found.value)
    true = (image - found.value).flatten(1).norm(dim=1) / image.flatten(1).norm(dim=1)
    assert found.status.tolist() == [Status.CONVERGED] * 2
    assert float(true.max()) <= 1e-10
    torch.testing.assert_close(true, found.residual, rtol=1e-2, atol=1e-16)
    assert relative_error(found.value, case.fixed_point()) < 1e-8


@pytest.mark.parametrize("name", adjoint_solvers(None, 1))
def test_linear_systems_against_dense_elimination(name: str) -> None:
    matrix, v = linear_map(radius=0.9)
    found = adjoint_solvers(1e-13, 600)[name].solve_adjoint(transposed_products(matrix, v))
    assert found.status.tolist() == [Status.CONVERGED] * 3
    assert relative_error(found.value, dense(matrix.mT, v)) < 1e-11


def test_krylov_methods_need_no_contraction() -> None:
    matrix, v = linear_map(radius=5.0)
    for solver in (Gmres(1e-10, 30), CgNormal(1e-10, 1000)):
        found = solver.solve_adjoint(transposed_products(matrix, v))
        assert relative_error(found.value, dense(matrix.mT, v)) < 1e-7


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_anderson_with_all_its_memory_is_gmres(k: int) -> None:
    """On a linear map, Anderson's iterate k + 1 is the map of GMRES' iterate k (Walker & Ni 2011, theorem 2.2)."""
    matrix, v = linear_map(radius=0.9)
    equation = transposed_products(matrix, v)

    def step(w: Tensor) -> Tensor:
        return v + equation.vjp(w)

    anderson = Anderson(tol=None, max_steps=k + 1, memory=k + 1, ridge=0.0, mixing=1.0)(step, torch.zeros_like(v))
    gmres = Gmres(tol=None, max_steps=k).solve_adjoint(equation)
    torch.testing.assert_close(anderson.value, step(gmres.value), rtol=1e-9, atol=1e-9)


def test_gmres_ends_exactly_after_as_many_products_as_there_are_unknowns() -> None:
    matrix, v = linear_map(radius=0.99, size=7)
    found = Gmres(tol=1e-12, max_steps=50).solve_adjoint(transposed_products(matrix, v))
    assert found.nfe.tolist() == [7, 7, 7]
    assert relative_error(found.value, dense(matrix.mT, v)) < 1e-11


def test_gmres_keeps_its_basis_orthogonal_in_single_precision() -> None:
    """One pass of Gram-Schmidt would need twice the products here, and not get there."""
    rotation = torch.linalg.qr(linear_map(radius=1.0, size=40)[0]).Q
    spread = rotation @ torch.diag(torch.logspace(0, -2, 40, dtype=torch.float64)) @ rotation.mT
    matrix, v = (torch.eye(40, dtype=torch.float64) - spread).float(), linear_map(radius=1.0, size=40)[1].float()
    found = Gmres(tol=1e-6, max_steps=60).solve_adjoint(transposed_products(matrix, v))
    assert found.status.tolist() == [Status.CONVERGED] * 3
    assert int(found.nfe.max()) <= 40


def test_gmres_residuals_fall_and_are_true() -> None:
    matrix, v = linear_map(radius=0.99)
    equation = transposed_products(matrix, v)
    residuals = []
    for k in range(1, 13):
        found = Gmres(tol=None, max_steps=k).solve_adjoint(equation)
        true = (v + equation.vjp(found.value) - found.value).norm(dim=1) / v.norm(dim=1)
        torch.testing.assert_close(found.residual, true, rtol=1e-6, atol=1e-13)
        residuals.append(found.residual)
    assert (torch.stack(residuals).diff(dim=0) <= 1e-14).all()


def fed(memory: int, points: list[Tensor], f: Callable[[Tensor], Tensor]) -> InverseEstimate:
    """Broyden's estimate after the given points."""
    estimate = InverseEstimate(memory, points[0])
    for x in points:
        estimate(x, f(x))
    return estimate


def as_matrix(estimate: InverseEstimate) -> Tensor:
    """K itself, (batch, size, size)."""
    parts = estimate.steps, estimate.surprises, estimate.matrix
    eye = torch.eye(estimate.steps.shape[2], dtype=torch.float64)
    return torch.stack([apply(*parts, column.expand(len(parts[0]), -1)) for column in eye], dim=2)


def orthogonal_points(size: int = 6) -> tuple[Tensor, Callable[[Tensor], Tensor], list[Tensor]]:
    """The matrix of a linear map, the map, and a path of `size` orthogonal steps of different lengths."""
    matrix, b = linear_map(radius=0.9, size=size)
    directions = torch.linalg.qr(linear_map(radius=1.0, size=size, seed=1)[0]).Q
    path = [torch.zeros_like(b)]
    for k in range(size):
        path.append(path[-1] + (0.5 + k) * directions[:, :, k])
    return matrix, lambda x: affine(matrix, b, x), path


def test_broydens_estimate_is_the_inverse_after_orthogonal_steps() -> None:
    """Orthogonal steps do not disturb each other, so that K ends as (I - J)^-1, and its transpose as that of J^T."""
    matrix, f, path = orthogonal_points()
    estimate = fed(6, path, f)
    exact = torch.linalg.inv(torch.eye(6, dtype=torch.float64) - matrix)
    torch.testing.assert_close(as_matrix(estimate), exact)
    v = linear_map(radius=1.0, size=6, seed=2)[1]
    torch.testing.assert_close(apply(*estimate.transposed(), v), affine(exact.mT, torch.zeros_like(v), v))


def test_broydens_estimate_is_that_of_the_rank_one_updates() -> None:
    """K + (s - K z) (s^T K) / (s^T K z), step by step, on steps that are not orthogonal."""
    _, f, path = orthogonal_points()
    path = [x + 0.7 * path[1] * k for k, x in enumerate(path)]
    expected = torch.eye(6, dtype=torch.float64).repeat(3, 1, 1)
    for k, (before, after) in enumerate(pairwise(path)):
        s, z = (after - before)[:, :, None], ((f(before) - before) - (f(after) - after))[:, :, None]
        row = s.mT @ expected
        expected = expected + (s - expected @ z) @ row / (row @ z)
        torch.testing.assert_close(as_matrix(fed(6, path[: k + 2], f)), expected)


def test_broyden_with_a_full_memory_starts_afresh() -> None:
    _, f, path = orthogonal_points()
    torch.testing.assert_close(as_matrix(fed(4, path, f)), as_matrix(fed(4, path[4:], f)))


def test_broydens_estimate_of_a_sample_at_rest_or_failed_stays_as_it_is() -> None:
    """However long the others go on, and through their fresh starts: 0 goes on, 1 rests, 2 moves but fails."""
    _, f, path = orthogonal_points()
    estimate = fed(4, path[:4], f)
    before = as_matrix(estimate)
    for k in range(7):
        x = path[3] + torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)[:, None] * (k + 1) * path[1]
        image = f(x)
        image[2] = torch.nan
        estimate(x, image)
    after = as_matrix(estimate)
    assert torch.equal(after[1:], before[1:])
    assert not torch.equal(after[0], before[0])


@pytest.mark.parametrize("memory", [2, 5, 20])
def test_a_short_memory_slows_broyden_but_never_breaks_it(memory: int) -> None:
    matrix, b = linear_map(radius=0.97, size=60, batch=8, symmetric=True)
    found = Broyden(1e-8, 300, memory)(lambda x: affine(matrix, b, x), b)
    assert found.status.tolist() == [Status.CONVERGED] * 8


@pytest.mark.parametrize("map_name", MAPS)
def test_acceleration_saves_evaluations(map_name: str) -> None:
    case = problem(map_name)
    with torch.no_grad():
        nfe = {name: int(s(case.f, case.start).nfe.max()) for name, s in fixed_point_solvers(1e-8, 300).items()}
    assert nfe["anderson"] < nfe["picard"]
    assert nfe["broyden"] < nfe["picard"]


# ------------------------------------------------------------------------------- what must not change a result


@pytest.mark.parametrize("name", adjoint_solvers(None, 1))
def test_a_sample_does_not_see_its_batch(name: str) -> None:
    """Three samples that need different numbers of steps, together and each alone."""
    matrix, v = linear_map(radius=1.0, size=40)
    matrix = matrix * torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64)[:, None, None]
    solver = adjoint_solvers(1e-8, 200)[name]
    together = solver.solve_adjoint(transposed_products(matrix, v))
    assert together.nfe.unique().numel() == 3
    for k in range(3):
        one = slice(k, k + 1)
        alone = solver.solve_adjoint(transposed_products(matrix[one], v[one]))
        assert alone.nfe.tolist() == together.nfe[one].tolist()
        torch.testing.assert_close(alone.value, together.value[one], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FORWARD)
def test_a_duplicated_batch_gives_the_same_twice(name: str) -> None:
    case = problem("de-prox")
    solver = fixed_point_solvers(1e-6, 200)[name]
    double_d = torch.cat([case.d, case.d])
    with torch.no_grad():
        once = solver(case.f, case.start)
        twice = solver(lambda state: case.map(state, double_d), torch.cat([case.start, case.start]))
    assert twice.nfe.tolist() == once.nfe.tolist() * 2
    torch.testing.assert_close(twice.value, torch.cat([once.value, once.value]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("name", FORWARD)
def test_the_pixel_scale_changes_nothing(name: str, scale: float) -> None:
    """Powers of two are exact in floating point, so the scaled solve is the same solve bit by bit."""
    case = problem("de-grad")
    solver = fixed_point_solvers(1e-6, 200)[name]
    with torch.no_grad():
        plain = solver(case.f, case.start)
        scaled = solver(lambda state: scale * case.f(state / scale), scale * case.start)
    assert torch.equal(scaled.value, scale * plain.value)
    assert torch.equal(scaled.nfe, plain.nfe)


@pytest.mark.parametrize("scale", [2.0**-30, 1e-3, 1e6])
@pytest.mark.parametrize("name", adjoint_solvers(None, 1))
def test_the_scale_of_the_right_hand_side_changes_nothing(name: str, scale: float) -> None:
    matrix, v = linear_map(radius=0.9)
    solver = adjoint_solvers(1e-3, 100)[name]
    plain, scaled = (solver.solve_adjoint(transposed_products(matrix, c * v)) for c in (1.0, scale))
    assert torch.equal(scaled.nfe, plain.nfe)
    torch.testing.assert_close(scaled.value / scale, plain.value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FORWARD)
def test_stopping_is_per_sample_and_freezes(name: str) -> None:
    """A converged sample is left where it stopped although others go on."""
    matrix, b = linear_map(radius=1.0, batch=2)
    matrix = matrix * torch.tensor([0.1, 0.9], dtype=torch.float64)[:, None, None]
    seen: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        seen.append(x[0])
        return affine(matrix, b, x)

    found = fixed_point_solvers(1e-9, 200)[name](f, b)
    stopped = int(found.nfe[0])
    assert stopped < int(found.nfe[1]) == len(seen)
    assert all(torch.equal(x, found.value[0]) for x in seen[stopped - 1 :])


# --------------------------------------------------------------------------------------------- edges of a solve


@pytest.mark.parametrize("name", FORWARD)
def test_without_tol_it_runs_exactly_max_steps_and_returns_the_last_iterate(name: str) -> None:
    matrix, b = linear_map(radius=0.1)
    calls: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        calls.append(x)
        return affine(matrix, b, x)

    found = fixed_point_solvers(None, 40)[name](f, b)
    assert len(calls) == 40
    assert found.nfe.tolist() == [40] * 3
    assert found.status.tolist() == [Status.FIXED_STEPS] * 3
    if name == "picard":
        assert torch.equal(found.value, affine(matrix, b, calls[39]))


@pytest.mark.parametrize("tol", [1e-6, None])
@pytest.mark.parametrize("name", adjoint_solvers(None, 1))
def test_a_zero_right_hand_side_has_a_zero_solution(name: str, tol: float | None) -> None:
    """One of three samples, so that its neighbours are seen to be unharmed."""
    matrix, v = linear_map(radius=0.5)
    v[1] = 0
    found = adjoint_solvers(tol, 60)[name].solve_adjoint(transposed_products(matrix, v))
    assert torch.equal(found.value[1], torch.zeros_like(v[1]))
    assert float(found.residual[1]) == 0
    assert int(found.status[1]) != Status.DIVERGED
    assert relative_error(found.value, dense(matrix.mT, v)) < 1e-5


@pytest.mark.parametrize("tol", [1e-6, None])
@pytest.mark.parametrize("name", FORWARD)
def test_a_start_at_the_fixed_point_stays_there(name: str, tol: float | None) -> None:
    """With rounding error for a residual there is nothing to accelerate, and noise that grows is not divergence."""
    case = problem("de-hqs")
    exact = case.fixed_point()
    with torch.no_grad():
        found = fixed_point_solvers(tol, 30)[name](case.f, exact)
    assert relative_error(found.value, exact) < 1e-9
    assert Status.DIVERGED not in found.status.tolist()
    if tol is not None:
        assert found.nfe.tolist() == [1, 1]


def test_the_best_iterate_is_kept() -> None:
    """The residual falls first, then grows: the iteration leaves its only good point."""
    path = torch.tensor([[8.0], [4.0], [4.01], [7.0], [20.0]], dtype=torch.float64)

    def follow(x: Tensor) -> Tensor:
        return path[1 + int((path[:-1] - x).abs().argmin())].expand(1, 1)

    found = Picard(tol=1e-9, max_steps=4)(follow, path[:1])
    assert float(found.value) == 4.0
    assert float(found.residual) == pytest.approx(0.01 / 4.01)
    assert found.status.tolist() == [Status.MAX_STEPS]


@pytest.mark.parametrize("name", FORWARD)
def test_half_precision_is_solved_in_single(name: str) -> None:
    matrix, b = linear_map(radius=0.5)

    def half(x: Tensor) -> Tensor:
        return affine(matrix, b, x.double()).bfloat16()

    found = fixed_point_solvers(1e-2, 50)[name](half, b.bfloat16())
    assert found.value.dtype == found.residual.dtype == torch.float32
    assert found.status.tolist() == [Status.CONVERGED] * 3


@pytest.mark.parametrize("name", FORWARD)
def test_the_residual_of_a_half_precision_map_is_measured_in_single(name: str) -> None:
    """The norm of f(x), 1.2e5, is infinite in float16: every residual would be zero, and every start converged."""

    def half(x: Tensor) -> Tensor:
        return (0.5 * x + 3e4).half()

    start = torch.full((2, 4), 1e4)
    found = fixed_point_solvers(1e-2, 50)[name](half, start)
    image = half(found.value).float()
    true = (image - found.value).norm(dim=1) / image.norm(dim=1)
    assert float(true.max()) <= 1e-2
    torch.testing.assert_close(found.residual, true)
    assert found.value == pytest.approx(torch.full((2, 4), 6e4), rel=0.03)


@pytest.mark.parametrize(("steps", "status"), [(8, Status.FIXED_STEPS), (20, Status.DIVERGED)])
def test_growth_from_rounding_error_is_divergence_only_once_it_matters(steps: int, status: Status) -> None:
    """A start 1e-14 away from a fixed point that repels tenfold: a million times the first residual is still small."""
    found = Picard(None, steps)(lambda x: 1 + 10 * (x - 1), torch.full((1, 3), 1 + 1e-14, dtype=torch.float64))
    assert found.status.tolist() == [status]


@pytest.mark.parametrize("solver", [Anderson(None, 9, memory=4, ridge=0.0, mixing=1.0), Broyden(None, 9, memory=4)])
def test_a_singular_small_system_takes_the_plain_step(solver: Solver) -> None:
    """f(x) = x + b has no fixed point and residuals that never change: nothing can be learnt from them."""
    b = torch.ones(2, 4, dtype=torch.float64)
    found = solver(lambda x: x + b, torch.zeros_like(b))
    assert torch.equal(found.value, 9 * b)
    assert found.status.tolist() == [Status.FIXED_STEPS] * 2


def test_mixing_weighs_the_map_against_the_state() -> None:
    """With a memory of one nothing is combined, and Anderson is x + mixing (f(x) - x)."""
    matrix, b = linear_map(radius=0.9)
    found = Anderson(None, 5, memory=1, ridge=0.0, mixing=0.3)(lambda x: affine(matrix, b, x), b)
    x = b
    for _ in range(5):
        x = 0.7 * x + 0.3 * affine(matrix, b, x)
    torch.testing.assert_close(found.value, x)


def test_one_singular_system_leaves_the_others_alone() -> None:
    matrix, b = linear_map(radius=0.9)
    identity = matrix.clone()
    identity[1] = torch.eye(12, dtype=torch.float64)
    for name, solver in fixed_point_solvers(1e-8, 80).items():
        mixed, plain = (solver(lambda x, m=m: affine(m, b, x), b) for m in (identity, matrix))
        assert same(mixed, plain, [0, 2]), name
        assert mixed.value.isfinite().all()


def test_the_ridge_is_relative() -> None:
    """To the scale of the problem, and to each residual: it may not outweigh the newest ones in a long memory."""
    matrix, b = linear_map(radius=0.95, size=40, symmetric=True)

    def nfe(solver: Solver, scale: float = 1.0) -> int:
        return int(solver(lambda x: affine(matrix, scale * b, x), scale * b).nfe.max())

    ridged = Anderson(1e-10, 400, memory=40, ridge=1e-6, mixing=1.0)
    assert nfe(ridged) == nfe(ridged, scale=1e-12)
    assert nfe(ridged) <= nfe(Anderson(1e-10, 400, memory=40, ridge=0.0, mixing=1.0)) + 1
    assert nfe(ridged) < 0.2 * nfe(Picard(1e-10, 1000))


# ----------------------------------------------------------------------------------------------- what can fail


def spoilt(f: Callable[[Tensor], Tensor], value: float, after: int) -> Callable[[Tensor], Tensor]:
    """f whose sample 1 turns into `value` from its evaluation `after` on."""
    count = 0

    def g(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        image = f(x)
        if count > after:
            image = image.clone()
            image[1] = value
        return image

    return g


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FORWARD)
def test_one_bad_sample_does_not_touch_the_others(name: str, value: float, after: int) -> None:
    matrix, b = linear_map(radius=0.9)

    def f(x: Tensor) -> Tensor:
        return affine(matrix, b, x)

    solver = fixed_point_solvers(1e-8, 300)[name]
    plain, bad = solver(f, b), solver(spoilt(f, value, after), b)
    assert same(plain, bad, [0, 2])
    assert int(bad.status[1]) == Status.DIVERGED
    assert int(bad.nfe[1]) == after + 1
    assert bad.value.isfinite().all()


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_one_bad_right_hand_side_does_not_touch_the_others(name: str, after: int) -> None:
    matrix, v = linear_map(radius=0.9)
    equation = transposed_products(matrix, v)
    solver = adjoint_solvers(1e-8, 300)[name]
    plain = solver.solve_adjoint(equation)
    bad = solver.solve_adjoint(Adjoint(v, spoilt(equation.vjp, float("nan"), after), equation.jvp))
    assert same(plain, bad, [0, 2])
    assert int(bad.status[1]) == Status.DIVERGED
    assert bad.value.isfinite().all()


@pytest.mark.parametrize("name", FORWARD)
def test_divergence_is_a_status_of_the_sample(name: str) -> None:
    """x -> 3 x + x^2 away from zero: no method gets back."""
    b = torch.linspace(1, 2, 4, dtype=torch.float64).repeat(2, 1)
    slope = torch.tensor([[3.0], [0.1]], dtype=torch.float64)
    found = fixed_point_solvers(1e-10, 60)[name](lambda x: slope * (x + b) + (slope > 1) * x.square().square(), b)
    assert int(found.status[0]) in (Status.DIVERGED, Status.MAX_STEPS)
    assert name != "picard" or int(found.status[0]) == Status.DIVERGED
    assert int(found.status[1]) == Status.CONVERGED
    assert found.value.isfinite().all()


def test_a_singular_linear_system_is_a_status() -> None:
    """J = I leaves nothing to invert. A residual relative to |w| may become small, but only by w running away."""
    matrix, v = linear_map(radius=0.5)
    matrix[1] = torch.eye(12, dtype=torch.float64)
    for name, solver in adjoint_solvers(1e-8, 200).items():
        found = solver.solve_adjoint(transposed_products(matrix, v))
        assert int(found.status[1]) != Status.CONVERGED or float(found.value[1].norm()) > 1e6 * float(v[1].norm()), name
        assert found.status[[0, 2]].tolist() == [Status.CONVERGED] * 2, name
        assert found.value.isfinite().all(), name


# ---------------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("name", adjoint_solvers(None, 1))
def test_every_product_counts_and_max_steps_bounds_them(name: str) -> None:
    matrix, v = linear_map(radius=0.99, batch=1)
    equation = transposed_products(matrix, v)
    count = 0

    def counted(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return product(x)

        return call

    solver = adjoint_solvers(1e-12, 10)[name]
    found = solver.solve_adjoint(Adjoint(v, counted(equation.vjp), counted(equation.jvp)))
    assert count == int(found.nfe) == 10
    assert found.status.tolist() == [Status.MAX_STEPS]


def test_the_device_is_asked_every_few_iterations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the CPU a solve overruns by less than HOST_CHECK_EVERY evaluations, which change and count nothing."""
    matrix, b = linear_map(radius=0.5)
    calls = 0

    def f(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return affine(matrix, b, x)

    at_once = Picard(1e-6, 100)(f, b)
    needed, calls = calls, 0
    original = solvers.Progress.__init__

    def lazy(self: solvers.Progress, x0: Tensor, tol: float) -> None:
        original(self, x0, tol)
        self.check_every = solvers.HOST_CHECK_EVERY

    monkeypatch.setattr(solvers.Progress, "__init__", lazy)
    later = Picard(1e-6, 100)(f, b)
    assert needed <= calls < needed + solvers.HOST_CHECK_EVERY
    assert same(at_once, later, [0, 1, 2])


def test_relaxation_shows_an_oscillation_that_the_plain_iteration_hides() -> None:
    start = torch.ones(1, 4, dtype=torch.float64)
    for relaxation, factor in ((1.0, -0.8), (0.5, 0.1), (1.5, -1.7)):
        found = Picard(tol=None, max_steps=6, relaxation=relaxation)(lambda x: -0.8 * x, start)
        torch.testing.assert_close(found.value, start * factor**6)


@pytest.mark.parametrize("name", ["picard", "anderson", "broyden", "gmres"])
def test_an_adjoint_tolerance_is_relative_to_the_right_hand_side(name: str) -> None:
    """Next to an eigenvalue of 1, w is many times longer than v: a residual over |w| would stop much too early."""
    matrix, v = linear_map(radius=0.98)
    zero = torch.zeros_like(v)
    equation = Adjoint(v, lambda w: affine(matrix.mT, zero, w), lambda u: affine(matrix, zero, u))
    found = adjoint_solvers(1e-2, 2000)[name].solve_adjoint(equation)
    assert found.status.tolist() == [Status.CONVERGED] * 3
    residual = (v + affine(matrix.mT, zero, found.value) - found.value).norm(dim=1) / v.norm(dim=1)
    assert float(residual.max()) <= 1e-2
    torch.testing.assert_close(found.residual, residual, rtol=1e-4, atol=1e-6)
