"""The pretrained denoiser D(x) = x - N(x)."""

import torch
from torch import Tensor, nn

from harness.implicit.solvers import Solution, Status
from harness.models.equilibrium import Output


class Denoiser(nn.Module):
    """D(x) = x - N(x), with the interface of an equilibrium model so that one loop trains both."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, d: Tensor, *training: object) -> Output:
        """Denoise d, (batch, 3, height, width); the further arguments of an equilibrium model are ignored."""
        image = d - self.network(d)
        once = torch.ones(len(d), dtype=torch.int64, device=d.device)
        zero = torch.zeros(len(d), dtype=d.dtype, device=d.device)
        return Output(image, image.detach(), Solution(image.detach(), zero, once, zero.long() + Status.CONVERGED), [])
