"""Lipschitz control: after each optimizer step, every convolution is scaled back to a maximal operator norm.

The norm is that of the convolution as a linear map of whole pictures, padding included. The norm of the weight
reshaped to a matrix can be half as large (1.09 was measured for an operator norm of 2.16). Because the weights
themselves are projected (Gouk et al. 2021), T is one fixed function between two optimizer steps.
"""

import torch
from torch import Tensor, nn

from harness.implicit.solvers import ratio

FIRST_CALLS = 8
ITERATIONS = 5
"""Power iterations per call. With Adam steps of 0.01, a norm grew to 1.4 times its bound with one iteration, to 1.05
times with four and to 1.01 times with eight."""


class Projection:
    """Scales a network's convolutions to norms of at most `bound`; called once after each optimizer step.

    Each convolution keeps its dominant singular vector in a buffer `dominant`, (1, channels, height, width), so that it
    is part of every checkpoint. The vector starts from the same numbers on every rank and depends only on the weights.
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
        """Run power iterations on each layer, then project it; the norm is approached from below."""
        for layer in self.layers:
            for _ in range(ITERATIONS):
                dominant, norm = power_iteration(layer, layer.get_buffer("dominant"))
                layer.get_buffer("dominant").copy_(dominant)
            with torch.no_grad():
                layer.weight.mul_(ratio(norm.new_tensor(self.bound), norm).clamp_max(1))


def power_iteration(layer: nn.Conv2d, v: Tensor) -> tuple[Tensor, Tensor]:
    """L^T L v, normalized, for the linear part L of `layer`, and the estimate |L^T L v| / |L v| of |L|.

    Automatic differentiation supplies L^T for every stride and padding. For a layer of zeros, v is returned unchanged.
    """
    v = v.detach().requires_grad_()
    with torch.enable_grad():
        image = layer(v) - layer(torch.zeros_like(v))
    (back,) = torch.autograd.grad(image, v, image.detach())
    length = back.norm()
    return torch.where(length > 0, ratio(back, length), v.detach()), ratio(length, image.detach().norm())


def _convolutions(network: nn.Module, image_size: int) -> dict[nn.Conv2d, torch.Size]:
    """Every convolution, with the shape of its input for a batch of one picture."""
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
