"""Pictures as people have them: right, or refused by name, and the same in training as in restoring."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.commands.reconstruct import read
from harness.config.catalog.data import Folder
from harness.config.errors import ConfigError
from harness.data.dataset import load
from harness.data.pictures import read_picture

SIDE = 16
RAMP = np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE)
GREY = RAMP.round().astype(np.uint8)
COLOURS = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
EXIF_ORIENTATION = 0x0112


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_picture(path))


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    deep = (RAMP * 257).round().astype(np.uint16)
    path = saved(tmp_path / f"deep.{suffix}", Image.fromarray(deep))
    assert np.array_equal(pixels(path), np.stack([GREY] * 3, axis=-1))


def test_grey_palette_and_cmyk_are_converted(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.png", Image.fromarray(GREY))
    assert np.array_equal(pixels(grey), np.stack([GREY] * 3, axis=-1))
    palette = saved(tmp_path / "palette.png", Image.fromarray(COLOURS).quantize(256))
    assert abs(pixels(palette).astype(int) - COLOURS).max() < 32
    cmyk = saved(tmp_path / "cmyk.tif", Image.fromarray(COLOURS).convert("CMYK"))
    assert abs(pixels(cmyk).astype(int) - COLOURS).max() < 3


def test_an_exif_orientation_is_applied_in_training_as_in_restoring(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    for index in range(4):
        saved(tmp_path / f"{index}.png", Image.fromarray(COLOURS), exif=exif)
    upright = np.rot90(COLOURS, -1)
    assert np.array_equal(read(tmp_path / "0.png"), upright)
    trained = load(Folder(root=tmp_path, image_size=SIDE), tmp_path / "cache")
    assert np.array_equal(trained.pixels[0], upright)


def test_an_opaque_alpha_channel_does_not_matter(tmp_path: Path) -> None:
    rgba = Image.fromarray(COLOURS).convert("RGBA")
    assert np.array_equal(pixels(saved(tmp_path / "opaque.png", rgba)), COLOURS)


def transparent(folder: Path) -> Path:
    image = Image.fromarray(COLOURS).convert("RGBA")
    image.putpixel((3, 3), (0, 0, 0, 254))
    return saved(folder / "transparent.png", image)


def transparent_palette(folder: Path) -> Path:
    return saved(folder / "palette.gif", Image.fromarray(COLOURS).quantize(16), transparency=0)


def animated(folder: Path) -> Path:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    return saved(folder / "animated.gif", frames[0], save_all=True, append_images=frames[1:])


def float_samples(folder: Path) -> Path:
    return saved(folder / "float.tif", Image.fromarray(RAMP.astype(np.float32)))


def enormous(folder: Path) -> Path:
    return saved(folder / "enormous.png", Image.new("1", (12000, 12000)))


def bomb(folder: Path) -> Path:
    return saved(folder / "bomb.png", Image.new("1", (20000, 20000)))


def truncated(folder: Path) -> Path:
    path = saved(folder / "truncated.png", Image.fromarray(COLOURS))
    path.write_bytes(path.read_bytes()[:-60])
    return path


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (transparent, "has transparent pixels; save it without an alpha channel, on the background to use"),
        (transparent_palette, "has transparent pixels; save it without an alpha channel, on the background to use"),
        (animated, "has several frames; save the one to use in a file of its own"),
        (float_samples, "has samples of mode F, whose range is not known; save it with 8 or 16 bits"),
        (enormous, "has more than 89,478,485 pixels; save it at a smaller size"),
        (bomb, "has more than 89,478,485 pixels; save it at a smaller size"),
        (truncated, "cannot be read as an image "),
        (pipe, "is not a regular file"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_has_no_obvious_pixels_is_refused_by_name(make: object, said: str, tmp_path: Path) -> None:
    assert callable(make)
    path = make(tmp_path)
    with pytest.raises(ConfigError, match=rf"^IMAGE: {re.escape(str(path))} {re.escape(said)}") as refused:
        read(path)
    assert "\n" not in str(refused.value)
