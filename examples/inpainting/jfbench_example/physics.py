"""A forward operator that hides pixels."""

import torch
from torch import Tensor, nn


class Inpainting(nn.Module):
    """A x = mask * x with a random mask of zeros and ones, the same for every picture and every colour.

    The grid sets `keep`, `mask_seed` and the two parameters of every physics, `noise_std` and `value_range`; jfbench
    passes `image_size` first. A is diagonal, so its adjoint and its proximal operator have closed forms. Pictures are
    (batch, 3, height, width) with sides of at most image_size: training with `data.crop` uses smaller ones, which are
    masked by a corner of the mask.

    Raises:
        ValueError: `keep`, the fraction of visible pixels, is not in (0, 1].
    """

    norm = 1.0
    """Largest singular value of A."""

    def __init__(
        self, image_size: int, noise_std: float, value_range: tuple[float, float], keep: float, mask_seed: int = 0
    ) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"physics.keep: {keep} is not in (0, 1]")
        self.noise_std = noise_std
        self.value_range = value_range
        draws = torch.rand(image_size, image_size, generator=torch.Generator().manual_seed(mask_seed))
        # Not in checkpoints, because `mask_seed` determines it. A buffer moves to the device with the model.
        self.mask = nn.Buffer((draws < keep).float(), persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """The picture with the hidden pixels set to zero."""
        return self._mask(x) * x

    def A_adjoint(self, d: Tensor) -> Tensor:
        """A is symmetric: its adjoint is itself."""
        return self._mask(d) * d

    def prox_l2(self, z: Tensor, d: Tensor, penalty: Tensor | float) -> Tensor:
        """The argmin over x of penalty/2 |Ax - d|^2 + 1/2 |x - z|^2: an average with d where visible, else z."""
        mask = self._mask(z)
        return (z + penalty * mask * d) / (1 + penalty * mask)

    def inverse(self, d: Tensor) -> Tensor:
        """A^T d. A has no inverse, because it forgets the hidden pixels; here they stay zero (the pseudo-inverse)."""
        return self.A_adjoint(d)

    def _mask(self, x: Tensor) -> Tensor:
        """(height, width): the mask for pictures of the size of x."""
        return self.mask[: x.shape[-2], : x.shape[-1]]
