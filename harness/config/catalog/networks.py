"""Networks."""

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
    """Largest operator norm of each convolution, so that DnCNN's |N| is at most .05 lipschitz^depth; null: no limit."""

    def parameters(self) -> dict[str, Any]:
        """All but `lipschitz`: `harness.models.lipschitz` sees to it from outside, whatever the network."""
        return {key: value for key, value in super().parameters().items() if key != "lipschitz"}


class DnCNN(NetworkSpec):
    """Plain convolutions and ReLU (Zhang et al. 2017, without BatchNorm)."""

    target = "harness.models.networks:DnCNN"
    name: Literal["dncnn"] = "dncnn"
    depth: int = Field(17, ge=2, le=64)
    """Number of 3x3 convolutions."""
    width: PositiveInt = 64
    """Features of the hidden layers."""


class UNet(NetworkSpec):
    """A small U-Net: one convolution pair a level, features doubled at each halving."""

    target = "harness.models.networks:UNet"
    name: Literal["unet"] = "unet"
    levels: int = Field(2, ge=1, le=5)
    """How often the picture is halved."""
    width: PositiveInt = 32
    """Features of the first level."""
