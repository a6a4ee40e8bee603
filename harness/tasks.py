"""What a cell's config means in torch: model, optimiser, schedule, and how a batch becomes a measurement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.backprop import Timed, untimed
from harness.build import build
from harness.catalog import Adam, Cosine, OptimizerSpec, ScheduleSpec
from harness.clock import Clock
from harness.config import BaselineCell, PretrainCell, TrainCell
from harness.data import Batch
from harness.lipschitz import Projection
from harness.model import Equilibrium, Output
from harness.order import Epochs, Order, PoolOrder
from harness.physics import measure
from harness.precision import DTYPES, Bfloat16
from harness.solvers import Picard, Solution, Solver, Status

Loss = Callable[[Tensor, Tensor], Tensor]


def mean_root_mean_square(images: Tensor, truth: Tensor) -> Tensor:
    """The mean over (batch, channels, height, width) of each picture's root mean square error."""
    errors = (images - truth).flatten(1)
    return torch.linalg.vector_norm(errors, dim=1).mean() / errors.shape[1] ** 0.5


LOSSES: dict[str, Loss] = {"mse": mse_loss, "rmse": mean_root_mean_square}


class Denoiser(nn.Module):
    """D(x) = x - N(x), with the outward shape of an equilibrium model so that one loop trains both."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, d: Tensor, *training: object) -> Output:
        """Denoise (batch, 3, height, width); what else training tells an equilibrium model is of no use here."""
        image = d - self.network(d)
        once = torch.ones(len(d), dtype=torch.int64, device=d.device)
        zero = torch.zeros(len(d), dtype=d.dtype, device=d.device)
        return Output(image, image.detach(), Solution(image.detach(), zero, once, zero.long() + Status.CONVERGED), [])


@dataclass(frozen=True)
class Task:
    """Everything the training loop needs, on the device."""

    model: Equilibrium | Denoiser
    """What is trained."""
    measure: Callable[[Batch], Tensor]
    """A batch to its measurements."""
    reconstruct: Callable[[Batch], Output]
    """A batch to its reconstructions, solved afresh."""
    loss: Loss
    """Of reconstructions and truth, a mean over the pictures."""
    order: Order
    """Which samples a step sees."""
    optimizer: Optimizer
    schedule: LRScheduler
    steps: int
    warm_up: int
    """So many steps come first whose gradient is JFB's."""
    gradient_clip: float | None
    evaluate_every: int


def pretrain_task(cell: PretrainCell, train_count: int, share: slice, device: torch.device) -> Task:
    """The denoiser, from random weights; the scale of its noise follows the pixel range."""
    torch.manual_seed(cell.seed)
    network, projection = build_network(cell)
    model = Denoiser(network).to(device, DTYPES[cell.precision])
    noise_std = cell.pretraining.noise_std * (cell.value_range[1] - cell.value_range[0])

    def corrupt(batch: Batch) -> Tensor:
        return batch.images + noise_std * batch.noise

    return Task(
        model=model,
        measure=corrupt,
        reconstruct=lambda batch: model(corrupt(batch)),
        loss=mse_loss,
        order=Epochs(cell.seed, train_count, cell.global_batch_size, share),
        **_optimisation(model, Adam(lr=cell.pretraining.lr), Cosine(), cell.pretraining.steps, projection),
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
    """The model, with the weights of the pretrained denoiser plugged in where it has one."""
    model, projection = equilibrium(cell, clock)
    model.to(device, DTYPES[cell.precision])
    if denoiser is not None:
        model.map.network.load_state_dict(denoiser)
    physics, pool = model.map.physics, cell.active_pool

    def observe(batch: Batch) -> Tensor:
        return measure(physics, batch.images, batch.noise)

    keep_adjoint = pool is not None and pool.adjoint and cell.backprop.solves_adjoint
    order = (cell.seed, train_count, cell.global_batch_size, share)
    return Task(
        model=model,
        measure=observe,
        reconstruct=lambda batch: model(observe(batch)),
        loss=LOSSES[cell.loss],
        order=PoolOrder(*order, pool.size, pool.refresh_every, keep_adjoint) if pool else Epochs(*order),
        **_optimisation(model, cell.optimizer, cell.schedule, cell.steps, projection),
        warm_up=cell.active_warm_up,
        gradient_clip=cell.gradient_clip,
        evaluate_every=cell.evaluate_every,
    )


def build_network(cell: PretrainCell | TrainCell | BaselineCell, **more: int) -> tuple[nn.Module, Projection | None]:
    """The network of a cell with random weights, and what keeps it within its Lipschitz bound if it has one."""
    assert cell.network is not None
    network: nn.Module = build(cell.network, **more)
    bound = cell.network.lipschitz
    projection = Projection(network, bound, cell.data.image_size) if bound else None
    return Bfloat16(network) if cell.precision == "bfloat16" else network, projection


def equilibrium(cell: TrainCell, timed: Timed = untimed) -> tuple[Equilibrium, Projection | None]:
    """The model of a cell with random weights, and what keeps its network within its Lipschitz bound."""
    torch.manual_seed(cell.seed)
    # A feed-forward network sees two pictures, the measurement and its direct inverse.
    network, projection = build_network(cell) if cell.iterates else build_network(cell, inputs=6)
    map = build(cell.model, build(cell.physics, cell.data.image_size), network)
    if not cell.backprop.finds_fixed_point:
        map.requires_grad_()  # Of a fixed number of steps also their size matters.
    model = Equilibrium(
        map, build(cell.solver), build(cell.backprop), timed, _continuing(cell), cell.jacobian_penalty, cell.compile
    )
    return model, projection


def _continuing(cell: TrainCell) -> Solver | None:
    """What goes on with the states of the pool: plain steps, unless the backprop method needs the solver's own."""
    if cell.active_pool is None:
        return None
    steps, relaxation = cell.active_pool.max_steps, cell.active_pool.relaxation
    if relaxation is None or cell.backprop.forward_solvers:
        solver: Solver = build(cell.solver.model_copy(update={"max_steps": steps}))
        return solver
    return Picard(tol=None, max_steps=steps, relaxation=relaxation)


def _optimisation(
    model: nn.Module, optimizer: OptimizerSpec, schedule: ScheduleSpec, steps: int, projection: Projection | None
) -> dict[str, Any]:
    built: Optimizer = build(optimizer, model.parameters())
    if projection:
        built.register_step_post_hook(lambda *_: projection())
    return {"optimizer": built, "schedule": build(schedule, built, steps), "steps": steps}
