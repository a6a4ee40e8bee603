"""The training loop, which knows nothing of job schedulers, tracking servers or files."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.data.batches import Batch
from harness.measure.clock import Clock
from harness.models.equilibrium import Output
from harness.training.task import Task


@dataclass(frozen=True)
class LocalStep:
    """The results of one training step on one rank."""

    step: int
    """Number of completed steps, including this one."""
    loss: Tensor
    """A scalar on the device, like the penalty: both leave it with the other statistics of the step."""
    penalty: Tensor
    learning_rate: float
    gradient_norm: float
    updated: bool
    batch: Batch
    output: Output
    seconds: dict[str, float]


def train(
    task: Task, model: nn.Module, load: Callable[[int], Batch], clock: Clock, steps: range
) -> Iterator[LocalStep]:
    """Train `model`, which wraps task.model; yield after each step, where the consumer may stop."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if steps:
        with clock("discarded"):
            _discard_a_gradient(task, model, load(steps.start), steps.start)
    for step in steps:
        clock.reset()
        with clock("data"):
            batch = load(step)
            d = task.observe(batch)
        # The model times its own solves inside this phase; the remaining time is the gradient of the parameters.
        with clock("parameter_gradient"):
            output = model(d, *_start_of(task, step, d.device))
            loss = task.loss(output.image, batch.images)
            (loss + output.penalty).backward()
        with clock("optimizer"):
            norm = float(nn.utils.clip_grad_norm_(parameters, task.gradient_clip or torch.inf))
            # The reduced gradient is the same on all ranks, so they all take the same branch.
            updated = math.isfinite(norm)
            if updated:
                task.optimizer.step()
            task.optimizer.zero_grad()
            learning_rate = float(task.schedule.get_last_lr()[0])
            task.schedule.step()
        task.sample_order.keep(step, output.state, output.adjoint[-1].value if output.adjoint else None)
        yield LocalStep(
            step=step + 1,
            loss=loss.detach(),
            penalty=output.penalty.detach(),
            learning_rate=learning_rate,
            gradient_norm=norm,
            updated=updated,
            batch=batch,
            output=output,
            seconds=clock.read(),
        )


def _start_of(task: Task, step: int, device: torch.device) -> tuple[object, ...]:
    """Where the solves of a step start and what else its gradient depends on, as `Equilibrium.forward` takes it."""
    order = task.sample_order
    draws = order.draws(step).to(device)
    return order.start(step), draws, order.adjoint_start(step), step < task.warm_up, step / task.steps


def _discard_a_gradient(task: Task, model: nn.Module, batch: Batch, step: int) -> None:
    """Let DistributedDataParallel fix the layout of its buckets, which it does after its first backward pass.

    The layout determines in which order ranks are summed, so a resumed run must arrive at the same layout as an
    uninterrupted one. This gradient is therefore of the same kind at every start: the warm-up's, or the method's own
    without warm-up.
    """
    d = task.observe(batch)
    output = model(d, None, task.sample_order.draws(step).to(d.device), None, task.warm_up > 0)
    (task.loss(output.image, batch.images) + output.penalty).backward()
    task.optimizer.zero_grad()
