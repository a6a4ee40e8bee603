"""The rows beside the equilibrium models: deep unrolling of the same maps, and networks trained directly."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from harness.config.cells import TrainCell
from harness.models.build_model import build_equilibrium
from harness.models.equilibrium import Equilibrium
from harness.records.cell_folder import CellFolder
from harness.records.events import Evaluation
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell
from tests.problems import MAPS

K = 5
PICTURES = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FEED_FORWARD = {"model": "feed-forward", "backprop": {"name": "unrolled", "steps": 1}}


def cell(**fields: object) -> TrainCell:
    made = tiny_cell(**fields)
    assert isinstance(made, TrainCell)
    return made


def model(made: TrainCell) -> Equilibrium:
    """With weights that are not zero, and small enough that nothing blows up."""
    built = build_equilibrium(made)[0].double()
    for parameter in built.map.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return built


def trained(built: Equilibrium) -> set[str]:
    return {name for name, parameter in built.named_parameters() if parameter.requires_grad}


def gradients(built: Equilibrium, image: Tensor) -> list[Tensor]:
    wanted = [parameter for parameter in built.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(mse_loss(image, PICTURES), wanted))


@pytest.mark.parametrize("name", MAPS)
def test_an_unrolled_twin_is_the_same_map_taken_a_fixed_number_of_steps_through_all_of_which_it_is_trained(
    name: str,
) -> None:
    """Whatever the cell says of solver and pool, which an equilibrium would use."""
    pool = {"size": 12, "max_steps": 2}
    twin = cell(model=name, backprop={"name": "unrolled", "steps": K}, pool=pool, solver={"tol": 0.5, "max_steps": 1})
    assert twin.active_pool is None
    built = model(twin)
    found = built(PICTURES)
    state = built.map.initial(PICTURES)
    for _ in range(K):
        state = built.map(state, PICTURES)
    image = built.map.output(state, PICTURES)
    assert torch.equal(found.image, image)
    assert found.forward.nfe.tolist() == [K, K]
    for ours, plain in zip(gradients(built, found.image), gradients(built, image), strict=True):
        torch.testing.assert_close(ours, plain)
        assert float(plain.norm()) > 0


@pytest.mark.parametrize(
    ("name", "more"), [("de-grad", "step_size"), ("de-admm", "dual_step"), ("de-prox", ""), ("de-hqs", "")]
)
def test_what_moves_no_fixed_point_is_trained_in_the_unrolled_twin_only(name: str, more: str) -> None:
    equilibrium_trains = trained(model(cell(model=name)))
    twin_trains = trained(model(cell(model=name, backprop="unrolled")))
    assert twin_trains - equilibrium_trains == ({f"map.{more}.log"} if more else set())
    assert equilibrium_trains <= twin_trains


@pytest.mark.parametrize("network", [{"name": "dncnn", "depth": 3, "width": 8}, {"name": "unet", "width": 4}])
def test_a_feed_forward_network_sees_both_pictures_and_evaluates_once(network: dict[str, object]) -> None:
    built = model(cell(**FEED_FORWARD, network=network))
    found = built(PICTURES)
    assert found.forward.nfe.tolist() == [1, 1]
    elsewhere = built.map(torch.randn_like(PICTURES), PICTURES)
    assert torch.equal(found.image, elsewhere), "the state does not matter"
    p = built.map.physics.prox_l2(built.map.physics.A_adjoint(PICTURES), PICTURES, 20.0)
    expected = p - built.map.network(torch.cat([PICTURES, p], dim=1))
    torch.testing.assert_close(found.image, expected, rtol=1e-6, atol=1e-6)


def test_a_feed_forward_cell_needs_no_denoiser_and_is_recorded_like_the_others(runs: Runs) -> None:
    data = {"name": "pictures", "image_size": 32, "test_images": 4, "validation_images": 20}
    made = cell(**FEED_FORWARD, physics="paper", data=data, steps=60, evaluate_every=60, optimizer={"lr": 3e-3})
    assert made.needs is None
    folder: CellFolder = runs.cell(made.cell_id)
    folder.plan(made)
    assert run_cell(folder.path, RankPosition.from_environment()) == "finished"
    events = folder.events()
    scores = [e.mean("psnr") for e in events if isinstance(e, Evaluation) and e.split == "validation"]
    assert scores[-1] > scores[0] + 0.3
    assert [event.event for event in events].count("step") == 60
    assert "probe" in {event.event for event in events}
    assert not {"contraction", "fidelity"} & {event.event for event in events}, "there is no map to iterate"
