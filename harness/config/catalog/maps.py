"""Maps T(x; d)."""

from typing import ClassVar, Literal

from pydantic import (
    Field,
    PositiveFloat,
)

from harness.config.spec import Spec


class MapSpec(Spec):
    """The map T(x; d) whose fixed point is the reconstruction."""

    interface = "harness.models.maps:Map"
    iterated: ClassVar[bool] = True
    """False if T does not depend on x: one evaluation reconstructs, and no pretrained denoiser is plugged in."""
    damping: float = Field(0.45, gt=0, le=1)
    """theta in (1 - theta) x + theta T(x). It moves no fixed point and keeps negative eigenvalues away from -1; 1 means
    no damping."""


class DeGrad(MapSpec):
    """DE-GRAD: T(x) = x - step_size (A^T(Ax - d) + weight N(x)) (paper, eq. 4)."""

    target = "harness.models.maps:DeGrad"
    name: Literal["de-grad"] = "de-grad"
    step_size: PositiveFloat = 2.0
    """eta; with the default damping, the effective step is .9. It does not move the fixed point, so it is trained only
    when unrolled."""
    weight: PositiveFloat = 0.25
    """Initial value of the trained weight lambda of the prior."""


class DeProx(MapSpec):
    """DE-PROX: T(x) = D_weight(x - step_size A^T(Ax - d)) (paper, section 3.3)."""

    target = "harness.models.maps:DeProx"
    name: Literal["de-prox"] = "de-prox"
    step_size: PositiveFloat = 1.9
    """Initial value of the trained step size eta."""
    weight: PositiveFloat = 0.475
    """Initial value of the trained weight lambda of the prior."""


class DeAdmm(MapSpec):
    """DE-ADMM on the state (z, u), in the order of Gilton et al. 2021."""

    target = "harness.models.maps:DeAdmm"
    name: Literal["de-admm"] = "de-admm"
    penalty: PositiveFloat = 4.0
    """Initial value of the trained alpha of the proximal step."""
    weight: PositiveFloat = 1.0
    """Initial value of the trained weight lambda of the prior."""
    dual_step: PositiveFloat = 1.0
    """beta; it does not move the fixed point, so it is trained only when unrolled."""


class DeHqs(MapSpec):
    """DE-HQS: T(x) = prox(D(x)), half-quadratic splitting with the exact proximal step."""

    target = "harness.models.maps:DeHqs"
    name: Literal["de-hqs"] = "de-hqs"
    penalty: PositiveFloat = 4.0
    """Initial value of the trained alpha of the proximal step."""


class FeedForward(MapSpec):
    """No fixed point: from the measurement and its direct inverse p, the network learns to predict the error of p."""

    target = "harness.models.maps:FeedForward"
    iterated = False
    name: Literal["feed-forward"] = "feed-forward"
    penalty: PositiveFloat = 20.0
    """Initial value of the trained alpha of p, the proximal step from A^T d."""
    damping: float = Field(1.0, ge=1, le=1)
    """Always 1: T does not depend on x, so there is nothing to damp."""
