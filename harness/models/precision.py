"""What a cell's `precision` means in torch. Solver states, Gram matrices, physics and losses have float32 or more."""

import torch
from torch import Tensor, nn

from harness.config.cells import ACCELERATOR_ONLY

DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bfloat16": torch.float32}
"""Of weights, states, measurements and losses."""


def set_precision(precision: str, device: torch.device) -> None:
    """Let this process' convolutions compute in TF32 or not; by default cuDNN does, matrix products do not.

    Only networks have convolutions: physics and solvers are matrix products, and stay in float32.

    Raises:
        ValueError: a precision that only an accelerator has, on a CPU.
    """
    if precision in ACCELERATOR_ONLY and device.type == "cpu":
        raise ValueError(f"precision: {precision!r} needs an accelerator (allowed on a CPU: 'float32', 'float64')")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False


class Bfloat16(nn.Module):
    """A network whose convolutions compute in bfloat16, with weights, input and output in float32.

    In float64, where gradients are compared with exact ones, autocast leaves everything as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) to the same shape and type."""
        with torch.autocast(x.device.type, torch.bfloat16):
            image: Tensor = self.network(x)
        return image.to(x.dtype)
