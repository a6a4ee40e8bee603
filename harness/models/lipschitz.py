"""Lipschitz control: after each optimiser step every convolution is scaled back to a largest operator norm.

The norm is that of the convolution as a linear map of whole pictures, padding included. That of the weight reshaped
to a matrix can be half of it (NUMERICS section 2: 1.09 where the operator norm was 2.16). Projecting the weights
themselves (Gouk et al. 2021) leaves T free of moving parts: between two optimiser steps it is one function.
"""

import torch
from torch import Tensor, nn

from harness.implicit.solvers import ratio

FIRST_CALLS = 8
ITERATIONS = 5
"""Power iterations in a call. Where Adam takes steps of .01, one let a norm grow to 1.4 times its bound, four to 1.05,
eight to 1.01."""


class Projection:
    """Scales a network's convolutions to norms of at most `bound`; called once after each optimiser step.

    Each convolution keeps its dominant singular vector in a buffer `dominant`, (1, channels, height, width), so that a
    checkpoint holds it. It starts from the same numbers on every rank and follows from the weights alone.
    """

    def __init__(self, network: nn.Module, bound: float, image_size: int) -> None:
        self.bound = bound
        self.layers = _convolutions(network, image_size)
        generator = torch.Generator().manual_seed(0)
        for layer, shape in self.layers.items():
            layer.register_buffer("dominant", torch.randn(shape, generator=generator))
        for _ in range(FIRST_CALLS):
            self()

    def __call__(self) -> None:
        """Some power iterations and one projection of each layer; the norm is approached from below."""
        for layer in self.layers:
            for _ in range(ITERATIONS):
                dominant, norm = power_iteration(layer, layer.get_buffer("dominant"))
                layer.get_buffer("dominant").copy_(dominant)
            with torch.no_grad():
                layer.weight.mul_(ratio(norm.new_tensor(self.bound), norm).clamp_max(1))


def power_iteration(layer: nn.Conv2d, v: Tensor) -> tuple[Tensor, Tensor]:
    """L^T L v of length one, for the linear part L of `layer`, and the estimate |L^T L v| / |L v| of |L|.

    The derivative knows L^T for every stride and padding. A layer of zeros leaves v as it is.
    """
    v = v.detach().requires_grad_()
    with torch.enable_grad():
        image = layer(v) - layer(torch.zeros_like(v))
    (back,) = torch.autograd.grad(image, v, image.detach())
    length = back.norm()
    return torch.where(length > 0, ratio(back, length), v.detach()), ratio(length, image.detach().norm())


def _convolutions(network: nn.Module, image_size: int) -> dict[nn.Conv2d, torch.Size]:
    """Every convolution and the shape of its input for one picture."""
    found: dict[nn.Conv2d, torch.Size] = {}
    handles = [
        module.register_forward_pre_hook(lambda layer, inputs: found.update({layer: inputs[0].shape}))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        network(torch.zeros(1, first.in_channels, image_size, image_size))
    for handle in handles:
        handle.remove()
    return found
