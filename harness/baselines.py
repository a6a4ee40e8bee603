"""Reconstructions without training. Each has at most one free parameter, tuned on the validation split alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.physics import Physics


class Baseline(Protocol):
    """One method."""

    parameter: str
    """Name of the free parameter; empty without one."""
    start: float
    """Where its search starts."""
    ratio: float
    """Two neighbouring candidates differ by this factor."""

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """Reconstruct measurements d, (batch, 3, height, width), with the parameter at `value`."""


class Degraded:
    """The measurement itself."""

    parameter, start, ratio = "", 1.0, 1.0

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """d."""
        return d


class DirectInverse:
    """A^-1 d (paper, section 5): what the noise becomes without regularisation."""

    parameter, start, ratio = "", 1.0, 1.0

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """A^-1 d."""
        return physics.inverse(d)


class GradientDescent:
    """Gradient descent on 1/2 |Ax - d|^2 from d with step 1/|A|^2; early stopping is the regularisation."""

    parameter, start, ratio = "iterations", 20.0, 1.25

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """`value` iterations, rounded."""
        x = d
        for _ in range(round(value)):
            x = x - physics.A_adjoint(physics.A(x) - d) / physics.norm**2
        return x


class Tikhonov:
    """The argmin of 1/2 |Ax - d|^2 + weight/2 |x|^2, exactly (paper, eq. 2 with R = |x|^2 / 2)."""

    parameter, start, ratio = "weight", 0.01, 1.25

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """A proximal step from zero."""
        return physics.prox_l2(torch.zeros_like(d), d, 1 / value)


@dataclass(frozen=True)
class TotalVariation:
    """The argmin of 1/2 |Ax - d|^2 + weight TV(x), TV joint over colours (Chambolle & Pock 2011, algorithm 1)."""

    iterations: int
    parameter = "weight"
    start = 1e-3
    ratio = 1.5

    def __call__(self, physics: Physics, d: Tensor, value: float) -> Tensor:
        """Primal-dual iteration with the exact proximal step of the data fidelity."""
        primal_step = 10.0
        dual_step = 1 / (8 * primal_step)
        x = x_bar = d
        dual = d.new_zeros(2, *d.shape)
        for _ in range(self.iterations):
            dual = dual + dual_step * _differences(x_bar)
            length = dual.square().sum(dim=(0, 2), keepdim=True).sqrt()
            dual = dual / (length / value).clamp_min(1)
            x_new = physics.prox_l2(x - primal_step * _differences_adjoint(dual), d, primal_step)
            x, x_bar = x_new, 2 * x_new - x
        return x


@dataclass(frozen=True)
class Tuned:
    """Outcome of a search; candidates in increasing order."""

    chosen: float
    candidates: list[float]
    scores: list[float]

    @property
    def interior(self) -> bool:
        """The chosen candidate is neither the first nor the last."""
        return self.candidates[0] < self.chosen < self.candidates[-1]


def tune(score: Callable[[float], float], start: float, ratio: float, most: int = 30) -> Tuned:
    """Climb the geometric grid start * ratio^k until both neighbours of the best candidate are worse."""
    scores = {0: score(start)}
    best = 0
    while len(scores) < most:
        unseen = [k for k in (best - 1, best + 1) if k not in scores]
        if not unseen:
            break
        scores.update({k: score(start * ratio**k) for k in unseen})
        best = max(scores, key=lambda k: scores[k])
    grid = sorted(scores)
    return Tuned(start * ratio**best, [start * ratio**k for k in grid], [scores[k] for k in grid])


def _differences(x: Tensor) -> Tensor:
    """Forward differences, (batch, 3, h, w) to (2, batch, 3, h, w); zero across the last row and column."""
    out = x.new_zeros(2, *x.shape)
    out[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    out[1, ..., :, :-1] = x[..., :, 1:] - x[..., :, :-1]
    return out


def _differences_adjoint(y: Tensor) -> Tensor:
    """The transpose of `_differences`."""
    out = torch.zeros_like(y[0])
    out[..., :-1, :] -= y[0, ..., :-1, :]
    out[..., 1:, :] += y[0, ..., :-1, :]
    out[..., :, :-1] -= y[1, ..., :, :-1]
    out[..., :, 1:] += y[1, ..., :, :-1]
    return out
