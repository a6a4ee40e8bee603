"""Reconstructions without training for the task."""

from typing import ClassVar, Literal

from pydantic import (
    PositiveInt,
)

from harness.config.spec import Spec


class BaselineSpec(Spec):
    """A reconstruction without training for the task; its parameters are tuned on the validation split."""

    needs_denoiser: ClassVar[bool] = False
    """True where the pretrained denoiser is plugged in."""


class Degraded(BaselineSpec):
    """The measurement itself."""

    target = "harness.models.baselines:Degraded"
    name: Literal["degraded"] = "degraded"


class DirectInverse(BaselineSpec):
    """The inverse of A applied to the measurement (paper, section 5)."""

    target = "harness.models.baselines:DirectInverse"
    name: Literal["direct-inverse"] = "direct-inverse"


class GradientDescent(BaselineSpec):
    """Gradient descent on the data fidelity with early stopping (paper, section 5)."""

    target = "harness.models.baselines:GradientDescent"
    name: Literal["gradient-descent"] = "gradient-descent"


class Tikhonov(BaselineSpec):
    """Least squares with a quadratic penalty, solved exactly (paper, eq. 2)."""

    target = "harness.models.baselines:Tikhonov"
    name: Literal["tikhonov"] = "tikhonov"


class Wiener(BaselineSpec):
    """Wiener deconvolution with a Laplacian penalty (scikit-image)."""

    target = "harness.models.baselines:Wiener"
    name: Literal["wiener"] = "wiener"


class RichardsonLucy(BaselineSpec):
    """Richardson-Lucy deconvolution with early stopping (scikit-image)."""

    target = "harness.models.baselines:RichardsonLucy"
    name: Literal["richardson-lucy"] = "richardson-lucy"


class TotalVariation(BaselineSpec):
    """Least squares with joint-colour total variation, by the primal-dual method of Chambolle & Pock 2011."""

    target = "harness.models.baselines:TotalVariation"
    name: Literal["total-variation"] = "total-variation"
    iterations: PositiveInt = 100
    """Primal-dual iterations; PSNR is then within 0.001 dB of 1,000 iterations on the validation pictures."""


class PnpPgd(BaselineSpec):
    """Plug-and-play: proximal gradient steps with the pretrained denoiser as proximal operator."""

    target = "harness.models.baselines:PnpPgd"
    needs_denoiser = True
    name: Literal["pnp-pgd"] = "pnp-pgd"
    iterations: PositiveInt = 100
    """Steps, every one evaluates the denoiser."""


class PnpAdmm(BaselineSpec):
    """Plug-and-play: ADMM with the pretrained denoiser as proximal operator."""

    target = "harness.models.baselines:PnpAdmm"
    needs_denoiser = True
    name: Literal["pnp-admm"] = "pnp-admm"
    iterations: PositiveInt = 100
    """Steps, every one evaluates the denoiser."""
