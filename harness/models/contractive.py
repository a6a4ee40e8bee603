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


class Contractive(nn.Module, ABC):
    """A residual network of which a bound of its denoiser's Lipschitz constant is known."""

    convolutions: nn.ModuleList

    @torch.no_grad()
    def denoiser_bound(self) -> float:
        """An upper bound of |D(x) - D(y)| / |x - y| for pictures of every size, from those of the convolutions."""
        return self.bound_from(prod([float(norm_bound(layer)) for layer in self.layers()]))

    def layers(self) -> list[nn.Conv2d]:
        """The convolutions, in their order."""
        return [layer for layer in self.convolutions if isinstance(layer, nn.Conv2d)]

    @abstractmethod
    def bound_from(self, norm: float) -> float:
        """The same, from an upper bound of the product of the convolutions' norms."""


class Averaged(Contractive):
    """N(x) = t (x - R(x)), so that D = (1 - t) x + t R(x); R is a plain network of Lipschitz constant gamma <= 1.

    At t = 1/2 D is firmly nonexpansive, as a proximal operator is (Bauschke & Combettes 2011; Pesquet et al. 2021; Sun
    et al. 2021). R's activation sorts pairs of features (MaxMin; Anil et al. 2019): where it is differentiable it is
    orthogonal, while ReLU throws half of the signal away, which no layer of norm 1 can bring back. R starts near gamma
    times the identity.
    """

    def __init__(self, depth: int, width: int, averaging: float, contraction: float, inputs: int = 3) -> None:
        super().__init__()
        self.averaging, self.contraction = averaging, contraction
        widths = [inputs, *[width] * (depth - 1), 3]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        first, *inner, last = self.convolutions
        copies = _copies(width)
        _start(first, F.pad(copies, (inputs - 3, 0)))
        _start(last, copies.T)
        for layer in inner:
            _start(layer, torch.eye(width))
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width); of more inputs, the last three are denoised."""
        h = x.contiguous(memory_format=torch.channels_last)
        *hidden, last = self.convolutions
        for layer in hidden:
            h = max_min(layer(h))
        return self.averaging * (x[:, -3:] - self.contraction * last(h).contiguous())

    def bound_from(self, norm: float) -> float:
        """(1 - t) + t gamma |R|, R's activations having Lipschitz constant 1."""
        return 1 - self.averaging + self.averaging * self.contraction * norm


class RidgeGradient(Contractive):
    """D(x) = c + gamma (x - c - grad g(x)) for the convex potential g(x) = sum over features of psi(W x + b).

    W is a chain of convolutions and psi the Huber function of each feature's threshold, so that grad g(x) =
    W^T clip(W x + b) is monotone and has Lipschitz constant |W|^2 <= 1 (convex ridge regularizers; Goujon et al. 2023).
    The Jacobian of D is symmetric with eigenvalues in [0, gamma]: D is a gradient step (Cohen et al. 2021; Hurault et
    al. 2022), and the proximal operator of a convex function. c is a color per channel.
    """

    def __init__(self, depth: int, width: int, contraction: float, inputs: int = 3) -> None:
        super().__init__()
        self.contraction = contraction
        widths = [inputs, *[width] * depth]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        for layer in list(self.convolutions)[1:]:
            _start(layer, torch.eye(width))
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))
        self.log_threshold = nn.Parameter(torch.full((width, 1, 1), THRESHOLD).log())
        self.center = nn.Parameter(torch.full((3, 1, 1), 0.5))
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width); of more inputs, the last three are denoised."""
        h = x.contiguous(memory_format=torch.channels_last)
        for layer in self.convolutions:
            h = layer(h)
        threshold = self.log_threshold.exp()
        h = (h + self.bias).clamp(-threshold, threshold)
        for layer in reversed(self.layers()):
            h = F.conv_transpose2d(h, layer.weight, padding=1)
        pulled = (1 - self.contraction) * (x[:, -3:] - self.center)
        return pulled + self.contraction * h[:, -3:].contiguous()

    def bound_from(self, norm: float) -> float:
        """gamma |I - H| for a symmetric H between 0 and |W|^2."""
        return self.contraction * max(1.0, norm**2 - 1)


def denoiser_bound(network: nn.Module) -> float | None:
    """The certified bound of a network, also of one in a wrapper; None if it does not contract by construction."""
    return next((part.denoiser_bound() for part in network.modules() if isinstance(part, Contractive)), None)


def max_min(x: Tensor) -> Tensor:
    """Of features k and k + width/2 the greater first and the lesser second, (batch, width, height, width)."""
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def _copies(width: int) -> Tensor:
    """(width, 3) of orthonormal columns: every feature a copy of one color, and both of a sorted pair of the same."""
    which = (torch.arange(width) % (width // 2)) % 3
    copies = F.one_hot(which, 3).float()
    return copies / copies.norm(dim=0)


def _start(layer: nn.Module, matrix: Tensor) -> None:
    """A 3x3 convolution near one that multiplies each pixel's channels by `matrix`, (outputs, inputs)."""
    assert isinstance(layer, nn.Conv2d)
    nn.init.normal_(layer.weight, std=SPREAD / layer.weight[0].numel() ** 0.5)
    with torch.no_grad():
        layer.weight[:, :, 1, 1] += matrix
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
