"""The runs directory: found out before anything is written whether results will fit."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--runs: /proc/nowhere cannot be written"):
        Runs(Path("/proc/nowhere")).require_space()


def test_a_full_disk_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    with pytest.raises(ConfigError, match=r"--runs: .* has 3 MiB left; at least 100 MiB are needed"):
        runs.require_space()


def test_an_ordinary_folder_will_do(runs: Runs) -> None:
    runs.require_space()
    assert not list(runs.root.iterdir())


def test_a_cell_is_not_finished_before_with_the_pictures_of_another_folder(runs: Runs, tmp_path: Path) -> None:
    here, there = (tiny_cell(data={"name": "celeba", "root": str(tmp_path / name)}) for name in ("here", "there"))
    assert here.cell_id == there.cell_id
    runs.require_same_folders([here])
    runs.cell(here.cell_id).plan(here)
    runs.require_same_folders([here])
    with pytest.raises(ConfigError, match=r"^data\.root: \S+ of .* has its pictures in .*/here, not in .*/there; give"):
        runs.require_same_folders([there])
    (tmp_path / "there").symlink_to(tmp_path / "here")
    runs.require_same_folders([there])
