"""The losses that training minimizes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def mean_root_mean_square(images: Tensor, truth: Tensor) -> Tensor:
    """The root mean square error of each picture, averaged over the batch; inputs (batch, channels, height, width)."""
    errors = (images - truth).flatten(1)
    return torch.linalg.vector_norm(errors, dim=1).mean() / errors.shape[1] ** 0.5


LOSSES: dict[str, Loss] = {"mse": mse_loss, "rmse": mean_root_mean_square}
