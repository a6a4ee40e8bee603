"""Denoisers that contract by construction: their norms against dense matrices, after steps that push them outwards."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.config.cells import TrainCell
from harness.implicit.contraction import spectrum
from harness.models.build_model import build_equilibrium, build_network
from harness.models.contractive import Contractive
from harness.models.lipschitz import norm_bound
from harness.records.events import Contraction
from launch.local.single import run_here
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell
from tests.harness.models.test_lipschitz import dense_norm

NETWORKS: list[dict[str, Any]] = [
    {"name": "averaged", "depth": 3, "width": 8},
    {"name": "averaged", "depth": 2, "width": 6, "averaging": 0.9, "contraction": 1.0},
    {"name": "gradient-step", "depth": 2, "width": 8},
    {"name": "gradient-step", "depth": 1, "width": 8, "contraction": 1.0},
]
SIZE = 6
ids = [f"{network['name']}-{network['depth']}" for network in NETWORKS]


def pushed(network: dict[str, Any], steps: int = 200) -> Contractive:
    """After Adam steps that make the denoiser amplify as much as they can."""
    torch.manual_seed(0)
    built, projection = build_network(tiny_cell(network=network))
    assert isinstance(built, Contractive)
    assert projection is not None
    optimizer = torch.optim.Adam(built.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *_: projection())
    for _ in range(steps):
        x = torch.rand(4, 3, 12, 12)
        optimizer.zero_grad()
        (built(x).square().mean() - (x - built(x)).square().mean()).backward()
        optimizer.step()
    return built


def jacobian(network: nn.Module, seed: int) -> Tensor:
    """J_D at a random picture, (size, size)."""
    x = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = torch.autograd.functional.jacobian(lambda x: x - network(x), x)
    assert isinstance(found, Tensor)
    return found.reshape(x.numel(), x.numel())


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_norms_stay_within_their_bounds_whatever_the_training_does(network: dict[str, Any]) -> None:
    built = pushed(network)
    bound = built.denoiser_bound()
    layers = [layer for layer in built.modules() if isinstance(layer, nn.Conv2d)]
    norms = [dense_norm(layer, torch.Size([1, layer.in_channels, 12, 12])) for layer in layers]
    assert max(norms) <= 1 + 1e-3
    assert max(norms) > 0.8, "the bound is felt"
    for layer, norm in zip(layers, norms, strict=True):
        assert norm <= norm_bound(layer) <= max(norm * 1.1, 0.1)
    for seed in range(3):
        assert torch.linalg.matrix_norm(jacobian(built.double(), seed), 2) <= min(1.0, bound) + 1e-9
    if network.get("contraction") is None:
        assert bound < 1, "a certified contraction"


@pytest.mark.parametrize("network", NETWORKS[2:], ids=ids[2:])
def test_the_jacobian_of_a_gradient_step_is_symmetric_and_not_negative(network: dict[str, Any]) -> None:
    matrix = jacobian(pushed(network, steps=20).double(), 0)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix).min() >= -1e-9


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_training_as_a_denoiser_beats_no_denoiser(network: dict[str, Any]) -> None:
    """On smooth pictures with the noise and the learning rate of the pretraining."""
    torch.manual_seed(0)
    built, projection = build_network(tiny_cell(network=network))
    assert projection is not None
    optimizer = torch.optim.Adam(built.parameters(), lr=2e-3)
    optimizer.register_step_post_hook(lambda *_: projection())
    errors = []
    for _ in range(150):
        picture = nn.functional.interpolate(torch.rand(8, 3, 6, 6), size=24, mode="bicubic")
        noise = 0.02 * torch.randn_like(picture)
        optimizer.zero_grad()
        error = (noise - built(picture + noise)).square().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item() / 0.02**2)
    assert sum(errors[-10:]) / 10 < 0.9, "of the noise's own mean square"


@pytest.mark.parametrize(("network", "seed"), list(product(NETWORKS[::2], range(2))), ids=str)
def test_the_map_with_it_has_a_radius_below_one_wherever_it_is(network: dict[str, Any], seed: int) -> None:
    """At random pictures, not only at fixed points, after steps that push outwards."""
    cell = tiny_cell(network=network, model="de-hqs", data={"image_size": 12})
    assert isinstance(cell, TrainCell)
    map = build_equilibrium(cell)[0].map
    map.network.load_state_dict(pushed(network, steps=40).state_dict())
    map = map.double()
    x = torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = spectrum(lambda state: map(state, x), x.flip(0))
    assert found.eigenvalue.abs().max() < 1
    assert found.norm.max() < 1


@pytest.mark.parametrize("name", ["averaged", "gradient-step", "dncnn"])
def test_a_trained_map_records_the_bound_of_its_denoiser(runs: Runs, name: str) -> None:
    cell = tiny_cell(network={"name": name, "width": 8}, model="de-hqs")
    for one in (cell.needs, cell):
        assert one is not None
        folder = runs.cell(one.cell_id)
        folder.plan(one)
        assert run_here(folder) == "finished"
    bounds = [event.denoiser_bound for event in folder.events() if isinstance(event, Contraction)]
    assert len(bounds) == 2
    assert all((bound is None) if name == "dncnn" else (bound is not None and bound < 1) for bound in bounds)
