"""Where the pictures come from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.config.spec import Spec


@dataclass(frozen=True)
class Counts:
    """How many pictures a source has."""

    train: int
    """Pictures for training, validation included; they come first."""
    total: int
    group: int = 1
    """Length of the runs of training pictures that show the same scene; the default validation split divides none."""


@dataclass(frozen=True)
class Splits:
    """The indices of the pictures of each split."""

    train: range
    validation: range
    test: range


class DataSpec(Spec):
    """Where the pictures come from and how they are split. The validation split is the end of the training split."""

    interface = "harness.data.sources:Source"
    default_name = "pictures"

    image_size: int = Field(64, ge=11, le=4096)
    """Height and width in pixels after decoding; at least the window of SSIM."""
    test_images: NonNegativeInt | None = None
    """Use only this many test images, the first ones; 0 scores none, as the trials of a search do; null uses all."""
    train_images: PositiveInt | None = None
    """Use only this many training images, the first ones, not counting the validation split; null uses all."""
    validation_images: PositiveInt | None = None
    """Size of the validation split; null takes about an eighth of the training images, at most 500."""
    crop: int | None = Field(None, ge=8)
    """Size in pixels of random square crops to train on; null trains on whole images. Held-out ones stay whole."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop is not None and self.crop > self.image_size:
            raise PydanticCustomError(
                "choice",
                "crop {crop} is larger than image_size {size}",
                {"crop": self.crop, "size": self.image_size},
            )
        return self

    def files(self) -> list[Path]:
        """The image files of the source in name order; empty if it has no files.

        Raises:
            ValueError: one line that names the field, if the folder is missing or contains anything else.
        """
        return []

    def counts(self) -> Counts | None:
        """How many pictures the source has; None if only its class knows.

        Raises:
            ValueError: as for `files`.
        """
        return None

    def splits(self, counts: Counts) -> Splits:
        """The splits of a source with so many pictures.

        Raises:
            ValueError: no picture is left to train on.
        """
        default = min(500, max(1, counts.train // counts.group // 8) * counts.group)
        validation = self.validation_images or default
        available = counts.train - validation
        if available < 1:
            raise ValueError(f"data.validation_images: must be less than {counts.train} (got {validation})")
        tested = counts.total if self.test_images is None else self.test_images
        return Splits(
            train=range(min(self.train_images or available, available)),
            validation=range(available, counts.train),
            test=range(counts.train, min(counts.total, counts.train + tested)),
        )


class Pictures(DataSpec):
    """Patches of the CC0 color photographs that ship with scikit-image.

    chelsea is for testing; the others are for training, at their own size and at twice that size.
    """

    target = "harness.data.sources:Pictures"
    training: ClassVar = {"astronaut": (512, 512), "coffee": (400, 600), "rocket": (427, 640)}
    testing: ClassVar = {"chelsea": (300, 451)}
    """Height and width of the photographs."""
    group: ClassVar = 5
    """Each training patch is followed by the four patches that show it at twice the size."""
    name: Literal["pictures"] = "pictures"

    def counts(self) -> Counts:
        """The number of patches."""
        patches = [sum(map(self._patches, shapes.values())) for shapes in (self.training, self.testing)]
        train, test = self.group * patches[0], patches[1]
        if not test or train < 3 * self.group:
            raise ValueError(f"data.image_size: the photographs hold too few patches (got {self.image_size} pixels)")
        return Counts(train, train + test, self.group)

    def _patches(self, shape: tuple[int, int]) -> int:
        return math.prod(length // self.image_size for length in shape)


class Folder(DataSpec):
    """Any folder of images, resized to a square; the last tenth in name order is the test split."""

    target = "harness.data.sources:Folder"
    name: Literal["folder"] = "folder"
    root: Path
    """The folder; every visible file in it must be an image."""

    def files(self) -> list[Path]:
        """Every visible file of the folder."""
        return _image_files(self.root)

    def counts(self) -> Counts:
        """The last tenth in name order, at least one image, is for testing."""
        total = len(self.files())
        return Counts(total - max(1, total // 10), total)


class CelebA(DataSpec):
    """CelebA in its standard layout, resized to a square without cropping, as in the paper (section 5)."""

    target = "harness.data.sources:CelebA"
    location_fields = frozenset({"root"})
    name: Literal["celeba"] = "celeba"
    root: Path
    """The folder that contains img_align_celeba/."""
    image_size: int = Field(128, ge=11, le=4096)
    """Height and width in pixels after resizing."""
    split_at: PositiveInt = 8000
    """The first this many images in name order are for training, the others for testing."""

    def files(self) -> list[Path]:
        """Every file of img_align_celeba/."""
        files = _image_files(self.root / "img_align_celeba")
        if len(files) <= self.split_at:
            raise ValueError(
                f"data.split_at: must be less than the {len(files)} images in {self.root} (got {self.split_at})"
            )
        return files

    def counts(self) -> Counts:
        """The first `split_at` images are for training."""
        return Counts(self.split_at, len(self.files()))


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"data.root: no folder {folder}")
    try:
        visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ValueError(f"data.root: {folder} cannot be read ({error.strerror})") from None
    files = [path for path in visible if not path.is_dir()]
    for path in files:
        if not path.is_file():
            raise ValueError(f"data.root: {path} is not a regular file")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"data.root: {path} is not an image (allowed: {' '.join(IMAGE_SUFFIXES)})")
    if len(files) < 3:
        inner = [path.name for path in visible if path.is_dir()]
        deeper = f"; it has folders, and one of them may be meant, such as {folder / inner[0]}" if inner else ""
        raise ValueError(f"data.root: {folder} holds {len(files)} images; at least 3 are needed to split{deeper}")
    return files
