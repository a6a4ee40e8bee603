"""What a cell's config means in torch: the model, its optimiser and schedule, and how a batch becomes a measurement."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.build import build
from harness.catalog import Adam, Cosine, OptimizerSpec, ScheduleSpec
from harness.clock import Clock
from harness.config import PretrainCell, TrainCell
from harness.data import Batch
from harness.model import Equilibrium, Output
from harness.physics import measure
from harness.solvers import Solution, Status

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Task:
    """Everything the training loop needs, on the device."""

    model: nn.Module
    measure: Callable[[Batch], Tensor]
    optimizer: Optimizer
    schedule: LRScheduler
    steps: int
    gradient_clip: float | None
    evaluate_every: int


class Denoiser(nn.Module):
    """D(x) = x - N(x), with the outward shape of an equilibrium model so that one loop trains both."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, d: Tensor) -> Output:
        """Denoise (batch, 3, height, width)."""
        image = d - self.network(d)
        once = torch.ones(len(d), dtype=torch.int64, device=d.device)
        zero = torch.zeros(len(d), dtype=d.dtype, device=d.device)
        return Output(image, image.detach(), Solution(image.detach(), zero, once, zero.long() + Status.CONVERGED), [])


def pretrain_task(cell: PretrainCell, device: torch.device) -> Task:
    """The denoiser, from random weights; the scale of its noise follows the pixel range."""
    torch.manual_seed(cell.seed)
    model = Denoiser(build(cell.network)).to(device, DTYPES[cell.precision])
    noise_std = cell.pretraining.noise_std * (cell.value_range[1] - cell.value_range[0])
    return _task(
        model,
        lambda batch: batch.images + noise_std * batch.noise,
        Adam(lr=cell.pretraining.lr),
        Cosine(),
        steps=cell.pretraining.steps,
        gradient_clip=1.0,
        evaluate_every=cell.pretraining.steps,
    )


def train_task(cell: TrainCell, denoiser: dict[str, Tensor], device: torch.device, clock: Clock) -> Task:
    """The equilibrium model with the pretrained denoiser plugged in."""
    physics = build(cell.physics, cell.data.image_size)
    network = build(cell.network)
    network.load_state_dict(denoiser)
    map = build(cell.model, physics, network)
    model = Equilibrium(map, build(cell.solver), build(cell.backprop), clock).to(device, DTYPES[cell.precision])
    return _task(
        model,
        lambda batch: measure(physics, batch.images, batch.noise),
        cell.optimizer,
        cell.schedule,
        steps=cell.steps,
        gradient_clip=cell.gradient_clip,
        evaluate_every=cell.evaluate_every,
    )


def _task(
    model: nn.Module,
    measure: Callable[[Batch], Tensor],
    optimizer: OptimizerSpec,
    schedule: ScheduleSpec,
    steps: int,
    gradient_clip: float | None,
    evaluate_every: int,
) -> Task:
    built: Optimizer = build(optimizer, model.parameters())
    return Task(model, measure, built, build(schedule, built, steps), steps, gradient_clip, evaluate_every)
