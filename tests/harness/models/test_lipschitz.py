"""The norm of a convolution against the dense matrix of the same map, and a training that keeps to its bound."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.config.catalog.baselines import PnpPgd
from harness.config.cells import BaselineCell, TrainCell
from harness.models.build_model import build_network
from harness.models.lipschitz import Projection, power_iteration
from harness.run.checkpoint import load_newest
from launch.local.single import run_here
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

SIZE = 12
BOUNDED = {"name": "dncnn", "depth": 3, "width": 4, "lipschitz": 0.7}


def dense_norm(layer: nn.Conv2d, shape: torch.Size) -> float:
    """The largest singular value of the (outputs, inputs) matrix of a convolution of whole pictures."""
    eye = torch.eye(shape[1:].numel(), dtype=torch.float64).view(-1, *shape[1:])
    weight_only = nn.functional.conv2d(eye, layer.weight.detach().double(), stride=layer.stride, padding=layer.padding)
    return float(torch.linalg.matrix_norm(weight_only.flatten(1), 2))


def reshaped_norm(layer: nn.Conv2d) -> float:
    return float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))


def convolution(seed: int = 0, stride: int = 1) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(3, 5, kernel_size=3, padding=1, stride=stride).double()


@pytest.mark.parametrize("stride", [1, 2])
def test_the_estimate_is_the_norm_of_the_dense_matrix_with_zero_padding(stride: int) -> None:
    layer = convolution(stride=stride)
    v = torch.randn(1, 3, SIZE, SIZE, dtype=torch.float64)
    exact, estimates = dense_norm(layer, v.shape), []
    for _ in range(300):
        v, norm = power_iteration(layer, v)
        estimates.append(float(norm))
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(estimates))
    assert estimates[-1] == pytest.approx(exact, rel=1e-4)
    assert max(estimates) <= exact * (1 + 1e-12)
    assert float(v.norm()) == pytest.approx(1)


def test_the_reshaped_weight_has_another_norm() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(layer.weight)
    assert dense_norm(layer, torch.Size([1, 1, SIZE, SIZE])) > 2.5 * reshaped_norm(layer)


def norms(network: nn.Module) -> list[float]:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return [dense_norm(layer, layer.get_buffer("dominant").shape) for layer in layers]


@pytest.mark.parametrize("name", ["dncnn", "unet"])
def test_layers_beyond_the_bound_end_on_it_and_others_are_left_alone(name: str) -> None:
    cell = tiny_cell(network={"name": name, "width": 4, "lipschitz": 0.7}, data={"image_size": SIZE})
    torch.manual_seed(0)
    network, projection = build_network(cell)
    assert projection is not None
    first, *_, last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        last.weight.normal_(std=1e-3)
        first.weight.mul_(3)
    small = last.weight.detach().clone()
    for _ in range(100):
        projection()
    assert torch.equal(last.weight, small)
    *inner, smallest = norms(network)
    assert inner == pytest.approx([0.7] * len(inner), rel=1e-2)
    assert smallest < 0.7


def test_a_layer_of_zeros_stays_and_can_leave() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    nn.init.zeros_(layer.weight)
    projection = Projection(layer, 0.5, SIZE)
    assert torch.equal(layer.weight, torch.zeros_like(layer.weight))
    with torch.no_grad():
        layer.weight.normal_()
    for _ in range(100):
        projection()
    assert dense_norm(layer, torch.Size([1, 3, SIZE, SIZE])) == pytest.approx(0.5, rel=1e-2)


def test_training_stays_within_the_bound_and_checkpoints_the_vectors(tmp_path: Path) -> None:
    """The iterations of a step follow the norm, pretraining and training alike: at this rate to some percent."""
    runs = Runs(tmp_path / "runs")
    often = {"steps": 20, "lr": 0.01}
    small = {"image_size": 16, "train_images": 32, "validation_images": 2, "test_images": 2}
    cell = tiny_cell(network=BOUNDED, data=small, pretraining=often, steps=20, optimizer={"lr": 0.01},
                     operations={"checkpoint_every": 10})  # fmt: skip
    assert cell.needs is not None
    assert cell.needs.cell_id != tiny_cell(network={**BOUNDED, "lipschitz": None}).needs.cell_id
    vectors: list[Tensor] = []
    for one in (cell.needs, cell):
        folder = runs.cell(one.cell_id)
        folder.plan(one)
        assert run_here(folder) == "finished"
        loaded = load_newest(folder.checkpoints)
        assert loaded is not None
        prefix = "map.network." if one is cell else "network."
        state = {name.removeprefix(prefix): t for name, t in loaded[1]["model"].items() if name.startswith(prefix)}
        network, _ = build_network(cell)
        network.load_state_dict(state)
        assert max(norms(network)) <= 0.7 * 1.05
        assert max(norms(network)) > 0.6, "the bound is felt"
        vectors.append(state["2.dominant"])
    assert not torch.equal(*vectors)


def test_a_bounded_denoiser_can_be_plugged_in(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    small = {"image_size": 16, "train_images": 32, "validation_images": 2, "test_images": 2}
    trained = tiny_cell(network=BOUNDED, data=small)
    assert isinstance(trained, TrainCell)
    method = PnpPgd(iterations=2)
    plugged = BaselineCell(baseline=method, data=trained.data, network=trained.network, pretraining=trained.pretraining)
    for one in (plugged.needs, plugged):
        assert one is not None
        folder = runs.cell(one.cell_id)
        folder.plan(one)
        assert run_here(folder) == "finished"


def test_the_map_stands_still_between_two_steps() -> None:
    network, projection = build_network(tiny_cell(network=BOUNDED, data={"image_size": SIZE}))
    assert projection is not None
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    x = torch.rand(2, 3, SIZE, SIZE)
    first = network(x)
    network(torch.rand_like(x)).sum().backward()
    assert torch.equal(network(x), first)
    projection()
    assert not torch.equal(network(x), first)
