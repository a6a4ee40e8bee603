"""Metrics of how close a reconstruction is to its ground truth."""

from typing import Any, Literal

from pydantic import Field

from harness.config.spec import Spec


class MetricSpec(Spec):
    """One number per picture; the target is a function (image, truth, value_range, ...) -> float.

    Every cell is scored with every metric of the catalog; `operations.metrics` adds a user's own.
    """

    label: str = ""
    """Heading in tables, with the unit; if empty, the name is used."""
    decimals: int = Field(3, ge=0, le=9)
    """Number of decimals shown in tables."""
    higher_is_better: bool = True
    """Whether tables set the highest score in bold, rather than the lowest."""

    @property
    def key(self) -> str:
        """The name in records, MLflow and CSV files; for a user's own metric, the name of the function."""
        return self.name.rpartition(":")[2]

    @property
    def heading(self) -> str:
        """The heading in tables."""
        return self.label or self.key

    def parameters(self) -> dict[str, Any]:
        """The function's further keyword arguments: every field except those for tables."""
        shown = ("label", "decimals", "higher_is_better")
        return {key: value for key, value in super().parameters().items() if key not in shown}


class Psnr(MetricSpec):
    """Peak signal-to-noise ratio on pixels clamped to their range; the peak is the width of that range."""

    target = "harness.measure.scores:psnr"
    name: Literal["psnr"] = "psnr"
    label: str = "PSNR, dB"
    """Heading in tables, with the unit."""
    decimals: int = 2
    """Number of decimals shown in tables."""


class LegacyPsnr(MetricSpec):
    """The PSNR of the paper's code and of Gilton et al.: -10 log10(MSE) on [-1, 1] with peak 1, without clamping."""

    target = "harness.measure.scores:legacy_psnr"
    name: Literal["legacy_psnr"] = "legacy_psnr"
    label: str = "Legacy PSNR, dB"
    """Heading in tables, with the unit."""
    decimals: int = 2
    """Number of decimals shown in tables."""


class Ssim(MetricSpec):
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window, sigma 1.5, mean over channels."""

    target = "harness.measure.scores:ssim"
    name: Literal["ssim"] = "ssim"
    label: str = "SSIM"
    """Heading in tables."""


def catalog_metrics() -> tuple[MetricSpec, ...]:
    """The metrics with which every cell is scored."""
    return tuple(choice.model_validate({}) for choice in MetricSpec.choices().values())
