"""Forward operators, and the protocols for which others have published results."""

from typing import Literal, Self

from pydantic import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.config.spec import Frozen, Spec


class PhysicsSpec(Spec):
    """The forward operator A of d = A x + noise."""

    interface = "harness.physics.base:Physics"
    default_name = "gaussian-blur"

    noise_std: NonNegativeFloat = 0.01
    """Standard deviation of the white Gaussian noise, in units of the pixel values."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Pixel values of black and white."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.value_range[0] >= self.value_range[1]:
            raise PydanticCustomError(
                "range",
                "value_range must be [low, high] with low < high, not {value}",
                {"value": list(self.value_range)},
            )
        return self


class _Blur(Frozen):
    """The fields of every Gaussian blur."""

    kernel_size: PositiveInt = 5
    """Number of kernel taps along one axis; odd."""
    kernel_std: PositiveFloat = 2.236
    """Standard deviation of the kernel in pixels."""
    boundary: Literal["zero", "circular"] = "zero"
    """How the picture continues beyond its edge."""

    @model_validator(mode="after")
    def _is_odd(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise PydanticCustomError("odd", "kernel_size must be odd, not {value}", {"value": self.kernel_size})
        return self


class GaussianBlur(_Blur, PhysicsSpec):
    """Separable Gaussian blur with an exact proximal operator (paper, section 5)."""

    target = "harness.physics.blur:GaussianBlur"
    name: Literal["gaussian-blur"] = "gaussian-blur"


class _Protocol(_Blur):
    """A blur for which others have published results. Its name stands for all of its fields, so none can be changed."""

    name: str

    @model_validator(mode="after")
    def _is_as_published(self) -> Self:
        for field, published in type(self).model_fields.items():
            value = getattr(self, field)
            if value != published.default:
                raise PydanticCustomError(
                    "choice",
                    "protocol {name} has {field} {published}, not {value}; use gaussian-blur for a blur of your own",
                    {"name": self.name, "field": field, "published": published.default, "value": value},
                )
        return self


class Paper(_Protocol, PhysicsSpec):
    """Protocol of the paper's text: pixels on [0, 1], 5x5 taps of variance 5, noise 0.01."""

    target = "harness.physics.blur:GaussianBlur"
    name: Literal["paper"] = "paper"
    kernel_std: PositiveFloat = 5**0.5
    """Standard deviation of the kernel in pixels: "variance 5" (paper, section 5)."""


class Code2022(_Protocol, PhysicsSpec):
    """Protocol of the paper's code of 2022 and of Gilton et al. 2021: pixels on [-1, 1], 5x5 taps, deviation 5."""

    target = "harness.physics.blur:GaussianBlur"
    name: Literal["code2022"] = "code2022"
    kernel_std: PositiveFloat = 5.0
    """Standard deviation of the kernel in pixels."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white; relative to this range, the noise is half as strong as on [0, 1]."""


class Code2024(_Protocol, PhysicsSpec):
    """Protocol of the paper's later code: pixels on [-1, 1], 5x5 taps of standard deviation 1."""

    target = "harness.physics.blur:GaussianBlur"
    name: Literal["code2024"] = "code2024"
    kernel_std: PositiveFloat = 1.0
    """Standard deviation of the kernel in pixels."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Pixel values of black and white; relative to this range, the noise is half as strong as on [0, 1]."""
