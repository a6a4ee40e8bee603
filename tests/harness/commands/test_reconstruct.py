"""A user's own pictures, restored with a copy of a trained cell's directory."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from harness.commands.reconstruct import SHIPPED
from harness.records.cell_folder import CellFolder
from harness.run import checkpoint
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.grid import plan, read_grid
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, elsewhere, of cell.json and the weights of a finished cell."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    cell = tiny_cell(model="de-hqs", physics="paper", pretraining={"steps": 40}, steps=2, evaluate_every=2)
    assert cell.needs is not None
    for one in (cell.needs, cell):
        runs.cell(one.cell_id).plan(one)
        assert run_cell(runs.cell(one.cell_id).path, RankPosition.from_environment()) == "finished"
    copy = tmp_path_factory.mktemp("elsewhere") / "copied"
    original = runs.cell(cell.cell_id).path
    copy.mkdir()
    shutil.copy(original / "cell.json", copy)
    shutil.copytree(original / "weights", copy / "weights")
    shutil.rmtree(runs.root)
    return copy


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """Neither square nor of the size that was trained on."""
    path = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()[40:110, 120:203]).save(path)
    return path


def reconstruct(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "reconstruct", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_clean_picture_is_blurred_restored_and_scored(trained: Path, photograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = reconstruct(photograph, "--cell", trained, "--blur", "--out", out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["cat-blurred.png", "cat-restored.png", "scores.csv"]
    (row,) = csv.DictReader((out / "scores.csv").open())
    assert float(row["psnr_restored"]) > float(row["psnr_blurred"]) + 1
    assert float(row["ssim_restored"]) > float(row["ssim_blurred"])
    assert f"{float(row['psnr_restored']):.2f} dB" in done.stdout
    truth, written = (np.asarray(Image.open(p)).astype(float) / 255 for p in (photograph, out / "cat-restored.png"))
    psnr = -10 * np.log10(np.mean((truth - written) ** 2))
    assert psnr == pytest.approx(float(row["psnr_restored"]), abs=0.05), "the score is that of the written picture"


def test_the_cell_that_ships_restores_at_once_and_is_the_one_of_its_grid(photograph: Path, tmp_path: Path) -> None:
    done = reconstruct(photograph, "--blur", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "scores.csv").open())
    assert float(row["psnr_restored"]) > float(row["psnr_blurred"]) + 3
    assert CellFolder(SHIPPED).cell() == plan(read_grid("shipped"))[-1]
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 2e6


def test_a_blurred_picture_is_restored_without_a_score(trained: Path, photograph: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert reconstruct(photograph, "--cell", trained, "--blur", "--out", first).returncode == 0
    done = reconstruct(first / "cat-blurred.png", "--cell", trained, "--out", second)
    assert done.returncode == 0, done.stderr
    assert "PSNR" not in done.stdout
    assert [path.name for path in second.iterdir()] == ["cat-blurred-restored.png"]
    ours, again = (np.asarray(Image.open(p)).astype(float) for p in (
        first / "cat-restored.png", second / "cat-blurred-restored.png"))  # fmt: skip
    assert ours.shape == again.shape == (70, 83, 3)
    assert np.abs(ours - again).mean() < 2, "but for the rounding of the blurred picture to 8 bits"


def test_mistakes_are_one_line_and_write_nothing(trained: Path, photograph: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (5, 40)).save(tmp_path / "small.png")
    (tmp_path / "other").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "other" / "cat.jpg")
    (tmp_path / "broken").mkdir()
    shutil.copy(trained / "cell.json", tmp_path / "broken")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "cell.json").write_text("{}")
    (tmp_path / "file").write_text("")
    shutil.copytree(trained, tmp_path / "nan")
    loaded = checkpoint.load_newest(trained / "weights")
    assert loaded is not None
    next(iter(loaded[1]["model"].values())).fill_(torch.nan)
    checkpoint.save(tmp_path / "nan" / "weights", loaded[0] + 1, loaded[1], keep=0)
    out = tmp_path / "out"
    for images, cell, where, said in (
        ([tmp_path / "none.png"], trained, out, "IMAGE: .*none.png cannot be read"),
        ([photograph, tmp_path / "text.png"], trained, out, "IMAGE: .*text.png cannot be read as an image"),
        ([tmp_path / "small.png"], trained, out, "IMAGE: .*small.png must have at least 11 pixels per side"),
        ([photograph, tmp_path / "other" / "cat.jpg"], trained, out, "IMAGE: two of them have the same name"),
        ([photograph], tmp_path, out, "cell: .* is not the directory of a cell"),
        ([photograph], tmp_path / "broken", out, "cell: .*broken has no trained weights that are whole"),
        ([photograph], tmp_path / "odd", out, "cell: .*odd/cell.json: model: a value is required"),
        ([photograph], tmp_path / "nan", out, "cell: .*nan has trained weights that are not finite numbers"),
        ([photograph], trained, tmp_path / "file", "out: cannot write to .*file"),
        ([photograph], trained, Path("/proc"), r"out: cannot write to /proc \("),
    ):
        done = reconstruct(*images, "--cell", cell, "--out", where)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert re.match(f"error: {said}", done.stderr), done.stderr
    assert not out.exists()
