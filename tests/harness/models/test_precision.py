"""Which part of a model computes in a shorter type, and where that is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.config.cells import TrainCell
from harness.measure.clock import Clock
from harness.models.build_model import build_network
from harness.models.networks import DnCNN
from harness.models.precision import Bfloat16, set_precision
from harness.training.task import train_task
from launch.local.single import run_here
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

CPU = torch.device("cpu")


def dtypes_inside(network: nn.Module) -> set[torch.dtype]:
    """Of what the convolutions return from now on."""
    seen: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    return seen


def test_only_the_network_computes_in_bfloat16() -> None:
    """State, adjoint, Gram matrices, loss and gradients stay in float32."""
    cell = tiny_cell(precision="bfloat16", data={"image_size": 16}, backprop="implicit", solver={"tol": 1e-2})
    assert isinstance(cell, TrainCell)
    torch.manual_seed(0)
    denoiser = {name: 0.1 * torch.randn_like(t) for name, t in build_network(cell)[0].state_dict().items()}
    task = train_task(cell, denoiser, 32, slice(0, 6), CPU, Clock(CPU))
    seen = dtypes_inside(task.model)
    grams: set[torch.dtype] = set()
    original = torch.linalg.solve_ex

    def spy(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        grams.add(matrix.dtype)
        return original(matrix, right)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "solve_ex", spy)
        output = task.model(torch.rand(2, 3, 16, 16), None, torch.rand(2))
        loss = output.image.square().mean()
        loss.backward()
    assert seen == {torch.bfloat16}
    (adjoint,) = output.adjoint
    tensors = [output.image, output.state, output.forward.value, output.forward.residual, adjoint.value, loss]
    assert {tensor.dtype for tensor in tensors} | grams == {torch.float32}
    assert {p.grad.dtype for p in task.model.parameters() if p.grad is not None} == {torch.float32}


def test_a_network_in_bfloat16_is_near_the_one_in_float32_and_exact_in_float64() -> None:
    torch.manual_seed(0)
    network = DnCNN(depth=3, width=8)
    nn.init.normal_(network[-1].weight, std=0.1)
    x = torch.rand(1, 3, 16, 16)
    exact, short = network(x).detach(), Bfloat16(network)(x).detach()
    assert 1e-4 < float((short - exact).norm() / exact.norm()) < 3e-2
    network.double()
    assert torch.equal(Bfloat16(network)(x.double()), network(x.double()))


@pytest.mark.parametrize("precision", ["float32", "tf32", "float64"])
def test_tf32_is_for_convolutions_and_only_where_it_is_asked_for(precision: str) -> None:
    """Its default in torch is on for convolutions."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        set_precision(precision, torch.device("cuda"))
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_job_on_a_cpu_refuses_it_in_one_line(precision: str, tmp_path: Path) -> None:
    cell = tiny_cell(precision=precision).needs
    assert cell is not None
    folder = Runs(tmp_path / "runs").cell(cell.cell_id)
    folder.plan(cell)
    with pytest.raises(ValueError, match=f"precision: '{precision}' needs an accelerator"):
        run_here(folder)
    status = folder.status()
    assert status.state == "failed"
    assert "precision: " in status.message
    assert "\n" not in status.message
    assert not list(folder.path.glob("attempts/*/record.jsonl"))
