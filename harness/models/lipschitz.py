"""Lipschitz control: after each optimizer step, every convolution is scaled back to a maximal operator norm.

The norm is that of the convolution as a linear map of whole pictures, padding included. The norm of the weight
reshaped to a matrix can be half as large (1.09 was measured for an operator norm of 2.16). Because the weights
themselves are projected (Gouk et al. 2021), T is one fixed function between two optimizer steps.
"""

import math

import torch
from torch import Tensor, nn

from harness.implicit.solvers import ratio

COARSE_GRID = 16
CANDIDATES = 8
HALVINGS = 4
"""Where the largest transfer matrix is looked for: the best of 16 x 16 frequencies, each refined to 1/256 of a turn."""
MARGIN = 5e-4
"""What that may miss."""
BOUND_GRID = 64
"""Frequencies per direction for an upper bound that is .24 % above the norm; 32 would be .97 % above it."""
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
                layer.weight.mul_(ratio(torch.full_like(norm, self.bound), norm).clamp_max(1))


class SpectralProjection(Projection):
    """The same for 3x3 convolutions of stride 1, by Fourier: closer to the bound, and for pictures of every size.

    Padding by zeros makes a convolution of pictures a part of the one of the whole plane, whose norm is the largest of
    those of its transfer matrices, one matrix (outputs, inputs) per frequency.
    """

    def __init__(self, network: nn.Module, bound: float) -> None:
        self.bound = bound
        self.convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        self()

    @torch.no_grad()
    def __call__(self) -> None:
        """Scale each layer whose largest transfer matrix is too large."""
        for layer in self.convolutions:
            norm = (1 + MARGIN) * _peak(layer.weight)
            layer.weight.mul_(ratio(torch.full_like(norm, self.bound), norm).clamp_max(1).to(layer.weight.dtype))


def norm_bound(layer: nn.Conv2d, grid: int = BOUND_GRID) -> Tensor:
    """An upper bound of the operator norm of a 3x3 convolution for pictures of every size; no estimate from below.

    Re(u^* F(omega) v) is a real trigonometric polynomial of degree 1 in both frequencies, so that it exceeds its
    maximum on the grid by a factor of at most 1 / cos(pi / grid) for each (Ehlich & Zeller 1964).
    """
    norms = _transfer_norms(layer.weight, _frequencies(grid, layer.weight.device))
    return norms.max() / math.cos(math.pi / grid) ** 2


def _peak(weight: Tensor) -> Tensor:
    """The largest norm of a transfer matrix: candidates on a coarse grid, each then refined by halving the distance."""
    frequencies = _frequencies(COARSE_GRID, weight.device)
    norms = _transfer_norms(weight, frequencies)
    best = norms.topk(CANDIDATES)
    top, at, step = best.values, frequencies[best.indices], 2 * math.pi / COARSE_GRID
    offsets = torch.arange(-1.0, 2.0, dtype=frequencies.dtype, device=frequencies.device)
    around = torch.cartesian_prod(offsets, offsets)
    for _ in range(HALVINGS):
        step /= 2
        near = at[:, None] + step * around
        top, which = _transfer_norms(weight, near.flatten(0, 1)).view(near.shape[:2]).max(dim=1)
        at = near[torch.arange(len(at), device=at.device), which]
    return top.max()


def _frequencies(grid: int, device: torch.device) -> Tensor:
    """Half of a grid of frequencies, (count, 2): the other half has the conjugate matrices."""
    full = 2 * math.pi / grid * torch.arange(float(grid), device=device)
    return torch.cartesian_prod(full, full[: grid // 2 + 1])


def _transfer_norms(weight: Tensor, frequencies: Tensor) -> Tensor:
    """Largest singular value of the transfer matrix at each frequency, (count, 2) to (count,)."""
    outputs, inputs, *size = weight.shape
    offsets = torch.cartesian_prod(*(torch.arange(float(length), device=weight.device) for length in size))
    phases = torch.exp(-1j * (frequencies @ offsets.T))
    matrices = (phases @ weight.flatten(2).permute(2, 0, 1).flatten(1).to(phases.dtype)).view(-1, outputs, inputs)
    gram = matrices @ matrices.mH if outputs < inputs else matrices.mH @ matrices
    return torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()


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
