"""Sources of pictures, before they are decoded."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.config.build import implementation
from harness.config.catalog.data import CelebA as CelebASpec
from harness.config.catalog.data import DataSpec
from harness.config.catalog.data import Folder as FolderSpec
from harness.config.catalog.data import Pictures as PicturesSpec
from harness.data.pictures import read_picture

Pixels = npt.NDArray[np.uint8]
DECODING = 2
"""Version of how a picture file becomes pixels; arrays that another version decoded are not used."""

Item = TypeVar("Item")


class Source(Protocol):
    """A source of pictures, which are not decoded yet."""

    key: str
    """Identifies the decoded array: the same key means the same pixels."""
    train_count: int
    """The first this many pictures are for training, validation included; the others are for testing."""
    count: int
    """Number of pictures in total."""
    group: int
    """Length of the runs of training pictures that show the same scene; the default validation split divides none."""

    def decode(self) -> Iterator[Pixels]:
        """Yield every picture, (size, size, 3) uint8, those for training first."""


class Pictures:
    """Non-overlapping patches of the CC0 color photographs that ship with scikit-image, split by photograph.

    Training photographs are cut at their own size and at twice that size, because an unseen picture may be softer than
    they are; the five patches that show one region are consecutive. The photographs take turns, so that the validation
    split at the end has regions of each.
    """

    def __init__(self, spec: PicturesSpec) -> None:
        counts = spec.counts()
        self.size, self.train_count, self.count, self.group = spec.image_size, counts.train, counts.total, counts.group
        self.training, self.testing = spec.training, spec.testing
        self.key = f"pictures-two-sizes-{'-'.join(self.testing)}-{self.size}"

    def decode(self) -> Iterator[Pixels]:
        """Yield every patch."""
        for region in _take_turns([self._regions(name, shape) for name, shape in self.training.items()]):
            yield from region
        for name, shape in self.testing.items():
            photograph = _photograph(name, shape)
            yield from (self._patch(photograph, corner) for corner in self._corners(shape))

    def _regions(self, name: str, shape: tuple[int, int]) -> list[list[Pixels]]:
        """For each patch of the photograph, the patch itself and the four patches that show it at twice the size."""
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
    """Image files in name order, each resized to a square without cropping (bilinear, antialiased)."""

    group = 1

    def __init__(self, spec: DataSpec, files: list[Path], train_count: int) -> None:
        self.files = files
        self.size = spec.image_size
        self.train_count = train_count
        self.count = len(files)
        self.key = f"{spec.name}-{self.size}-{_fingerprint(files)}"

    def decode(self) -> Iterator[Pixels]:
        """Yield every image.

        Raises:
            ValueError: a file is not a picture that can be used.
        """
        for path in self.files:
            try:
                picture = read_picture(path)
            except ValueError as error:
                raise ValueError(f"data.root: {error}") from None
            yield np.asarray(picture.resize((self.size, self.size), Image.Resampling.BILINEAR))


class Folder(ImageFiles):
    """Any folder of images; the last tenth in name order is the test split."""

    def __init__(self, spec: FolderSpec) -> None:
        super().__init__(spec, spec.files(), spec.counts().train)


class CelebA(ImageFiles):
    """CelebA, aligned and cropped (Liu et al. 2015), split as in the paper."""

    def __init__(self, spec: CelebASpec) -> None:
        super().__init__(spec, spec.files(), spec.split_at)


def _fingerprint(files: list[Path]) -> str:
    """A hash of where files are and of their names, sizes and times; it changes if any of them is another file.

    The time at which the system last changed a file's content, name or owner (ctime) cannot be set by a program, so
    a file that was replaced by one of the same size and modification time is noticed too. No content is read, because a
    data set may be large. Copying or moving a folder therefore decodes it again.
    """
    folders = {folder: folder.resolve() for folder in {path.parent for path in files}}
    listing = "\n".join(f"{folders[path.parent] / path.name} {_identity(path)}" for path in files)
    return hashlib.sha256(f"{DECODING} {listing}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _identity(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def open_source(spec: DataSpec) -> Source:
    """The source that a spec names."""
    source: Source = implementation(spec)(spec)
    return source


def _photograph(name: str, shape: tuple[int, int]) -> Pixels:
    from skimage import data

    photograph: Pixels = getattr(data, name)()
    assert photograph.shape == (*shape, 3)
    return photograph


def _take_turns(lists: list[list[Item]]) -> list[Item]:
    """One item from each list in turn, until all are used up."""
    longest = max(map(len, lists))
    return [items[k] for k in range(longest) for items in lists if k < len(items)]
