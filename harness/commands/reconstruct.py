"""Restores a user's own pictures with a trained cell: `python -m harness reconstruct IMAGE... --cell CELL`.

Without --cell, it uses the cell that comes with the repository, trained by the grid `shipped`.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.console import TrustOption

if TYPE_CHECKING:
    from harness.data.sources import Pixels
    from harness.models.equilibrium import Equilibrium

SHIPPED = Path(__file__).parent / "shipped"
LEAST_SIZE = 11
"""Smallest allowed height and width in pixels, the window size of SSIM."""


def reconstruct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Blurred pictures of any size.")],
    cell: Annotated[Path, typer.Option(metavar="CELL", help="Directory of a trained cell, or a copy of it.")] = SHIPPED,
    blur: Annotated[bool, typer.Option("--blur", help="IMAGEs are clean: blur them first, then score.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the results.")] = Path("restored"),
    trust: TrustOption = None,
) -> None:
    """Restore blurred pictures with a trained cell.

    \b
    python -m harness reconstruct photo.png
    python -m harness reconstruct clean.png --blur --cell runs/cells/de-hqs_jfb_cosine_s0-0123abcd
    """
    from harness.config.errors import ConfigError
    from harness.run.load_model import trained_model

    pictures = {path.stem: read(path) for path in images}
    if len(pictures) < len(images):
        raise ConfigError("IMAGE: two of them have the same name, so their results would overwrite each other")
    _, model = trained_model(cell, trust or ())
    try:
        out.mkdir(parents=True, exist_ok=True)
        _restore_all(model, pictures, out, blur)
    except OSError as error:
        raise ConfigError(f"out: cannot write to {out} ({error.strerror})") from None


def _restore_all(model: "Equilibrium", pictures: "dict[str, Pixels]", out: Path, blur: bool) -> None:
    lines = []
    for name, pixels in pictures.items():
        found = restore(model, pixels, name, blur)
        if found.blurred is not None:
            write_picture(out / f"{name}-blurred.png", found.blurred)
        write_picture(out / f"{name}-restored.png", found.restored)
        print(f"{out / f'{name}-restored.png'}: {found}")
        lines.append(found.scores)
    if blur:
        write_scores(out / "scores.csv", list(pictures), lines)


@dataclass(frozen=True)
class Restored:
    """The result for one picture."""

    restored: "Pixels"
    blurred: "Pixels | None"
    """The blurred picture, if this command blurred it."""
    scores: dict[str, float]
    """Scores of the blurred and the restored picture; empty if the clean one is unknown."""
    nfe: int
    residual: float

    def __str__(self) -> str:
        solve = f"{self.nfe} evaluations, residual {self.residual:.1e}"
        if not self.scores:
            return solve
        s = self.scores
        psnr = f"PSNR {s['psnr_blurred']:.2f} to {s['psnr_restored']:.2f} dB"
        return f"{psnr}, SSIM {s['ssim_blurred']:.3f} to {s['ssim_restored']:.3f}; {solve}"


def read(path: Path) -> "Pixels":
    """Read a picture as upright (height, width, 3) uint8 pixels.

    Raises:
        ConfigError: the picture is missing, unreadable, refused or too small.
    """
    import numpy as np

    from harness.config.errors import ConfigError
    from harness.data.pictures import read_picture

    try:
        pixels = np.asarray(read_picture(path))
    except ValueError as error:
        raise ConfigError(f"IMAGE: {error}") from None
    if min(pixels.shape[:2]) < LEAST_SIZE:
        raise ConfigError(f"IMAGE: {path} must have at least {LEAST_SIZE} pixels per side (got {pixels.shape[:2]})")
    return pixels


def restore(model: "Equilibrium", pixels: "Pixels", name: str, blur: bool) -> Restored:
    """Restore one picture of any size; with `blur`, it is blurred first, with the same noise each time.

    Raises:
        ConfigError: the kernel does not fit the picture, or the solve diverged.
    """
    import torch

    from harness.config.errors import ConfigError
    from harness.data.batches import from_pixels, to_pixels
    from harness.measure.scores import CATALOG, build_metric
    from harness.physics.base import observe

    physics, parameter = model.map.physics, next(model.parameters())
    image = from_pixels(torch.from_numpy(pixels.copy())[None], physics.value_range, parameter.dtype)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    try:
        with torch.no_grad():
            d = observe(physics, image, noise) if blur else image
            output = model.reconstruct(d)
    except ValueError as error:
        raise ConfigError(f"IMAGE: {name}: {error}") from None
    if not output.image.isfinite().all():
        raise ConfigError(f"IMAGE: {name}: the restored picture has pixels that are not finite numbers")
    scores: dict[str, float] = {}
    for kind, picture in {"blurred": d, "restored": output.image}.items() if blur else ():
        for metric in CATALOG:
            scores[f"{metric.key}_{kind}"] = build_metric(metric)(picture[0], image[0], physics.value_range)
    return Restored(
        restored=to_pixels(output.image[0], physics.value_range),
        blurred=to_pixels(d[0], physics.value_range) if blur else None,
        scores=scores,
        nfe=int(output.forward.nfe[0]),
        residual=float(output.forward.residual[0]),
    )


def write_picture(path: Path, pixels: "Pixels") -> None:
    """Write a PNG file atomically."""
    from PIL import Image

    from harness.records.files import replacing

    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")


def write_scores(path: Path, names: list[str], scores: list[dict[str, float]]) -> None:
    """Write a CSV file with one row per picture."""
    from harness.records.files import write_atomically

    text = io.StringIO()
    table = csv.DictWriter(text, ["image", *scores[0]], lineterminator="\n")
    table.writeheader()
    table.writerows({"image": name, **row} for name, row in zip(names, scores, strict=True))
    write_atomically(path, text.getvalue())
