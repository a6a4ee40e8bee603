"""Residual networks of the denoiser."""

from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
)

from harness.config.spec import Spec


class NetworkSpec(Spec):
    """The residual network N of the denoiser D(x) = x - N(x). No BatchNorm: N lives inside a fixed point."""

    default_name = "dncnn"

    lipschitz: PositiveFloat | None = None
    """Maximum operator norm of each convolution, so DnCNN's |N| is at most .05 lipschitz^depth; null sets no limit."""

    def parameters(self) -> dict[str, Any]:
        """Every field except `lipschitz`, which `harness.models.lipschitz` applies to any network from outside."""
        return {key: value for key, value in super().parameters().items() if key != "lipschitz"}


class DnCNN(NetworkSpec):
    """Plain convolutions and ReLU (Zhang et al. 2017, without BatchNorm)."""

    target = "harness.models.networks:DnCNN"
    name: Literal["dncnn"] = "dncnn"
    depth: int = Field(17, ge=2, le=64)
    """Number of 3x3 convolutions."""
    width: PositiveInt = 64
    """Number of features in the hidden layers."""


class UNet(NetworkSpec):
    """A small U-Net: one pair of convolutions per level, twice as many features after each halving."""

    target = "harness.models.networks:UNet"
    name: Literal["unet"] = "unet"
    levels: int = Field(2, ge=1, le=5)
    """Number of times the picture is halved."""
    width: PositiveInt = 32
    """Number of features at the first level."""
