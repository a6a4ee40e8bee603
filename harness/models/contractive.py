"""Residual networks N whose denoiser D(x) = x - N(x) never expands, whatever the training does to the weights.

Each convolution is kept at an operator norm of at most 1 (`harness.models.lipschitz`), and the architectures do the
rest. T = prox(D) of DE-HQS then contracts at least by D's factor, so that its fixed point exists, is unique and
attracts plain iteration: a regime in which the exact gradient is defined for every picture. D_weight = x - weight N
does not expand for a weight of at most 1 / averaging, or of at most 2 for `RidgeGradient`.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.lipschitz import norm_bound
from harness.models.networks import channels_last

SPREAD = 0.02
"""About half the norm of what is added to a layer that starts as the identity, to break its symmetry."""
THRESHOLD = 0.01
"""Initial threshold of a feature: half of the noise that the denoiser is pretrained on."""
REFLECTION = 1.99
"""Step along a ridge's gradient. Up to 2 / |W|^2 it does not expand, and |W| is only known to be at most 1.0019."""


class Ridge(nn.Module):
    """grad g(x) = W^T clip(W x + b) of the convex g(x) = sum over features of psi(W x + b), psi a Huber function.

    W is a chain of convolutions, and each feature has its own threshold to clip at. The gradient is monotone with
    Lipschitz constant |W|^2 and a symmetric Jacobian (convex ridge regularizers; Goujon et al. 2023).
    """

    def __init__(self, depth: int, width: int, inputs: int) -> None:
        super().__init__()
        widths = [inputs, *[width] * depth]
        self.chain = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)))
        for layer in self.convolutions()[1:]:
            _start_as_identity(layer)
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))
        self.log_threshold = nn.Parameter(torch.full((width, 1, 1), THRESHOLD).log())
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to the same shape."""
        threshold = self.log_threshold.exp()
        h = (self.chain(x) + self.bias).clamp(-threshold, threshold)
        for layer in reversed(self.convolutions()):
            h = F.conv_transpose2d(h, layer.weight, padding=1)
        return h

    def convolutions(self) -> list[nn.Conv2d]:
        """Those of W, in their order."""
        return [layer for layer in self.chain if isinstance(layer, nn.Conv2d)]

    def bound(self) -> float:
        """An upper bound of |W|^2, the Lipschitz constant of the gradient."""
        return prod([float(norm_bound(layer)) ** 2 for layer in self.convolutions()])


class Contractive(nn.Module, ABC):
    """A residual network of which a bound of its denoiser's Lipschitz constant is known.

    Everything is relative to a center, a color per channel that a contraction draws pictures to.
    """

    def __init__(self, ridges: int, depth: int, width: int, contraction: float, inputs: int) -> None:
        super().__init__()
        self.contraction = contraction
        self.ridges = nn.Sequential(*(Ridge(depth, width, inputs) for _ in range(ridges)))
        self.center = nn.Parameter(torch.full((3, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width); of more inputs, the last three are denoised."""
        inner = self.inner(x.contiguous(memory_format=torch.channels_last))[:, -3:].contiguous()
        x = x[:, -3:]
        return self.share() * (x - self.center - self.contraction * (inner - self.center))

    @torch.no_grad()
    def denoiser_bound(self) -> float:
        """An upper bound of |D(x) - D(y)| / |x - y| for pictures of every size, from those of the convolutions."""
        inner = self.inner_bound([ridge.bound() for ridge in self.ridges if isinstance(ridge, Ridge)])
        return 1 - self.share() + self.share() * self.contraction * inner

    def share(self) -> float:
        """t of D = (1 - t) x + t R(x), where R is gamma times the inner map."""
        return 1.0

    @abstractmethod
    def inner(self, x: Tensor) -> Tensor:
        """The map that does not expand, (batch, inputs, height, width) to the same shape."""

    @abstractmethod
    def inner_bound(self, bounds: list[float]) -> float:
        """Its Lipschitz constant, from those of the ridges' gradients."""


class Averaged(Contractive):
    """N(x) = t (x - R(x)), so that D = (1 - t) x + t R(x) with Lip(R) <= gamma; R is a chain of reflections.

    At t = 1/2 D is firmly nonexpansive, as a proximal operator is (Bauschke & Combettes 2011; Pesquet et al. 2021; Sun
    et al. 2021). Each link x - 1.99 grad g(x) is a residual layer that does not expand (Meunier et al. 2022). Plain
    convolutions of norm 1 were worse than no denoiser: to keep pictures, all their singular values would have to stay
    at 1, but the projection of the largest shrinks all others.
    """

    def __init__(self, depth: int, width: int, averaging: float, contraction: float, inputs: int = 3) -> None:
        super().__init__(depth, 1, width, contraction, inputs)
        self.averaging = averaging

    def share(self) -> float:
        """t."""
        return self.averaging

    def inner(self, x: Tensor) -> Tensor:
        """One reflection after the other."""
        for ridge in self.ridges:
            x = x - REFLECTION * ridge(x)
        return x

    def inner_bound(self, bounds: list[float]) -> float:
        """|I - s H| for symmetric H from 0 to the bound, multiplied."""
        return prod([max(1.0, REFLECTION * bound - 1) for bound in bounds])


class RidgeGradient(Contractive):
    """D(x) = c + gamma (x - c - grad g(x)) for one convex ridge potential g and the center c.

    The Jacobian of D is symmetric with eigenvalues in [0, gamma]: D is a gradient step (Cohen et al. 2021; Hurault et
    al. 2022), and the proximal operator of a convex function.
    """

    def __init__(self, depth: int, width: int, contraction: float, inputs: int = 3) -> None:
        super().__init__(1, depth, width, contraction, inputs)

    def inner(self, x: Tensor) -> Tensor:
        """One step of size 1."""
        return x - self.ridges(x)

    def inner_bound(self, bounds: list[float]) -> float:
        """|I - H| for a symmetric H from 0 to the bound."""
        return max(1.0, *[bound - 1 for bound in bounds])


def denoiser_bound(network: nn.Module) -> float | None:
    """The certified bound of a network, also of one in a wrapper; None if it does not contract by construction."""
    return next((part.denoiser_bound() for part in network.modules() if isinstance(part, Contractive)), None)


def _start_as_identity(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=SPREAD / layer.weight[0].numel() ** 0.5)
    with torch.no_grad():
        layer.weight[:, :, 1, 1] += torch.eye(layer.in_channels)
