"""The interface of forward operators, and how a measurement is made with one."""

from typing import Protocol

from torch import Tensor


class Physics(Protocol):
    """What maps and baselines require of a forward operator A."""

    noise_std: float
    value_range: tuple[float, float]
    norm: float
    """Largest singular value of A."""

    def A(self, x: Tensor) -> Tensor:
        """A x, the measurement without noise."""

    def A_adjoint(self, d: Tensor) -> Tensor:
        """A^T d."""

    def prox_l2(self, z: Tensor, d: Tensor, penalty: Tensor | float) -> Tensor:
        """The argmin over x of penalty/2 |Ax - d|^2 + 1/2 |x - z|^2."""

    def inverse(self, d: Tensor) -> Tensor:
        """A^-1 d."""


def observe(physics: Physics, images: Tensor, noise: Tensor) -> Tensor:
    """d = A x + eps (paper, eq. 1), where eps is the standard normal `noise` scaled to the physics' noise level."""
    return physics.A(images) + physics.noise_std * noise
