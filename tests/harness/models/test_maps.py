"""The maps: what their fixed points solve, which of them share fixed points, and that a map stands still."""

import pytest
import torch
from torch import Tensor, nn

from harness.config.build import build
from harness.config.catalog.networks import DnCNN as DnCNNSpec
from harness.config.catalog.networks import NetworkSpec
from harness.models.maps import DeAdmm, DeGrad, DeHqs, DeProx, Map, Positive
from tests.problems import MAPS, TIGHT, Case, problem, relative_error

NETWORK = problem("de-grad").map.network
PHYSICS = problem("de-grad").map.physics
D = problem("de-grad").d


def trained(map: Map) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in map.named_parameters() if parameter.requires_grad}


def picture(map: Map) -> Tensor:
    """The picture at the map's fixed point."""
    case = Case(map.double(), D)
    return map.output(case.fixed_point(), D).detach()


@pytest.mark.parametrize("weight", [0.4, 0.9])
@pytest.mark.parametrize("step_size", [0.5, 1.1])
def test_de_grad_and_de_hqs_have_the_same_fixed_points(step_size: float, weight: float) -> None:
    """DE-GRAD with weight lambda and DE-HQS with penalty 1/lambda, whatever the step."""
    gradient, splitting = DeGrad(PHYSICS, NETWORK, step_size, weight), DeHqs(PHYSICS, NETWORK, 1 / weight)
    assert relative_error(picture(gradient), picture(splitting)) < 1e-12


@pytest.mark.parametrize("weight", [0.4, 0.8])
@pytest.mark.parametrize("dual_step", [0.5, 0.9])
def test_de_prox_and_de_admm_have_the_same_fixed_points(dual_step: float, weight: float) -> None:
    """DE-PROX with step eta and DE-ADMM with penalty eta, whatever the dual step."""
    proximal = DeProx(PHYSICS, NETWORK, 1.3, weight)
    multipliers = DeAdmm(PHYSICS, NETWORK, 1.3, weight, dual_step)
    assert relative_error(picture(proximal), picture(multipliers)) < 1e-12


def test_the_two_pairs_differ() -> None:
    assert relative_error(picture(problem("de-grad").map), picture(problem("de-prox").map)) > 1e-3


def test_a_step_is_the_formula() -> None:
    """Written out on T's ingredients, away from any fixed point."""
    x, u = torch.rand(2, *D.shape, dtype=D.dtype, generator=torch.Generator().manual_seed(7))
    n, prox, data = NETWORK, PHYSICS.prox_l2, lambda s: PHYSICS.A_adjoint(PHYSICS.A(s) - D)
    half = x - 1.3 * data(x)
    near = prox(x - u, D, 1.3)
    z = near + u - 0.4 * n(near + u)
    expected = {
        DeGrad(PHYSICS, n, step_size=1.3, weight=0.4): (x, x - 1.3 * (data(x) + 0.4 * n(x))),
        DeProx(PHYSICS, n, step_size=1.3, weight=0.4): (x, half - 0.4 * n(half)),
        DeAdmm(PHYSICS, n, penalty=1.3, weight=0.4, dual_step=0.6): (
            torch.cat([x, u], dim=1), torch.cat([z, u + 0.6 * (near - z)], dim=1)
        ),
        DeHqs(PHYSICS, n, penalty=1.3): (x, prox(x - n(x), D, 1.3)),
    }  # fmt: skip
    for map, (state, image) in expected.items():
        torch.testing.assert_close(map.double()(state, D), image, rtol=1e-6, atol=1e-7)


def test_de_grad_stops_where_data_and_prior_balance() -> None:
    """A^T (Ax - d) + lambda N(x) = 0 (paper, eq. 4)."""
    map = problem("de-grad").map
    assert isinstance(map, DeGrad)
    x = picture(map)
    data, prior = map.gradient(x, D), (map.weight() * map.network(x)).detach()
    assert relative_error(data, -prior) < 1e-12
    assert float(prior.norm()) > 0.1


@pytest.mark.parametrize("name", MAPS)
def test_a_map_stands_still(name: str) -> None:
    """T twice on the same state, with other states between, in training mode, gives the same bits."""
    case = problem(name)
    case.map.train()
    state = torch.rand_like(case.start)
    first = case.f(state)
    case.f(torch.rand_like(state)).sum().backward()
    assert torch.equal(case.f(state), first)


@pytest.mark.parametrize("spec", [*NetworkSpec.choices().values()], ids=[*NetworkSpec.choices()])
def test_a_network_is_one_function_of_each_sample(spec: type[NetworkSpec]) -> None:
    """No batch statistics and no dropout, in training mode too: it is evaluated many times inside one solve."""
    torch.manual_seed(0)
    network = build(spec()).double().train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    image = network(x)
    assert torch.equal(network(x), image)
    torch.testing.assert_close(torch.cat([network(one) for one in x.split(1)]), image)
    assert image.shape == x.shape


@pytest.mark.parametrize("name", MAPS)
def test_damping_moves_no_fixed_point_and_mixes_the_jacobian_with_the_identity(name: str) -> None:
    case = problem(name)
    at = case.fixed_point()
    before = case.jacobian(at)
    case.map.damping = 0.6
    try:
        assert relative_error(case.f(at), at) < 1e-12
        eye = torch.eye(at[0].numel(), dtype=at.dtype)
        torch.testing.assert_close(case.jacobian(at), 0.4 * eye + 0.6 * before)
    finally:
        case.map.damping = 1.0


@pytest.mark.parametrize("name", MAPS)
def test_gradients_reach_the_network_and_every_trained_number(name: str) -> None:
    """Also through the picture of DE-ADMM, which is taken from T(s*): inside the last T it would miss the network."""
    case = problem(name)
    case.map.zero_grad()
    state = case.f(case.fixed_point())
    picture = case.map.output(state, case.d)
    assert picture.shape == case.d.shape
    picture.square().sum().backward()
    for parameter_name, parameter in trained(case.map).items():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.norm()) > 0, parameter_name


def test_what_does_not_move_the_fixed_point_is_not_trained() -> None:
    numbers = {name: sorted(n for n in trained(problem(name).map) if "network" not in n) for name in MAPS}
    assert numbers == {
        "de-grad": ["weight.log"],
        "de-prox": ["step_size.log", "weight.log"],
        "de-admm": ["penalty.log", "weight.log"],
        "de-hqs": ["penalty.log"],
    }


@pytest.mark.parametrize("name", MAPS)
def test_the_iteration_starts_at_the_adjoint_of_the_measurement(name: str) -> None:
    case = problem(name)
    assert torch.equal(case.start[:, :3], case.map.physics.A_adjoint(case.d))
    assert torch.equal(case.start[:, 3:], torch.zeros_like(case.start[:, 3:]))


def test_the_fixed_point_is_reached_from_anywhere() -> None:
    for name in MAPS:
        case = problem(name)
        with torch.no_grad():
            found = TIGHT(case.f, torch.randn_like(case.start))
        assert relative_error(found.value, case.fixed_point()) < 1e-11, name


def test_a_positive_number_is_its_value_and_stays_positive() -> None:
    number = Positive(0.3).double()
    assert float(number().detach()) == pytest.approx(0.3)
    with torch.no_grad():
        number.log.fill_(-50.0)
    assert float(number().detach()) > 0


def test_a_fresh_network_removes_nothing() -> None:
    """D(x) = x - N(x) is the identity before pretraining."""
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(build(DnCNNSpec(depth=3, width=4))(x), torch.zeros_like(x))
