"""Optimizers and learning-rate schedules."""

from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
)

from harness.config.spec import Spec


class OptimizerSpec(Spec):
    """An optimizer of torch.optim."""

    interface = "torch.optim:Optimizer"
    default_name = "adam"

    lr: PositiveFloat = 1e-3
    """Learning rate before the schedule scales it."""


class Adam(OptimizerSpec):
    """Adam (Kingma & Ba 2015)."""

    target = "torch.optim:Adam"
    name: Literal["adam"] = "adam"


class SGD(OptimizerSpec):
    """Stochastic gradient descent with momentum."""

    target = "torch.optim:SGD"
    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum factor."""


class ScheduleSpec(Spec):
    """The learning rate as a function of the step (paper, section 8)."""

    default_name = "cosine"


class Fixed(ScheduleSpec):
    """A constant learning rate."""

    target = "harness.training.schedules:fixed"
    name: Literal["fixed"] = "fixed"


class Step(ScheduleSpec):
    """A learning rate that is multiplied by `factor` at `drops` equally spaced steps of the training."""

    target = "harness.training.schedules:step"
    name: Literal["step"] = "step"
    factor: float = Field(0.3, gt=0, lt=1)
    """Factor of each drop."""
    drops: PositiveInt = 3
    """Number of drops."""


class Cosine(ScheduleSpec):
    """Cosine annealing to zero over the whole training."""

    target = "harness.training.schedules:cosine"
    name: Literal["cosine"] = "cosine"
