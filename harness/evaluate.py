"""Scores reconstructions picture by picture, by scikit-image's PSNR and SSIM."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from harness.data import Batch, Loader
from harness.model import Output
from harness.solvers import Status

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
def evaluate(reconstruct: Reconstruct, loader: Loader, indices: list[int], batch_size: int) -> Scores:
    """Reconstruct the held-out pictures of `indices` and score each against its truth."""
    scores = Scores()
    for first in range(0, len(indices), batch_size):
        batch = loader.held_out_batch(indices[first : first + batch_size])
        output = reconstruct(batch)
        scores.indices += batch.indices
        for image, truth in zip(output.image, batch.images, strict=True):
            psnr, ssim, legacy = score(image, truth, loader.value_range)
            scores.psnr.append(psnr)
            scores.ssim.append(ssim)
            scores.legacy_psnr.append(legacy)
        scores.nfe += output.forward.nfe.tolist()
        scores.residual += [_finite(value) for value in output.forward.residual.tolist()]
        statuses = output.forward.status.tolist()
        scores.diverged += [i for i, s in zip(batch.indices, statuses, strict=True) if s == Status.DIVERGED]
    return scores


def score(image: Tensor, truth: Tensor, value_range: tuple[float, float]) -> tuple[float, float, float]:
    """Standard PSNR, SSIM and legacy PSNR of one (3, height, width) picture.

    Standard: clamped to the pixel range, peak = its width; SSIM with an 11x11 Gaussian window of sigma 1.5 and
    population covariance, mean over channels. Legacy: the figure of the code behind the paper and Gilton et al.,
    -10 log10 of the unclamped mean squared error on [-1, 1] with peak 1, 6.02 dB lower for the same error.
    """
    low, high = value_range
    width = high - low
    mse = float((image - truth).square().mean()) * (2 / width) ** 2
    legacy = -10 * float(np.log10(mse)) if np.isfinite(mse) and mse > 0 else -np.inf
    a = truth.permute(1, 2, 0).double().cpu().numpy()
    b = image.nan_to_num(low, high, low).clamp(low, high).permute(1, 2, 0).double().cpu().numpy()
    psnr = float(peak_signal_noise_ratio(a, b, data_range=width))
    ssim = float(
        structural_similarity(
            a, b, data_range=width, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
    return psnr, ssim, _finite(legacy, -999.0)


def _finite(value: float, otherwise: float = 1e30) -> float:
    """JSON and databases take no infinity; the status says what happened."""
    return value if np.isfinite(value) else otherwise
