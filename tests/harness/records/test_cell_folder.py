"""The cell directory: reading needs no right to write, and a full disk loses no reason."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records import cell_folder
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.files import write_over
from harness.run import checkpoint
from launch.planning.runs_folder import Runs
from launch.tracking.status import read_rows

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def folder_that(state: Any, path: Path) -> CellFolder:
    folder = CellFolder(path / "runs" / "cells" / "one")
    folder.write_status(CellStatus(state=state, attempt=0, step=3, steps=9))
    return folder


def test_reading_a_status_creates_no_file(tmp_path: Path) -> None:
    folder = folder_that("running", tmp_path)
    (folder.path / "cell.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert folder.status().state == "interrupted"
    assert read_rows(Runs(tmp_path / "runs"), [folder])[0].state == "interrupted"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_sees_that_another_process_runs_the_cell(tmp_path: Path) -> None:
    folder = folder_that("running", tmp_path)
    with folder.locked():
        assert folder.status().state == "running"
    assert folder.status().state == "interrupted"


def test_on_a_full_disk_the_status_still_gets_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_that("running", tmp_path)
    folder.new_attempt()

    def refuse(path: Path, text: str) -> None:
        raise FULL

    monkeypatch.setattr(cell_folder, "write_atomically", refuse)
    folder.end_attempt("failed", "rank 0: OSError: [Errno 28] No space left on device")
    status = folder.status()
    assert (status.state, status.step) == ("failed", 3)
    assert "No space left on device" in status.message


def test_writing_over_a_file_leaves_nothing_of_a_longer_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("longer")
    write_over(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "new"


def test_no_part_of_a_checkpoint_stays_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"model": torch.zeros(2)}, keep=1)

    def refuse(descriptor: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path, 2, {"model": torch.zeros(2)}, keep=1)
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_attempt_left_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.999").write_bytes(b"half")
    checkpoint.save(tmp_path, 1, {"model": torch.zeros(2)}, keep=1)
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_file_that_is_not_named_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    for name in ("step-1.pt", "step-a-b-c.pt", "step-00000009-0000000000000000.pt"):
        (tmp_path / name).write_bytes(b"x")
    assert checkpoint.load_newest(tmp_path) is None
