"""What a cell's config means in PyTorch: model, optimizer, schedule, and how a batch becomes a measurement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.config.build import build
from harness.config.catalog.optimization import Adam, Cosine, OptimizerSpec, ScheduleSpec
from harness.config.cells import PretrainCell, TrainCell
from harness.data.batches import Batch
from harness.measure.clock import Clock
from harness.models.build_model import build_equilibrium, build_network
from harness.models.denoiser import Denoiser
from harness.models.equilibrium import Equilibrium, Output
from harness.models.lipschitz import Projection
from harness.models.losses import LOSSES, Loss
from harness.models.precision import DTYPES
from harness.physics.base import observe
from harness.training.sample_order import Epochs, PoolOrder, SampleOrder


@dataclass(frozen=True)
class Task:
    """Everything the training loop needs, on the device."""

    model: Equilibrium | Denoiser
    """The model to train."""
    observe: Callable[[Batch], Tensor]
    """Maps a batch to its measurements."""
    reconstruct: Callable[[Batch], Output]
    """Maps a batch to its reconstructions, solved without a warm start."""
    loss: Loss
    """Maps (reconstructions, truth) to a mean over the pictures."""
    sample_order: SampleOrder
    """Which samples each step uses."""
    optimizer: Optimizer
    schedule: LRScheduler
    steps: int
    warm_up: int
    """Number of initial steps that use JFB's gradient."""
    gradient_clip: float | None
    evaluate_every: int


def pretrain_task(cell: PretrainCell, train_count: int, share: slice, device: torch.device) -> Task:
    """The task of pretraining a denoiser from random weights; its noise is scaled to the pixel range."""
    torch.manual_seed(cell.seed)
    network, projection = build_network(cell)
    model = Denoiser(network).to(device, DTYPES[cell.precision])
    noise_std = cell.pretraining.noise_std * (cell.value_range[1] - cell.value_range[0])

    def corrupt(batch: Batch) -> Tensor:
        return batch.images + noise_std * batch.noise

    return Task(
        model=model,
        observe=corrupt,
        reconstruct=lambda batch: model(corrupt(batch)),
        loss=mse_loss,
        sample_order=Epochs(cell.seed, train_count, cell.global_batch_size, share),
        **_optimization(model, Adam(lr=cell.pretraining.lr), Cosine(), cell.pretraining.steps, projection),
        warm_up=0,
        gradient_clip=1.0,
        evaluate_every=cell.pretraining.steps,
    )


def train_task(
    cell: TrainCell,
    denoiser: dict[str, Tensor] | None,
    train_count: int,
    share: slice,
    device: torch.device,
    clock: Clock,
) -> Task:
    """The task of training a cell's model, whose network starts from the weights `denoiser` if given."""
    model, projection = build_equilibrium(cell, clock)
    model.to(device, DTYPES[cell.precision])
    if denoiser is not None:
        model.map.network.load_state_dict(denoiser)
    physics = model.map.physics

    def observed(batch: Batch) -> Tensor:
        return observe(physics, batch.images, batch.noise)

    return Task(
        model=model,
        observe=observed,
        reconstruct=lambda batch: model.reconstruct(observed(batch)),
        loss=LOSSES[cell.loss],
        sample_order=order_of(cell, train_count, share),
        **_optimization(model, cell.optimizer, cell.schedule, cell.steps, projection),
        warm_up=cell.active_warm_up,
        gradient_clip=cell.gradient_clip,
        evaluate_every=cell.evaluate_every,
    )


def order_of(cell: TrainCell, train_count: int, share: slice) -> SampleOrder:
    """The order in which a cell's training sees its samples; `share` is a rank's part of the global batch."""
    common, pool = (cell.seed, train_count, cell.global_batch_size, share), cell.active_pool
    if pool is None:
        return Epochs(*common)
    return PoolOrder(*common, pool.size, pool.refresh_every, pool.adjoint and cell.backprop.solves_adjoint)


def _optimization(
    model: nn.Module, optimizer: OptimizerSpec, schedule: ScheduleSpec, steps: int, projection: Projection | None
) -> dict[str, Any]:
    built: Optimizer = build(optimizer, model.parameters())
    if projection:
        built.register_step_post_hook(lambda *_: projection())
    return {"optimizer": built, "schedule": build(schedule, built, steps), "steps": steps}
