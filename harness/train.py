"""The training loop, and nothing else: it knows no scheduler, no tracking server and no file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.clock import Clock
from harness.data import Batch
from harness.model import Output


@dataclass(frozen=True)
class LocalStep:
    """One training step as one rank saw it."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    updated: bool
    batch: Batch
    output: Output
    seconds: dict[str, float]


def train(
    model: nn.Module,
    load: Callable[[int], Batch],
    measure: Callable[[Batch], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    gradient_clip: float | None,
    clock: Clock,
    steps: range,
) -> Iterator[LocalStep]:
    """Train on the batch of each step in `steps`, yielding after each; the consumer may stop at any step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    learning_rate = schedule.get_last_lr()[0]
    for step in steps:
        with clock("data"):
            batch = load(step)
            d = measure(batch)
        # The model times its own solves inside this phase; what is left is the gradient of the parameters.
        with clock("parameter_gradient"):
            output = model(d)
            loss = torch.nn.functional.mse_loss(output.image, batch.images)
            loss.backward()
        with clock("optimizer"):
            norm = nn.utils.clip_grad_norm_(parameters, gradient_clip or torch.inf)
            # The reduced gradient is the same on all ranks, so they take this branch together.
            updated = bool(norm.isfinite())
            if updated:
                optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        seconds = clock.read()
        yield LocalStep(step + 1, float(loss.detach()), learning_rate, float(norm), updated, batch, output, seconds)
        learning_rate = schedule.get_last_lr()[0]
