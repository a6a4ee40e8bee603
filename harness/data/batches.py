"""Batches on the device, with the noise that belongs to each picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.data.dataset import Dataset
from harness.data.sources import Pixels

HELD_OUT_EPOCH = 2**32 - 1
"""Takes the place of the epoch in the noise of held-out pictures."""


@dataclass(frozen=True)
class Sample:
    """A picture and the epoch that determines its noise."""

    index: int
    epoch: int = HELD_OUT_EPOCH


@dataclass(frozen=True)
class Batch:
    """Clean pictures and the standard normal noise that belongs to them, on the device."""

    indices: list[int]
    images: Tensor
    """(batch, 3, size, size), in the pixel range."""
    noise: Tensor
    """The same shape, standard normal."""


@dataclass(frozen=True)
class Loader:
    """Makes batches of one dataset on one device."""

    dataset: Dataset
    value_range: tuple[float, float]
    device: torch.device
    dtype: torch.dtype
    crop: int | None = None
    """Height and width of the crops to train on; None for whole pictures."""

    def held_out_batch(self, indices: list[int]) -> Batch:
        """Validation or test pictures with the noise that belongs to each."""
        samples = [Sample(index) for index in indices]
        return self._batch(self.dataset.pixels[indices], samples, seed=0)

    def batch(self, samples: list[Sample], seed: int) -> Batch:
        """The pictures of `samples`, or crops of them; (seed, epoch, index) determines each crop and noise."""
        pixels = [self._cropped(self.dataset.pixels[sample.index], sample, seed) for sample in samples]
        return self._batch(np.stack(pixels), samples, seed)

    def _cropped(self, pixels: Pixels, sample: Sample, seed: int) -> Pixels:
        if self.crop is None:
            return pixels
        rng = np.random.default_rng([seed, sample.epoch, sample.index])
        top, left = (int(rng.integers(length - self.crop + 1)) for length in pixels.shape[:2])
        return pixels[top : top + self.crop, left : left + self.crop]

    def _batch(self, chosen: Pixels, samples: list[Sample], seed: int) -> Batch:
        indices = [sample.index for sample in samples]
        images = from_pixels(torch.from_numpy(chosen).to(self.device), self.value_range, self.dtype)
        noise = torch.stack([noise_of(sample, seed, images.shape[1:]) for sample in samples])
        return Batch(indices, images, noise.to(self.device).to(self.dtype))


def noise_of(sample: Sample, seed: int, shape: torch.Size) -> Tensor:
    """The standard normal noise of a sample, drawn on the CPU and in float32 so that it is the same everywhere.

    Another device's generator, and even another number of its multiprocessors, gives other numbers from the same seed.
    """
    state = np.random.SeedSequence([seed, sample.epoch, sample.index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state) >> 1)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def from_pixels(pixels: Tensor, value_range: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """Convert (batch, height, width, 3) uint8 to (batch, 3, height, width) in the pixel range."""
    low, high = value_range
    return pixels.permute(0, 3, 1, 2).to(dtype).contiguous() * ((high - low) / 255) + low


def to_pixels(picture: Tensor, value_range: tuple[float, float]) -> Pixels:
    """Convert (3, height, width) in the pixel range to (height, width, 3) uint8, clamped."""
    low, high = value_range
    levels = ((picture.nan_to_num(low) - low) / (high - low) * 255).round().clamp(0, 255).byte()
    return np.asarray(levels.permute(1, 2, 0).cpu().numpy())
