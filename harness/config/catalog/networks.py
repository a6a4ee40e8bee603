"""Residual networks of the denoiser."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
)

from harness.config.spec import Spec


class NetworkSpec(Spec):
    """The residual network N of the denoiser D(x) = x - N(x). No BatchNorm: N lives inside a fixed point."""

    interface = "torch.nn:Module"
    default_name = "dncnn"
    contractive: ClassVar[bool] = False
    """True where the architecture bounds the denoiser, given that every convolution has a norm of at most 1."""

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


class Averaged(NetworkSpec):
    """A denoiser D = (1 - t) x + t R(x) that never expands: R chains reflections x - 1.99 grad g(x), g convex."""

    target = "harness.models.contractive:Averaged"
    contractive = True
    name: Literal["averaged"] = "averaged"
    lipschitz: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Maximum operator norm of each convolution."""
    depth: int = Field(2, ge=1, le=64)
    """Number of reflections, each with one 3x3 convolution and its adjoint."""
    width: PositiveInt = 48
    """Features of each."""
    averaging: float = Field(0.5, gt=0, le=1)
    """t: up to 1/2 D is firmly nonexpansive; at 1 D is R, and its J may have the eigenvalue -gamma."""
    contraction: float = Field(0.99, gt=0, le=1)
    """Factor gamma on R: |J_D| <= 1 - t (1 - gamma), so that less than 1 makes D contract."""


class GradientStep(NetworkSpec):
    """A denoiser D = x - grad g(x), g convex: its Jacobian is symmetric with eigenvalues from 0 to gamma."""

    target = "harness.models.contractive:RidgeGradient"
    contractive = True
    name: Literal["gradient-step"] = "gradient-step"
    lipschitz: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Maximum operator norm of each convolution."""
    depth: int = Field(1, ge=1, le=16)
    """Number of linear 3x3 convolutions before the nonlinearity; their adjoints follow it."""
    width: PositiveInt = 48
    """Features of each."""
    contraction: float = Field(0.995, gt=0, le=1)
    """Factor gamma: |J_D| <= gamma, so that less than 1 makes D contract."""
