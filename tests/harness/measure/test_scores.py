"""PSNR and SSIM against scikit-image; the legacy figure against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness.measure.scores import legacy_psnr, psnr, ssim


@settings(max_examples=25, deadline=None)
@given(st.integers(11, 40), st.integers(11, 40), st.sampled_from([(0.0, 1.0), (-1.0, 1.0)]), st.integers(0, 10**6))
def test_scores_agree_with_scikit_image(height: int, width: int, value_range: tuple[float, float], seed: int) -> None:
    low, high = value_range
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(3, height, width, generator=generator, dtype=torch.float64) * (high - low) + low
    image = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    a, b = truth.permute(1, 2, 0).numpy(), image.clamp(low, high).permute(1, 2, 0).numpy()
    assert psnr(image, truth, value_range) == pytest.approx(
        peak_signal_noise_ratio(a, b, data_range=high - low), abs=1e-9
    )
    # SSIM compares means, so it is not the same on [-1, 1]; ours is always that of the picture on [0, 1].
    a, b = (a - low) / (high - low), (b - low) / (high - low)
    expected = structural_similarity(
        a, b, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, truth, value_range) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_legacy_figure_is_602_db_lower_for_the_same_unclamped_error(value_range: tuple[float, float]) -> None:
    low, high = value_range
    truth = torch.full((3, 16, 16), (low + high) / 2, dtype=torch.float64)
    image = truth + 0.01 * (high - low)
    standard, legacy = psnr(image, truth, value_range), legacy_psnr(image, truth, value_range)
    assert standard - legacy == pytest.approx(20 * np.log10(2))
    assert standard == pytest.approx(40)


def test_a_picture_that_is_not_finite_is_scored_as_black_and_its_unclamped_error_is_infinite() -> None:
    truth = torch.rand(3, 16, 16)
    broken, black = torch.full_like(truth, torch.nan), torch.zeros_like(truth)
    for metric in (psnr, ssim):
        assert metric(broken, truth, (0.0, 1.0)) == metric(black, truth, (0.0, 1.0))
    assert legacy_psnr(broken, truth, (0.0, 1.0)) == -np.inf
