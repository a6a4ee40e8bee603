"""Where the pictures come from."""

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from harness.config.spec import Spec


class DataSpec(Spec):
    """Where the pictures come from and how they are split. The validation split is the end of the training split."""

    interface = "harness.data.sources:Source"
    default_name = "pictures"

    image_size: int = Field(64, ge=8, le=4096)
    """Height and width in pixels after decoding."""
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


class Pictures(DataSpec):
    """Patches of the CC0 color photographs that ship with scikit-image.

    chelsea is for testing; the others are for training, at their own size and at twice that size.
    """

    target = "harness.data.sources:Pictures"
    name: Literal["pictures"] = "pictures"


class Folder(DataSpec):
    """Any folder of images, resized to a square; the last tenth in name order is the test split."""

    target = "harness.data.sources:Folder"
    name: Literal["folder"] = "folder"
    root: Path
    """The folder; every visible file in it must be an image."""

    def files(self) -> list[Path]:
        """Every visible file of the folder."""
        return _image_files(self.root)


class CelebA(DataSpec):
    """CelebA in its standard layout, resized to a square without cropping, as in the paper (section 5)."""

    target = "harness.data.sources:CelebA"
    location_fields = frozenset({"root"})
    name: Literal["celeba"] = "celeba"
    root: Path
    """The folder that contains img_align_celeba/."""
    image_size: int = Field(128, ge=8, le=4096)
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


IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"data.root: no folder {folder}")
    files = sorted(path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    for path in files:
        if not path.is_file():
            raise ValueError(f"data.root: {path} is not a regular file")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"data.root: {path} is not an image (allowed: {' '.join(IMAGE_SUFFIXES)})")
    if len(files) < 3:
        raise ValueError(f"data.root: {folder} holds {len(files)} images; at least 3 are needed to split")
    return files
