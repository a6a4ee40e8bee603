"""What a cell's `precision` means in PyTorch. Solver states, Gram matrices, physics and losses use at least float32."""

import torch
from torch import Tensor, nn

from harness.config.cells import ACCELERATOR_ONLY

DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bfloat16": torch.float32}
"""Data type of weights, states, measurements and losses for each precision."""


def set_precision(precision: str, device: torch.device) -> None:
    """Switch TF32 on or off for this process's convolutions; cuDNN uses it by default, matrix products do not.

    Only networks use convolutions. Physics and solvers use matrix products, which stay in float32.

    Raises:
        ValueError: the precision needs an accelerator and the device is a CPU.
    """
    if precision in ACCELERATOR_ONLY and device.type == "cpu":
        raise ValueError(f"precision: {precision!r} needs an accelerator (allowed on a CPU: 'float32', 'float64')")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False


class Bfloat16(nn.Module):
    """A network whose convolutions compute in bfloat16, with weights, input and output in float32.

    In float64, which is used to compare gradients with exact ones, autocast has no effect.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width), in the data type of x."""
        with torch.autocast(x.device.type, torch.bfloat16):
            image: Tensor = self.network(x)
        return image.to(x.dtype)
