"""The problem on which every method is measured: a DE-GRAD map with an untrained network, on random images.

T(x) = x - .5 (A^T(Ax - d) + x - N'(x)) with N' a DnCNN scaled to a Jacobian norm of 0.75.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.implicit.backprop import Implicit, Problem
from harness.implicit.linear_solvers import Gmres
from harness.implicit.solvers import Anderson, Function, per_sample_norm
from harness.models.maps import DeGrad
from harness.models.networks import DnCNN
from harness.physics.base import observe
from harness.physics.blur import GaussianBlur

STEP_SIZE = 0.5
JACOBIAN_NORM = 0.75
POWER_ITERATIONS = 30


@dataclass(frozen=True)
class Size:
    """The size of the problem."""

    batch: int
    image: int
    depth: int = 5
    """Number of convolutions in N'."""
    width: int = 32


class Residual(nn.Module):
    """N(x) = x - N'(x), which DE-GRAD subtracts if N' takes the place of a denoiser."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) to the same shape."""
        return x - self.network(x)


@dataclass(frozen=True)
class Case:
    """A map on one batch of measurements, and the loss |x - target|^2 / 2."""

    map: DeGrad
    d: Tensor
    target: Tensor

    def T(self, state: Tensor) -> Tensor:
        """One step of the map for these measurements."""
        return self.map(state, self.d)

    def start(self) -> Tensor:
        """The state from which every iteration starts."""
        return self.map.initial(self.d).detach()

    def loss(self, state: Tensor) -> Tensor:
        """The loss: a sum, since a mean makes v so small that torchdeq's absolute ridge stalls its adjoint solve."""
        return 0.5 * (state - self.target).square().sum()

    def gradient(self) -> Tensor:
        """The parameters' .grad as one float64 vector."""
        return torch.cat([p.grad.double().flatten() for p in self.map.parameters() if p.grad is not None])

    def duplicated(self) -> "Case":
        """The same problem with every sample twice in the batch."""
        return replace(self, d=self.d.repeat(2, 1, 1, 1), target=self.target.repeat(2, 1, 1, 1))

    def double(self) -> "Case":
        """The same problem in float64, with its own copy of the parameters."""
        return Case(copy.deepcopy(self.map).double(), self.d.double(), self.target.double())

    def exact_gradient(self) -> Tensor:
        """v (I - J)^-1 dT/dTheta in float64, with forward and adjoint solves to a relative residual of at most 1e-10.

        Raises:
            RuntimeError: a solve did not converge.
        """
        case = self.double()
        solver = Anderson(tol=1e-12, max_steps=300, memory=10, ridge=1e-12, mixing=1.0)
        found = Implicit(Gmres(tol=1e-10, max_steps=60))(Problem(case.T, case.start(), solver))
        case.loss(found.state).backward()
        worst = max(float(found.forward.residual.max()), float(found.adjoint[0].residual.max()))
        if worst > 1e-10:
            raise RuntimeError(f"the reference gradient has not converged (residual {worst:.1e})")
        return case.gradient()


@dataclass(frozen=True)
class CompiledCase(Case):
    """The same problem with another implementation of the map's `forward`."""

    function: Callable[[Tensor, Tensor], Tensor]

    def T(self, state: Tensor) -> Tensor:
        """One step of the map by that implementation."""
        return self.function(state, self.d)


def make_case(size: Size, seed: int = 0) -> Case:
    """Create a problem; its network, pictures, noise and target depend only on `size` and `seed`."""
    generator = torch.Generator().manual_seed(seed)
    network = _untrained(size, generator)
    physics = GaussianBlur(size.image, 5, 5**0.5, 0.01, (0.0, 1.0), "zero").float()
    shape = (size.batch, 3, size.image, size.image)
    images, noise, target = (torch.rand(shape, generator=generator) for _ in range(3))
    scale = JACOBIAN_NORM / jacobian_norm(network, images, generator)
    for parameter in network[-1].parameters():
        parameter.data.mul_(scale)
    return Case(DeGrad(physics, Residual(network), STEP_SIZE, weight=1.0), observe(physics, images, noise), target)


@torch.no_grad()
def jacobian_norm(f: Function, at: Tensor, generator: torch.Generator) -> float:
    """The largest |J| over the samples, by power iteration on J^T J."""
    _, transposed, *_ = torch.func.vjp(f, at)
    u = torch.randn(at.shape, generator=generator)
    for _ in range(POWER_ITERATIONS):
        u = u / per_sample_norm(u)[:, None, None, None]
        _, image, *_ = torch.func.jvp(f, (at,), (u,))
        (u,) = transposed(image)
    return float(per_sample_norm(image).max())


def _untrained(size: Size, generator: torch.Generator) -> DnCNN:
    """A DnCNN with PyTorch's default initialization, because our last layer starts at zero and N' must not be zero."""
    network = DnCNN(size.depth, size.width)
    for layer in network.children():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return network
