"""Pictures on disk to batches on the device.

A source is decoded once into a memory-mapped uint8 array that all ranks and cells share; a site may have it copied to
a disk of each node. What a training step sees
is a pure function of (seed, step): the sample order depends on (seed, epoch), a sample's noise on (seed, epoch,
index), and neither on the number of ranks. A held-out picture's noise depends on the picture only, the same for
every cell, so methods are compared in pairs.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

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
from harness.environment import host

Pixels = npt.NDArray[np.uint8]
Item = TypeVar("Item")

HELD_OUT_EPOCH = 2**32 - 1
"""Stands for the epoch in the noise of held-out pictures."""


class Source(Protocol):
    """Where pictures come from, before they are decoded."""

    key: str
    """Identifies the decoded array: same key, same pixels."""
    train_count: int
    """The first so many pictures are for training, validation included; the others for testing."""
    count: int
    group: int
    """Training pictures that show the same thing come in runs of so many; the default split cuts none."""

    def decode(self) -> Iterator[Pixels]:
        """Every picture, (size, size, 3) uint8, training ones first."""


class Pictures:
    """Non-overlapping patches of the CC0 colour photographs inside scikit-image, split by photograph.

    Training photographs are cut at their own size and at twice that, for an unseen picture may be softer than they are;
    the five patches that show one region follow each other. The photographs take turns, so that the validation split
    at the end has regions of each.
    """

    TRAIN: ClassVar = {"astronaut": (512, 512), "coffee": (400, 600), "rocket": (427, 640)}
    TEST: ClassVar = {"chelsea": (300, 451)}
    group = 5

    def __init__(self, spec: DataSpec) -> None:
        self.size = spec.image_size
        self.train_count = self.group * sum(len(self._corners(shape)) for shape in self.TRAIN.values())
        self.count = self.train_count + sum(len(self._corners(shape)) for shape in self.TEST.values())
        self.key = f"pictures-two-sizes-{'-'.join(self.TEST)}-{self.size}"
        if self.count == self.train_count or self.train_count < 3 * self.group:
            raise ValueError(f"data.image_size: the photographs hold too few patches (got {self.size} pixels)")

    def decode(self) -> Iterator[Pixels]:
        """Every patch."""
        for region in _take_turns([self._regions(name, shape) for name, shape in self.TRAIN.items()]):
            yield from region
        for name, shape in self.TEST.items():
            photograph = _photograph(name, shape)
            yield from (self._patch(photograph, corner) for corner in self._corners(shape))

    def _regions(self, name: str, shape: tuple[int, int]) -> list[list[Pixels]]:
        """For each patch of the photograph: itself, and the four patches that show it at twice the size."""
        photograph = _photograph(name, shape)
        height, width = shape
        twice = np.asarray(Image.fromarray(photograph).resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
        quarters = [(0, 0), (0, self.size), (self.size, 0), (self.size, self.size)]
        return [
            [self._patch(photograph, (row, column))]
            + [self._patch(twice, (2 * row + down, 2 * column + right)) for down, right in quarters]
            for row, column in self._corners(shape)
        ]

    def _corners(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        rows, columns = (range(0, length - self.size + 1, self.size) for length in shape)
        return [(row, column) for row in rows for column in columns]

    def _patch(self, photograph: Pixels, corner: tuple[int, int]) -> Pixels:
        row, column = corner
        return photograph[row : row + self.size, column : column + self.size]


class ImageFiles:
    """Image files in name order, each resized without crop to a square (bilinear, antialiased)."""

    group = 1

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


def load(spec: DataSpec, cache: Path, stage: str | None = None) -> Dataset:
    """Open the decoded pictures, decoding them first if nobody has; with `stage`, a copy in that folder of the node.

    Raises:
        ValueError: one line that names the field, where the source is missing, broken or too small for the splits.
    """
    source = open_source(spec)
    groups = source.train_count // source.group
    held = spec.validation_images or min(500, max(1, groups // 8) * source.group)
    available = source.train_count - held
    if available < 1:
        raise ValueError(f"data.validation_images: must be less than {source.train_count} (got {held})")
    train = range(min(spec.train_images or available, available))
    tested = min(spec.test_images or source.count, source.count - source.train_count)
    decoded = _decoded(source, cache)
    return Dataset(
        pixels=np.load(_staged(decoded, stage) if stage else decoded, mmap_mode="r"),
        train=train,
        validation=range(available, source.train_count),
        test=range(source.train_count, source.train_count + tested),
    )


def _decoded(source: Source, cache: Path) -> Path:
    """The decoded array."""
    path = cache / f"{source.key}.npy"
    cache.mkdir(parents=True, exist_ok=True)
    _make_once(path, lambda: _decode_to(path, source))
    return path


def _staged(path: Path, folder: str) -> Path:
    """The copy of a decoded array in a folder of this node; `path` itself, and a line that says why, where none fits.

    Its name has the size and time of the original, so that one decoded anew is copied anew. It stays for other jobs.
    """
    try:
        expanded = os.path.expandvars(folder)
        if "$" in expanded:
            raise OSError("a variable in it is not set")
        here = Path(expanded) / f"jfbench-{os.getuid()}"
        here.mkdir(mode=0o700, exist_ok=True)
        about = path.stat()
        copy = here / f"{path.stem}-{about.st_size}-{about.st_mtime_ns}.npy"
        _make_once(copy, lambda: _copy_to(copy, path))
    except OSError as error:
        print(f"stage: {folder} on {host()} is not used: {error.strerror or error}", file=sys.stderr)
        return path
    return copy


def _make_once(path: Path, make: Callable[[], None]) -> None:
    """Have whoever holds the lock first make a file, which is complete once it has its name."""
    if not path.exists():
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make()


def _copy_to(path: Path, source: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    if shutil.disk_usage(path.parent).free < source.stat().st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        shutil.copyfile(source, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
        indices = [sample.index for sample in samples]
        images = from_pixels(torch.from_numpy(chosen).to(self.device), self.value_range, self.dtype)
        noise = [self._noise(images[0].shape, seed, sample.epoch, sample.index) for sample in samples]
        return Batch(indices, images, torch.stack(noise).to(self.dtype))

    def _noise(self, shape: torch.Size, seed: int, epoch: int, index: int) -> Tensor:
        """Drawn in float32 whatever the dtype, so that both precisions see the same noise."""
        state = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.device).manual_seed(int(state) >> 1)
        return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32)


def from_pixels(pixels: Tensor, value_range: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """(batch, height, width, 3) uint8 to (batch, 3, height, width) in the pixel range."""
    low, high = value_range
    return pixels.permute(0, 3, 1, 2).to(dtype).contiguous() * ((high - low) / 255) + low


def to_pixels(picture: Tensor, value_range: tuple[float, float]) -> Pixels:
    """(3, height, width) in the pixel range to (height, width, 3) uint8, clamped."""
    low, high = value_range
    levels = ((picture.nan_to_num(low) - low) / (high - low) * 255).round().clamp(0, 255).byte()
    return np.asarray(levels.permute(1, 2, 0).cpu().numpy())


@lru_cache(maxsize=2)
def sample_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of the training pictures for one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _photograph(name: str, shape: tuple[int, int]) -> Pixels:
    from skimage import data

    photograph: Pixels = getattr(data, name)()
    assert photograph.shape == (*shape, 3)
    return photograph


def _take_turns(lists: list[list[Item]]) -> list[Item]:
    """One from each list in turn until all are empty."""
    longest = max(map(len, lists))
    return [items[k] for k in range(longest) for items in lists if k < len(items)]
