"""The maps T(x; d) whose fixed points are reconstructions. All share one residual network N, pretrained as a denoiser.

D_weight(x) = x - weight N(x). The four maps are two pairs: DE-GRAD with weight lambda has the fixed points of
DE-HQS with penalty 1/lambda, whatever its step; DE-PROX with step eta has those of DE-ADMM with penalty eta,
whatever its dual step. A parameter that does not affect the fixed point has a zero exact gradient, so it is trained
only in the unrolled counterparts DU-*, which apply the same maps for a fixed number of steps. A feed-forward model is
a map that ignores its state.
States are (batch, channels, height, width); measurements and outputs are (batch, 3, height, width).
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from harness.physics.base import Physics


class Map(nn.Module, ABC):
    """A map: its initial state, one step, and the picture that a state represents."""

    def __init__(self, physics: Physics, network: nn.Module, damping: float) -> None:
        super().__init__()
        self.physics = physics
        self.network = network
        self.damping = damping

    def forward(self, state: Tensor, d: Tensor) -> Tensor:
        """T(state; d), damped: (1 - damping) state + damping step(state)."""
        stepped = self.step(state, d)
        return stepped if self.damping == 1 else torch.lerp(state, stepped, self.damping)

    @abstractmethod
    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """One undamped step."""

    @property
    def unit_step(self) -> float:
        """The factor by which the map scales its whole change: the damping, times the step size if it is such a factor.

        Dividing a residual by it makes residuals comparable across maps, whatever their damping and step size.
        """
        return self.damping

    def initial(self, d: Tensor) -> Tensor:
        """The state from which the iteration starts: A^T d."""
        return self.physics.A_adjoint(d)

    def output(self, state: Tensor, d: Tensor) -> Tensor:
        """The picture that a state represents. The model calls this on T(s*), so that gradients reach N through T."""
        return state

    def gradient(self, x: Tensor, d: Tensor) -> Tensor:
        """A^T (A x - d), the gradient of the data fidelity."""
        return self.physics.A_adjoint(self.physics.A(x) - d)


class DeGrad(Map):
    """T(x) = x - eta (A^T(Ax - d) + lambda N(x)) (paper, eq. 4, without its factor 2)."""

    def __init__(
        self, physics: Physics, network: nn.Module, step_size: float, weight: float, damping: float = 1.0
    ) -> None:
        super().__init__(physics, network, damping)
        self.step_size = Positive(step_size, trained=False)
        self.weight = Positive(weight)

    @property
    def unit_step(self) -> float:
        """Damping times eta."""
        return self.damping * float(self.step_size().detach())

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """One gradient step."""
        return state - self.step_size() * (self.gradient(state, d) + self.weight() * self.network(state))


class DeProx(Map):
    """T(x) = D_lambda(x - eta A^T(Ax - d)) (paper, section 3.3)."""

    def __init__(
        self, physics: Physics, network: nn.Module, step_size: float, weight: float, damping: float = 1.0
    ) -> None:
        super().__init__(physics, network, damping)
        self.step_size = Positive(step_size)
        self.weight = Positive(weight)

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """One proximal-gradient step with the denoiser as the proximal operator."""
        w = state - self.step_size() * self.gradient(state, d)
        return w - self.weight() * self.network(w)


class DeAdmm(Map):
    """x = prox(z - u); z' = D_lambda(x + u); u' = u + beta (x - z'); the state is (z, u), stacked along channels."""

    def __init__(
        self,
        physics: Physics,
        network: nn.Module,
        penalty: float,
        weight: float,
        dual_step: float,
        damping: float = 1.0,
    ) -> None:
        super().__init__(physics, network, damping)
        self.penalty = Positive(penalty)
        self.weight = Positive(weight)
        self.dual_step = Positive(dual_step, trained=False)

    def initial(self, d: Tensor) -> Tensor:
        """z = A^T d, u = 0."""
        z = self.physics.A_adjoint(d)
        return torch.cat([z, torch.zeros_like(z)], dim=1)

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """One sweep over x, z and u."""
        _, u = state.chunk(2, dim=1)
        w = self.output(state, d) + u
        z_new = w - self.weight() * self.network(w)
        return torch.cat([z_new, u + self.dual_step() * (w - u - z_new)], dim=1)

    def output(self, state: Tensor, d: Tensor) -> Tensor:
        """x = prox(z - u; d)."""
        z, u = state.chunk(2, dim=1)
        return self.physics.prox_l2(z - u, d, self.penalty())


class DeHqs(Map):
    """T(x) = prox(D(x); d). Its fixed point depends only on penalty/lambda, so lambda is 1."""

    def __init__(self, physics: Physics, network: nn.Module, penalty: float, damping: float = 1.0) -> None:
        super().__init__(physics, network, damping)
        self.penalty = Positive(penalty)

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """Denoise, then take the exact proximal step."""
        return self.physics.prox_l2(state - self.network(state), d, self.penalty())


class FeedForward(Map):
    """A network trained directly: T(x; d) = p - N(d, p) for every x, with the regularized inverse p of d."""

    def __init__(self, physics: Physics, network: nn.Module, penalty: float, damping: float = 1.0) -> None:
        super().__init__(physics, network, damping)
        self.penalty = Positive(penalty)

    def step(self, state: Tensor, d: Tensor) -> Tensor:
        """The whole reconstruction."""
        p = self.physics.prox_l2(self.physics.A_adjoint(d), d, self.penalty())
        return p - self.network(torch.cat([d, p], dim=1))


class Positive(nn.Module):
    """A positive scalar, stored as its logarithm."""

    def __init__(self, value: float, trained: bool = True) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(value)), requires_grad=trained)

    def forward(self) -> Tensor:
        """The scalar."""
        return self.log.exp()
