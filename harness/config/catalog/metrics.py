"""How close a reconstruction is to its truth."""

from typing import Any, Literal

from pydantic import Field

from harness.config.spec import Spec


class MetricSpec(Spec):
    """A number for each picture; its target is a function (image, truth, value_range, ...) -> float.

    Every metric of the catalog is scored in every cell; `operations.metrics` adds a user's own.
    """

    label: str = ""
    """Heading in tables, with the unit; empty takes the name."""
    decimals: int = Field(3, ge=0, le=9)
    """Decimals shown in tables."""
    higher_is_better: bool = True
    """Which end of the scale a table sets in bold."""

    @property
    def key(self) -> str:
        """Its name in records, MLflow and CSV files; of a user's own metric, that of the function."""
        return self.name.rpartition(":")[2]

    @property
    def heading(self) -> str:
        """What tables call it."""
        return self.label or self.key

    def parameters(self) -> dict[str, Any]:
        """What the function takes beside image, truth and value range: all but what tables need."""
        shown = ("label", "decimals", "higher_is_better")
        return {key: value for key, value in super().parameters().items() if key not in shown}


class Psnr(MetricSpec):
    """Peak signal-to-noise ratio on pixels clamped to their range; the peak is the width of that range."""

    target = "harness.measure.scores:psnr"
    name: Literal["psnr"] = "psnr"
    label: str = "PSNR, dB"
    """Heading in tables, with the unit."""
    decimals: int = 2
    """Decimals shown in tables."""


class LegacyPsnr(MetricSpec):
    """The figure of the paper's code and of Gilton et al.: -10 log10(MSE) on [-1, 1] with peak 1, not clamped."""

    target = "harness.measure.scores:legacy_psnr"
    name: Literal["legacy_psnr"] = "legacy_psnr"
    label: str = "Legacy PSNR, dB"
    """Heading in tables, with the unit."""
    decimals: int = 2
    """Decimals shown in tables."""


class Ssim(MetricSpec):
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window, sigma 1.5, mean over channels."""

    target = "harness.measure.scores:ssim"
    name: Literal["ssim"] = "ssim"
    label: str = "SSIM"
    """Heading in tables."""


def catalog_metrics() -> tuple[MetricSpec, ...]:
    """The metrics that every cell is scored by."""
    return tuple(choice.model_validate({}) for choice in MetricSpec.choices().values())
