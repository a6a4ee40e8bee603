"""Residual networks N, which predict what a denoiser D(x) = x - N(x) removes from a picture.

They have no BatchNorm and no dropout, because N is evaluated many times within one fixed-point solve and must be the
same function each time. Weights are channels_last, the faster memory format for these convolutions; inputs and outputs
have the default format.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OUTPUT_SCALE = 0.05
"""The output of N is as large as the noise, not as the picture. Without this factor, the first Adam steps overshoot by
more than the noise, and the denoiser needs three times as many steps to reach the same loss."""


class DnCNN(nn.Sequential):
    """`depth` 3x3 convolutions with ReLU between them (Zhang et al. 2017, without BatchNorm)."""

    def __init__(self, depth: int, width: int, inputs: int = 3) -> None:
        layers: list[nn.Module] = [_conv(inputs, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [_conv(width, width), nn.ReLU()]
        super().__init__(*layers, _zero(_conv(width, 3)))
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width)."""
        return OUTPUT_SCALE * super().forward(x.contiguous(memory_format=torch.channels_last)).contiguous()


class UNet(nn.Module):
    """A U-Net with one convolution pair per level, average pooling down and nearest-neighbor upsampling."""

    def __init__(self, levels: int, width: int, inputs: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.head = _conv(inputs, width)
        self.down = nn.ModuleList(_conv_pair(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.up = nn.ModuleList(_conv_pair(a + b, a) for a, b in pairwise(widths))
        self.tail = _zero(_conv(width, 3))
        self.levels = levels
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 3, height, width); sizes that cannot be halved are padded."""
        height, width = x.shape[-2:]
        step = 2**self.levels
        x = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        h = self.head(x.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else F.avg_pool2d(h, 2))
            skips.append(h)
        for level in reversed(range(self.levels)):
            h = self.up[level](torch.cat([skips[level], F.interpolate(h, scale_factor=2.0)], dim=1))
        return OUTPUT_SCALE * self.tail(h)[..., :height, :width].contiguous()


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    assert conv.bias is not None
    # He et al. 2015: PyTorch's default shrinks the signal at every layer, which slows pretraining down.
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


def _zero(last: nn.Conv2d) -> nn.Conv2d:
    """Set the last layer to zero: D starts as the identity, and no step is spent on unlearning random weights."""
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return last


def _conv_pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), nn.ReLU(), _conv(outputs, outputs), nn.ReLU())


def channels_last(network: nn.Module) -> None:
    """Keep the convolutions of a network in the memory format that is faster for them."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
