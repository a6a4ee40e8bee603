"""Scores reconstructions picture by picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from harness.data.batches import Batch, Loader
from harness.implicit.solvers import Status
from harness.models.equilibrium import Output

Reconstruct = Callable[[Batch], Output]


@dataclass
class Scores:
    """One entry a picture in every list."""

    indices: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    legacy_psnr: list[float] = field(default_factory=list)
    nfe: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)
    diverged: list[int] = field(default_factory=list)
    """Indices, not one entry a picture."""


@torch.no_grad()
def evaluate(
    reconstruct: Reconstruct,
    loader: Loader,
    indices: list[int],
    batch_size: int,
    show: Callable[[int, Tensor, Tensor], None] = lambda index, image, truth: None,
) -> Scores:
    """Reconstruct the held-out pictures of `indices`, score each against its truth, and `show` it."""
    scores = Scores()
    for first in range(0, len(indices), batch_size):
        batch = loader.held_out_batch(indices[first : first + batch_size])
        output = reconstruct(batch)
        scores.indices += batch.indices
        for index, image, truth in zip(batch.indices, output.image, batch.images, strict=True):
            show(index, image, truth)
            psnr, ssim, legacy = score(image, truth, loader.value_range)
            scores.psnr.append(psnr)
            scores.ssim.append(ssim)
            scores.legacy_psnr.append(legacy)
        scores.nfe += output.forward.nfe.tolist()
        scores.residual += [finite(value) for value in output.forward.residual.tolist()]
        statuses = output.forward.status.tolist()
        scores.diverged += [i for i, s in zip(batch.indices, statuses, strict=True) if s == Status.DIVERGED]
    return scores


def score(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> tuple[float, float, float]:
    """Standard PSNR, SSIM and legacy PSNR of one (3, height, width) picture.

    Standard: clamped to the pixel range, peak = its width. SSIM: on the picture mapped to [0, 1] whatever range the
    model works on, for SSIM compares means and changes with a shift. Legacy: the figure of the code behind the paper
    and Gilton et al., -10 log10 of the unclamped mean squared error on [-1, 1] with peak 1, 6.02 dB lower for the
    same error.
    """
    low, high = value_range
    to_unit = 1 / (high - low)
    legacy = decibel(float((image - truth).square().mean()) * (2 * to_unit) ** 2)
    a = (truth.double() - low) * to_unit
    b = ((image.double() - low) * to_unit).nan_to_num(0, 1, 0).clamp(0, 1)
    return decibel(float((a - b).square().mean())), ssim(a, b), legacy


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two (3, height, width) pictures on [0, 1] (Wang et al. 2004), mean over channels.

    11x11 Gaussian window of standard deviation 1.5, population covariance, borders left out: what scikit-image
    computes with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, on the pictures' own device.
    """
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
    """-10 log10(mse), at most 200; -999 for a mean squared error that is not finite."""
    return -10 * math.log10(max(mse, 1e-20)) if math.isfinite(mse) else -999.0


def finite(value: float) -> float:
    """JSON and databases take no infinity; the status says what happened."""
    return value if math.isfinite(value) else 1e30
