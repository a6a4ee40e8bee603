"""Scores reconstructions picture by picture, by every metric of the catalog and the user's own."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from harness.config.build import implementation
from harness.config.catalog.metrics import MetricSpec, catalog_metrics
from harness.data.batches import Batch, Loader
from harness.implicit.solvers import Status
from harness.models.equilibrium import Output

Value = TypeVar("Value")
Reconstruct = Callable[[Batch], Output]
Metric = Callable[[Tensor, Tensor, tuple[float, float]], float]
"""(image, truth, value range) -> score, for one picture of shape (3, height, width)."""

CATALOG: tuple[MetricSpec, ...] = catalog_metrics()
"""The metrics by which every cell is scored."""


@dataclass
class Scores:
    """Scores and solver results; lists have one entry per picture unless noted otherwise."""

    indices: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    """Scores by metric."""
    nfe: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    unit_residual: list[float] = field(default_factory=list)
    unconverged: list[int] = field(default_factory=list)
    """Indices, not one entry per picture."""
    diverged: list[int] = field(default_factory=list)
    """Indices, not one entry per picture."""


def build_metric(spec: MetricSpec) -> Metric:
    """The function of a metric with its parameters bound.

    Raises:
        ValueError: it cannot be imported or is not a function.
    """
    return partial(implementation(spec), **spec.parameters())


@torch.no_grad()
def evaluate(
    reconstruct: Reconstruct,
    loader: Loader,
    indices: list[int],
    batch_size: int,
    metrics: Sequence[MetricSpec] = CATALOG,
    show: Callable[[int, Tensor, Tensor], None] = lambda index, image, truth: None,
) -> Scores:
    """Reconstruct the held-out pictures `indices`, score each against its truth and pass both to `show`."""
    functions = {spec.key: build_metric(spec) for spec in metrics}
    found = Scores(scores={key: [] for key in functions})
    for first in range(0, len(indices), batch_size):
        batch = loader.held_out_batch(indices[first : first + batch_size])
        output = reconstruct(batch)
        found.indices += batch.indices
        for index, image, truth in zip(batch.indices, output.image, batch.images, strict=True):
            show(index, image, truth)
            for key, metric in functions.items():
                found.scores[key].append(float(metric(image, truth, loader.value_range)))
        found.nfe += output.forward.nfe.tolist()
        found.residual += output.forward.residual.tolist()
        found.unit_residual += (output.forward.residual / output.unit_step).tolist()
        for index, status in zip(batch.indices, output.forward.status.tolist(), strict=True):
            found.diverged += [index] if status == Status.DIVERGED else []
            found.unconverged += [index] if status == Status.MAX_STEPS else []
    return found


def merged(parts: Sequence[Scores]) -> Scores:
    """The scores of several ranks combined, with pictures sorted by index."""
    indices = list(chain.from_iterable(part.indices for part in parts))
    order = sorted(range(len(indices)), key=indices.__getitem__)

    def ordered(lists: Iterable[list[Value]]) -> list[Value]:
        values = list(chain.from_iterable(lists))
        return [values[k] for k in order]

    return Scores(
        indices=ordered(part.indices for part in parts),
        scores={key: ordered(part.scores[key] for part in parts) for key in parts[0].scores},
        nfe=ordered(part.nfe for part in parts),
        residual=ordered(part.residual for part in parts),
        unit_residual=ordered(part.unit_residual for part in parts),
        unconverged=sorted(chain.from_iterable(part.unconverged for part in parts)),
        diverged=sorted(chain.from_iterable(part.diverged for part in parts)),
    )


def psnr(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> float:
    """Standard PSNR in dB of one (3, height, width) picture, clamped to the pixel range, whose width is the peak."""
    return decibel(float((_on_unit_range(image, value_range) - _on_unit_range(truth, value_range)).square().mean()))


def legacy_psnr(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> float:
    """-10 log10 of the unclamped mean squared error on [-1, 1] with peak 1, in dB.

    This is the value reported by the code of the paper and of Gilton et al. For the same error it is 6.02 dB below
    standard PSNR.
    """
    low, high = value_range
    return decibel(float((image - truth).square().mean()) * (2 / (high - low)) ** 2)


def ssim(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> float:
    """Structural similarity of one (3, height, width) picture and its truth (Wang et al. 2004), averaged over channels.

    It uses an 11 x 11 Gaussian window of standard deviation 1.5 and the population covariance, and leaves out borders,
    like scikit-image with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, but runs on the picture's
    device. Pixels are mapped to [0, 1] first, because SSIM compares means and would change with a shift of the range.
    """
    a, b = _on_unit_range(truth, value_range), _on_unit_range(image, value_range)
    offsets = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    taps = torch.exp(-offsets.square() / (2 * 1.5**2))
    taps = taps / taps.sum()

    def local_mean(x: Tensor) -> Tensor:
        rows = conv2d(x[:, None], taps.view(1, 1, -1, 1))
        return conv2d(rows, taps.view(1, 1, 1, -1))

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = local_mean(a * a) - mean_a**2
    variance_b = local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    return float(similarity.mean())


def decibel(mse: float) -> float:
    """-10 log10(mse), at most 200; minus infinity if the mean squared error is not finite."""
    return -10 * math.log10(max(mse, 1e-20)) if math.isfinite(mse) else -math.inf


def _on_unit_range(image: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Pixels in float64, mapped from the pixel range to [0, 1] and clamped."""
    low, high = value_range
    return ((image.double() - low) * (1 / (high - low))).nan_to_num(0, 1, 0).clamp(0, 1)
