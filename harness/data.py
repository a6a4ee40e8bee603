"""Pictures on disk to batches on the device.

A source is decoded once into a memory-mapped uint8 array that all ranks and cells share. What a training step sees
is a pure function of (seed, step): the sample order depends on (seed, epoch), a sample's noise on (seed, epoch,
index), and neither on the number of ranks. A held-out picture's noise depends on the picture only, the same for
every cell, so methods are compared in pairs.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from harness.build import resolve
from harness.catalog import CelebA as CelebASpec
from harness.catalog import DataSpec
from harness.catalog import Folder as FolderSpec

Pixels = npt.NDArray[np.uint8]

HELD_OUT_EPOCH = 2**32 - 1
"""Stands for the epoch in the noise of held-out pictures."""


class Source(Protocol):
    """Where pictures come from, before they are decoded."""

    key: str
    """Identifies the decoded array: same key, same pixels."""
    train_count: int
    """The first so many pictures are for training, validation included; the others for testing."""
    count: int

    def decode(self) -> Iterator[Pixels]:
        """Every picture, (size, size, 3) uint8, training ones first."""


class Pictures:
    """Non-overlapping patches of the CC0 colour photographs inside scikit-image, split by photograph.

    The training photographs take turns, so that the validation split at the end has patches of each.
    """

    TRAIN: ClassVar = {"astronaut": (512, 512), "coffee": (400, 600), "rocket": (427, 640)}
    TEST: ClassVar = {"chelsea": (300, 451)}

    def __init__(self, spec: DataSpec) -> None:
        self.size = spec.image_size
        self.train_count = sum(len(self._corners(shape)) for shape in self.TRAIN.values())
        self.count = self.train_count + sum(len(self._corners(shape)) for shape in self.TEST.values())
        self.key = f"pictures-{'-'.join(self.TEST)}-{self.size}"
        if self.count == self.train_count or self.train_count < 3:
            raise ValueError(f"data.image_size: the photographs hold too few patches (got {self.size} pixels)")

    def decode(self) -> Iterator[Pixels]:
        """Every patch."""
        for photographs in (self.TRAIN, self.TEST):
            yield from _take_turns([self._patches(name, shape) for name, shape in photographs.items()])

    def _corners(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        rows, columns = (range(0, length - self.size + 1, self.size) for length in shape)
        return [(row, column) for row in rows for column in columns]

    def _patches(self, name: str, shape: tuple[int, int]) -> list[Pixels]:
        from skimage import data

        photograph: Pixels = getattr(data, name)()
        assert photograph.shape == (*shape, 3)
        return [photograph[r : r + self.size, c : c + self.size] for r, c in self._corners(shape)]


class ImageFiles:
    """Image files in name order, each resized without crop to a square (bilinear, antialiased)."""

    def __init__(self, spec: DataSpec, files: list[Path], train_count: int) -> None:
        self.files = files
        self.size = spec.image_size
        self.train_count = train_count
        self.count = len(files)
        listing = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
        self.key = f"{spec.name}-{self.size}-{hashlib.sha256(listing.encode()).hexdigest()[:12]}"

    def decode(self) -> Iterator[Pixels]:
        """Every image.

        Raises:
            ValueError: a file is not an image.
        """
        for path in self.files:
            try:
                with Image.open(path) as image:
                    resized = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"data.root: {path} cannot be read as an image ({error})") from None
            yield np.asarray(resized)


class Folder(ImageFiles):
    """Any folder of images; the last tenth in name order is the test split."""

    def __init__(self, spec: FolderSpec) -> None:
        files = spec.files()
        super().__init__(spec, files, len(files) - max(1, len(files) // 10))


class CelebA(ImageFiles):
    """CelebA, aligned and cropped (Liu et al. 2015), split as in the paper."""

    def __init__(self, spec: CelebASpec) -> None:
        super().__init__(spec, spec.files(), spec.split_at)


def open_source(spec: DataSpec) -> Source:
    """The source that a spec names."""
    return resolve(spec.import_path)(spec)


@dataclass(frozen=True)
class Dataset:
    """Decoded pictures and their splits; a picture is named by its index everywhere."""

    pixels: Pixels
    """(count, size, size, 3), memory-mapped."""
    train: range
    validation: range
    test: range


def load(spec: DataSpec, cache: Path) -> Dataset:
    """Open the decoded pictures, decoding them first if nobody has.

    Raises:
        ValueError: one line that names the field, where the source is missing, broken or too small for the splits.
    """
    source = open_source(spec)
    held = spec.validation_images or min(500, max(1, source.train_count // 8))
    available = source.train_count - held
    if available < 1:
        raise ValueError(f"data.validation_images: must be less than {source.train_count} (got {held})")
    train = range(min(spec.train_images or available, available))
    tested = min(spec.test_images or source.count, source.count - source.train_count)
    return Dataset(
        pixels=_decoded(source, cache),
        train=train,
        validation=range(available, source.train_count),
        test=range(source.train_count, source.train_count + tested),
    )


def _decoded(source: Source, cache: Path) -> Pixels:
    """The memory map; built by whoever holds the lock first, and complete once it has its name."""
    path = cache / f"{source.key}.npy"
    cache.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with open(cache / f"{source.key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _decode_to(path, source)
    return np.load(path, mmap_mode="r")


def _decode_to(path: Path, source: Source) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        array: np.memmap[tuple[int, ...], np.dtype[np.uint8]] | None = None
        for index, pixels in enumerate(track(source.decode(), f"decoding {path.stem}", total=source.count)):
            if array is None:
                array = np.lib.format.open_memmap(
                    partial, mode="w+", dtype=np.uint8, shape=(source.count, *pixels.shape)
                )
            array[index] = pixels
        assert array is not None
        array.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Sample:
    """A picture and the epoch whose noise it gets."""

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


def uniform_draws(seed: int, step: int, batch_size: int) -> Tensor:
    """One uniform number on [0, 1) for each place in a global batch, in float64; the same for any number of ranks."""
    return torch.from_numpy(np.random.default_rng([seed, step]).random(batch_size))


@dataclass(frozen=True)
class Loader:
    """Makes batches of one dataset on one device."""

    dataset: Dataset
    value_range: tuple[float, float]
    device: torch.device
    dtype: torch.dtype
    crop: int | None = None
    """Size of the crops that are trained on; None for whole pictures."""

    def held_out_batch(self, indices: list[int]) -> Batch:
        """Validation or test pictures with the noise that belongs to each."""
        samples = [Sample(index) for index in indices]
        return self._batch(self.dataset.pixels[indices], samples, seed=0)

    def batch(self, samples: list[Sample], seed: int) -> Batch:
        """The pictures of `samples`, or a crop of each, at the place and with the noise of (seed, epoch, index)."""
        pixels = [self._cropped(self.dataset.pixels[sample.index], sample, seed) for sample in samples]
        return self._batch(np.stack(pixels), samples, seed)

    def _cropped(self, pixels: Pixels, sample: Sample, seed: int) -> Pixels:
        if self.crop is None:
            return pixels
        place = np.random.default_rng([seed, sample.epoch, sample.index])
        top, left = (int(place.integers(length - self.crop + 1)) for length in pixels.shape[:2])
        return pixels[top : top + self.crop, left : left + self.crop]

    def _batch(self, chosen: Pixels, samples: list[Sample], seed: int) -> Batch:
        low, high = self.value_range
        indices = [sample.index for sample in samples]
        pixels = torch.from_numpy(chosen).to(self.device)
        images = pixels.permute(0, 3, 1, 2).to(self.dtype).contiguous() * ((high - low) / 255) + low
        noise = [self._noise(images[0].shape, seed, sample.epoch, sample.index) for sample in samples]
        return Batch(indices, images, torch.stack(noise).to(self.dtype))

    def _noise(self, shape: torch.Size, seed: int, epoch: int, index: int) -> Tensor:
        """Drawn in float32 whatever the dtype, so that both precisions see the same noise."""
        state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.device).manual_seed(int(state) >> 1)
        return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32)


@lru_cache(maxsize=2)
def sample_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of the training pictures for one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _take_turns(lists: list[list[Pixels]]) -> list[Pixels]:
    """One from each list in turn until all are empty."""
    longest = max(map(len, lists))
    return [items[k] for k in range(longest) for items in lists if k < len(items)]
