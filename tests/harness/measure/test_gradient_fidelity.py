"""How good a gradient is said to be, on maps of which the exact gradient is known."""

import pytest
import torch
from torch import Tensor

from harness.config.catalog.backprop import BackpropSpec
from harness.config.cells import TrainCell
from harness.implicit.backprop import Implicit, Neumann
from harness.implicit.linear_solvers import CgNormal
from harness.measure.gradient_fidelity import Method, compare_gradients, methods
from harness.records.events import GradientError
from tests.conftest import tiny_cell
from tests.problems import MAPS, Case, flat, problem

ORDERS = (0, 1, 2, 4, 8, 16)


def errors(one: Case, compared: dict[str, Method]) -> dict[str, GradientError]:
    found = compare_gradients(one.map, one.d, torch.zeros_like(one.d), compared)
    assert found.methods is not None
    assert found.forward_residual <= 1e-10
    assert found.adjoint_residual is not None
    assert found.adjoint_residual <= 1e-10
    return found.methods


def cell(**fields: object) -> TrainCell:
    made = tiny_cell(solver={"name": "anderson", "tol": 1e-10, "max_steps": 60}, **fields)
    assert isinstance(made, TrainCell)
    return made


@pytest.mark.parametrize("name", MAPS)
def test_exact_gradient_by_another_solver_is_exact_and_neumann_approaches_it(name: str) -> None:
    compared = {"cg": Method(Implicit(CgNormal(tol=1e-10, max_steps=400)))}
    compared |= {f"neumann {order}": Method(Neumann(order)) for order in ORDERS}
    found = errors(problem(name), compared)
    exact = found.pop("cg")
    assert exact.cosine == pytest.approx(1, abs=1e-8)
    assert exact.norm_ratio == pytest.approx(1, abs=1e-8)
    assert exact.relative_error is not None
    assert exact.relative_error < 1e-6
    falling = [error.relative_error for error in found.values()]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] is not None
    assert 0 < 20 * falling[-1] < (falling[0] or 0)
    assert [error.products for error in found.values()] == [order + 1 for order in ORDERS]


def test_reference_is_the_gradient_of_dense_elimination() -> None:
    """Against a gradient known otherwise: jfb's error is what dense linear algebra says it is."""
    one = problem("de-hqs")
    at = one.fixed_point()
    state = one.f(at)
    v = state.detach() * 2 / state.numel()
    exact = flat(torch.autograd.grad(state, one.parameters(), one.adjoint(at, v), retain_graph=True))
    jfb = flat(torch.autograd.grad(state, one.parameters(), v))
    measured = errors(one, {"jfb": Method(Neumann(0))})["jfb"]
    assert measured.relative_error == pytest.approx(float((jfb - exact).norm() / exact.norm()), rel=1e-6)
    assert measured.norm_ratio == pytest.approx(float(jfb.norm() / exact.norm()), rel=1e-6)
    assert measured.cosine == pytest.approx(float(jfb @ exact / (jfb.norm() * exact.norm())), rel=1e-6)


def test_every_method_of_the_catalog_is_compared_and_unrolling_far_is_exact() -> None:
    own = cell(backprop={"name": "neumann", "order": 3})
    found = errors(problem("de-prox"), methods(own))
    assert found.keys() == {*BackpropSpec.choices(), "implicit-tight", "as trained"}
    for name in ("implicit-tight", "unrolled"):
        assert found[name].cosine == pytest.approx(1, abs=1e-8), name
        assert found[name].relative_error == pytest.approx(0, abs=1e-5), name
    assert found["unrolled"].evaluations == found["unrolled"].products == 60
    assert found["jfb"].evaluations == 2
    assert found["as trained"].products == 4
    assert found["as trained"].evaluations > found["neumann"].evaluations


def test_shine_finds_its_own_fixed_point() -> None:
    shine = methods(cell())["shine"]
    found = errors(problem("de-hqs"), {"shine": shine, "jfb": Method(Neumann(0))})
    assert found["shine"].evaluations > 5
    assert found["shine"].products == 1
    assert found["shine"].relative_error is not None
    assert found["jfb"].relative_error is not None
    assert found["shine"].relative_error < found["jfb"].relative_error


def test_training_model_is_untouched() -> None:
    one = problem("de-grad")
    one.backward(Neumann(0))
    before = [(p.detach().clone(), p.grad) for p in one.parameters()]
    gradients: list[Tensor] = [p.grad.clone() for p in one.parameters() if p.grad is not None]
    errors(one, {"neumann": Method(Neumann(2))})
    for parameter, (value, gradient), kept in zip(one.parameters(), before, gradients, strict=True):
        assert parameter.equal(value)
        assert parameter.grad is gradient
        assert kept.equal(gradient if gradient is not None else kept * torch.nan)


@pytest.mark.parametrize("scale", [-20.0, 1e4, float("nan")])
def test_map_without_a_fixed_point_has_no_reference_and_no_number(scale: float) -> None:
    """-20: it grows without bound; nan: it is broken."""
    one = problem("de-grad")
    expanding = type(one.map)(one.map.physics, Scaled(scale), step_size=1.0, weight=1.0).double()
    found = compare_gradients(expanding, one.d, torch.zeros_like(one.d), methods(cell()))
    assert found.methods is None
    assert found.left_out == list(range(len(one.d)))


@pytest.mark.parametrize("place", [0, 1])
def test_a_picture_without_a_reference_leaves_the_others_as_they_are(place: int) -> None:
    one = problem("de-hqs")
    broken = one.d.clone()
    broken[place] = torch.nan
    compared = {"jfb": Method(Neumann(0)), "neumann": Method(Neumann(3))}
    others = [k for k in range(len(one.d)) if k != place]
    found = compare_gradients(one.map, broken, torch.zeros_like(broken), compared)
    alone = compare_gradients(one.map, one.d[others], torch.zeros_like(one.d[others]), compared)
    assert (found.left_out, alone.left_out) == ([place], [])
    assert found.methods is not None
    assert alone.methods is not None
    assert found.forward_residual <= 1e-10
    for name, error in alone.methods.items():
        assert found.methods[name].relative_error == pytest.approx(error.relative_error, rel=1e-6), name


class Scaled(torch.nn.Module):
    """x -> scale (x + x^2): no fixed point that a solver reaches."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (1 + x.square())
