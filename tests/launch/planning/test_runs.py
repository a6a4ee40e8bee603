"""The runs directory: found out before anything is written whether results will fit."""

import os
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
    unpacked = tiny_cell(data={"name": "celeba", "root": "PATH"})
    runs.cell(unpacked.cell_id).plan(unpacked)
    runs.require_same_folders([there])
    runs.cell(here.cell_id).plan(here)
    (tmp_path / "there").symlink_to(tmp_path / "here")
    runs.require_same_folders([there])


@pytest.mark.parametrize("open_one", ["", "cells", "submissions", "cells/ID", "cells/ID/logs"])
def test_a_folder_in_which_others_could_replace_what_a_job_runs_is_refused(open_one: str, runs: Runs) -> None:
    cell = tiny_cell()
    folder = runs.root / open_one.replace("ID", cell.cell_id)
    for path in (runs.root, runs.root / "submissions", runs.cell(cell.cell_id).path / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    runs.require_own([cell])
    folder.chmod(0o775)
    with pytest.raises(ConfigError, match=rf"^--runs: {folder} can be written by other users, .*; chmod -R go-w"):
        runs.require_own([cell])


def test_a_folder_of_another_user_is_refused(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.root.mkdir()
    another = SimpleNamespace(st_uid=os.getuid() + 1, st_mode=0o40755)
    monkeypatch.setattr(Path, "stat", lambda path, **options: another)
    with pytest.raises(ConfigError, match=r"^--runs: .* belongs to another user"):
        runs.require_own([])
