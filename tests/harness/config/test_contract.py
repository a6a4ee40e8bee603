"""Every choice of the catalog: its target exists, is built by its spec alone, and does what its family promises.

A newcomer to the catalog is tested here without a new test.
"""

import pytest
import torch
from torch import Tensor, nn

from harness.config.build import build, resolve
from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.baselines import BaselineSpec
from harness.config.catalog.maps import MapSpec
from harness.config.catalog.networks import NetworkSpec
from harness.config.catalog.optimization import ScheduleSpec
from harness.config.catalog.physics import PhysicsSpec
from harness.config.catalog.solvers import AdjointSolverSpec, SolverSpec
from harness.config.spec import Spec
from harness.implicit.backprop import Differentiable, Problem
from harness.implicit.solvers import Adjoint, Solution, Solver, Status
from tests.problems import affine, linear_map, problem

FAMILIES = [
    AdjointSolverSpec, SolverSpec, BackpropSpec, MapSpec, NetworkSpec, PhysicsSpec, ScheduleSpec, BaselineSpec
]  # fmt: skip
SIZE = 16
PICTURES = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def every(*families: type[Spec]) -> pytest.MarkDecorator:
    """Each choice of the families, with its default parameters."""
    specs = [spec for family in families for spec in family.choices().values()]
    return pytest.mark.parametrize("spec", [spec() for spec in specs], ids=[spec().name for spec in specs])


@every(*FAMILIES)
def test_the_target_exists_and_documents_itself(spec: Spec) -> None:
    assert resolve(spec.import_path).__doc__
    assert type(spec).__doc__
    assert all(field.description for name, field in type(spec).model_fields.items() if name != "name")


@every(SolverSpec)
def test_a_solver_finds_fixed_points(spec: SolverSpec) -> None:
    solver: Solver = build(spec)
    matrix, b = linear_map(radius=0.5)
    found: Solution = solver(lambda x: affine(matrix, b, x), b)
    assert found.status.tolist() == [Status.CONVERGED] * 3


@every(AdjointSolverSpec)
def test_an_adjoint_solver_solves_adjoint_equations(spec: AdjointSolverSpec) -> None:
    matrix, v = linear_map(radius=0.5)
    zero = torch.zeros_like(v)
    equation = Adjoint(v, lambda w: affine(matrix.mT, zero, w), lambda u: affine(matrix, zero, u))
    found: Solution = build(spec).solve_adjoint(equation)
    assert found.status.tolist() == [Status.CONVERGED] * 3
    exact = torch.linalg.solve(torch.eye(12, dtype=v.dtype) - matrix.mT, v)
    torch.testing.assert_close(found.value, exact, rtol=1e-2, atol=1e-2)


@every(BackpropSpec)
def test_a_backprop_method_ends_in_a_gradient_of_every_parameter(spec: BackpropSpec) -> None:
    """With the first forward solver that it goes with; a random method with one draw a sample."""
    case = problem("de-hqs")
    forward = sorted(spec.forward_solvers or {"anderson"})[0]
    case.map.zero_grad()
    draws = torch.tensor([0.2, 0.9], dtype=torch.float64)
    found: Differentiable = build(spec)(
        Problem(case.f, case.start, build(SolverSpec.choices()[forward]()), draws=draws)
    )
    assert found.state.shape == case.start.shape
    case.loss(found.state).backward()
    for parameter in case.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) > 0


@every(BackpropSpec)
def test_the_forward_solvers_of_a_backprop_method_exist(spec: BackpropSpec) -> None:
    assert spec.forward_solvers <= SolverSpec.choices().keys()


@every(PhysicsSpec)
def test_physics_has_an_adjoint_and_a_proximal_step(spec: PhysicsSpec) -> None:
    physics = build(spec, SIZE).float()
    x, d = PICTURES, PICTURES.flip(0)
    torch.testing.assert_close((physics.A(x) * d).sum(), (x * physics.A_adjoint(d)).sum())
    near = physics.prox_l2(x, d, 2.0)
    torch.testing.assert_close(2 * physics.A_adjoint(physics.A(near) - d) + near, x, rtol=1e-4, atol=1e-4)
    assert physics.norm > 0


@every(NetworkSpec)
def test_a_network_takes_pictures_to_pictures(spec: NetworkSpec) -> None:
    network: nn.Module = build(spec)
    assert network(PICTURES).shape == PICTURES.shape
    assert network(PICTURES[..., :13, :11]).shape == (2, 3, 13, 11)
    assert build(spec, inputs=6)(torch.cat([PICTURES, PICTURES], dim=1)).shape == PICTURES.shape


@every(MapSpec)
def test_a_map_keeps_the_shape_of_its_state_and_outputs_a_picture(spec: MapSpec) -> None:
    physics = build(PhysicsSpec.choices()["gaussian-blur"](), SIZE).float()
    inputs = 3 if spec.iterated else 6
    map = build(spec, physics, build(NetworkSpec.choices()["dncnn"](depth=3, width=4), inputs=inputs))
    start: Tensor = map.initial(PICTURES)
    state = map(start, PICTURES)
    assert state.shape == start.shape
    assert map.output(state, PICTURES).shape == PICTURES.shape


@every(ScheduleSpec)
def test_a_schedule_runs_to_the_end_with_learning_rates_above_zero(spec: ScheduleSpec) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = build(spec, optimizer, 40)
    for _ in range(40):
        assert 0 < schedule.get_last_lr()[0] <= 0.1
        optimizer.step()
        schedule.step()


@every(BaselineSpec)
def test_a_baseline_reconstructs(spec: BaselineSpec) -> None:
    physics = build(PhysicsSpec.choices()["gaussian-blur"](kernel_std=0.5), SIZE).float()
    context = [build(NetworkSpec.choices()["dncnn"](depth=3, width=4))] if spec.needs_denoiser else []
    baseline = build(spec, *context)
    found = baseline(physics, PICTURES, *(parameter.start for parameter in baseline.parameters)).detach()
    assert found.shape == PICTURES.shape
    assert found.isfinite().all()
    assert all(parameter.ratio > 1 for parameter in baseline.parameters)
