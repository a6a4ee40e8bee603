"""What maps and baselines need of a forward operator, and how a measurement is made with it."""

from typing import Protocol

from torch import Tensor


class Physics(Protocol):
    """What maps and baselines need of a forward operator."""

    noise_std: float
    value_range: tuple[float, float]
    norm: float
    """Largest singular value of A."""

    def A(self, x: Tensor) -> Tensor:
        """The measurement without noise."""

    def A_adjoint(self, d: Tensor) -> Tensor:
        """The transpose of A."""

    def prox_l2(self, z: Tensor, d: Tensor, penalty: Tensor | float) -> Tensor:
        """The argmin over x of penalty/2 |Ax - d|^2 + 1/2 |x - z|^2."""

    def inverse(self, d: Tensor) -> Tensor:
        """A^-1 d."""


def observe(physics: Physics, images: Tensor, noise: Tensor) -> Tensor:
    """d = A x + eps (paper, eq. 1), with standard normal `noise` scaled to the physics' own level."""
    return physics.A(images) + physics.noise_std * noise
