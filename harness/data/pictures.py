"""Reads one picture file as upright RGB pixels; training and restoring share it, so that both see the same picture."""

import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DEEP_FORMATS = ("PNG", "PPM")
"""Formats whose 32-bit mode in Pillow holds 16-bit samples."""


def read_picture(path: Path) -> Image.Image:
    """Decode a picture to 8-bit RGB, upright as its EXIF orientation says.

    Grey and 16-bit grey pictures, palettes and CMYK are converted. What has no obvious meaning as an RGB picture is
    refused: transparent pixels, several frames, and samples of unknown range.

    Raises:
        ValueError: one line that names the file, why it is refused, and what to do where something can be done.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, with the file's name
            return _decode(path)
    except _RefusedError as refused:
        raise ValueError(f"{path} {refused}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} {_too_large()}") from None
    except Exception as error:  # each decoder of Pillow raises exceptions of its own for broken files
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an image ({said})") from None


class _RefusedError(Exception):
    """The predicate of a sentence that says why a picture is refused."""


def _decode(path: Path) -> Image.Image:
    if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO would wait for ever
        raise _RefusedError("is not a regular file")
    with Image.open(path) as image:
        if image.width * image.height > _most_pixels():
            raise _RefusedError(_too_large())
        # A camera's MPO file is a JPEG photograph followed by previews of it.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise _RefusedError("has several frames; save the one to use in a file of its own")
        return _to_rgb(ImageOps.exif_transpose(image), image.format or "")


def _to_rgb(image: Image.Image, format: str) -> Image.Image:
    """Convert to 8-bit RGB; the mode of the result of Pillow's own conversion would clip 16 bits and drop alpha."""
    if image.mode.startswith("I;16") or (image.mode == "I" and format in DEEP_FORMATS):
        levels = np.asarray(image).astype(np.float64) / (65535 / 255)
        image = Image.fromarray(levels.round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _RefusedError(f"has samples of mode {image.mode}, whose range is not known; save it with 8 or 16 bits")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise _RefusedError("has transparent pixels; save it without an alpha channel, on the background to use")
    return image.convert("RGB")


def _most_pixels() -> float:
    return Image.MAX_IMAGE_PIXELS or float("inf")


def _too_large() -> str:
    return f"has more than {_most_pixels():,.0f} pixels; save it at a smaller size"
