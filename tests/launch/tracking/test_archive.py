"""What a grid recorded travels in one file, the same byte for byte, and comes back; a cell of it can be run again."""

import io
import json
import math
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.reading.load import load
from analysis.sections.accuracy import accuracy_frame
from harness.config.cells import PretrainCell
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from harness.records.collectives import AllReduce, Sweep
from harness.records.events import Start, Step
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.local.rerun import compare, rerun
from launch.planning.grid import Grid, plan
from launch.planning.runs_folder import Runs
from launch.tracking.archive import data_fields, pack, unpack
from tests.conftest import tiny_cell


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished tuned grid; a celeba-like location is planted in its definitions afterwards."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    fields = tiny_cell().to_json()
    base = {name: value for name, value in fields.items() if name not in ("kind", "tune", "seed", "backprop")}
    tune = {"axes": {"optimizer.lr": [1e-4, 1e-3]}}
    declared = Grid.model_validate({"name": "packed", "base": base, "grid": {"seed": [0, 1]}, "tune": tune})
    cells = plan(declared)
    runs.write_plan(declared, cells)
    for cell in cells:
        run_cell(runs.cell(cell.cell_id).path, replace(RankPosition.from_environment(), threads=1))
    return runs


def members(file: Path) -> list[str]:
    with tarfile.open(file) as archive:
        return archive.getnames()


def test_the_same_records_make_the_same_file_wherever_they_lie(runs: Runs, tmp_path: Path) -> None:
    assert pack(runs, "packed", tmp_path / "a.tar.xz") == 7
    moved = Runs(tmp_path / "moved")
    shutil.copytree(runs.root, moved.root)
    for path in sorted(moved.root.rglob("*"), reverse=True):
        path.touch()
    pack(moved, "packed", tmp_path / "b.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    kinds = {Path(name).name for name in members(tmp_path / "a.tar.xz")}
    assert kinds == {"cell.json", "tuned.json", "status.json", "record.jsonl", "exit.json", "grid.json"}


def test_what_comes_back_is_finished_and_reports_the_same(runs: Runs, tmp_path: Path) -> None:
    pack(runs, "packed", tmp_path / "a.tar.xz")
    back = Runs(tmp_path / "back")
    assert unpack(tmp_path / "a.tar.xz", back, {}) == ["packed"]
    assert {folder.status().state for folder in back.cells_of("packed")} == {"finished"}
    before, after = (accuracy_frame(load(one, "packed")) for one in (runs, back))
    assert before.to_csv() == after.to_csv()
    assert unpack(tmp_path / "a.tar.xz", back, {}) == ["packed"], "a second time changes nothing"
    pack(back, "packed", tmp_path / "b.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()


def test_the_sweep_of_all_reduces_travels_with_the_grid(runs: Runs, tmp_path: Path) -> None:
    here = Runs(tmp_path / "here")
    shutil.copytree(runs.root, here.root)
    time = AllReduce(ranks=2, bytes=1024, seconds=1e-4)
    sweep = Sweep(device="cpu", backend="gloo", host="node1", processors=2, times=(time,))
    sweep.write(here.root)
    back = Runs(tmp_path / "back")
    for number, source in enumerate((here, back)):
        pack(source, "packed", tmp_path / f"{number}.tar.xz")
        unpack(tmp_path / f"{number}.tar.xz", back, {})
    assert load(back, "packed").sweep == sweep
    assert (tmp_path / "0.tar.xz").read_bytes() == (tmp_path / "1.tar.xz").read_bytes()


def test_weights_travel_on_request(runs: Runs, tmp_path: Path) -> None:
    pack(runs, "packed", tmp_path / "a.tar.xz", weights=True)
    assert any("/weights/step-" in name for name in members(tmp_path / "a.tar.xz"))
    assert not any("reconstructions" in name for name in members(tmp_path / "a.tar.xz"))


def test_where_the_data_lay_stays_behind_and_is_set_on_the_way_back(tmp_path: Path) -> None:
    runs, declared = Runs(tmp_path / "runs"), {"name": "celeba", "root": "/secret/place", "image_size": 16}
    cell = tiny_cell(data=declared)
    grid = Grid.model_validate({"name": "faces", "base": {"data": declared}})
    runs.write_plan(grid, [cell])
    pack(runs, "faces", tmp_path / "a.tar.xz")
    with tarfile.open(tmp_path / "a.tar.xz") as archive:
        texts = [opened.read() for member in archive if (opened := archive.extractfile(member))]
    assert not any(b"secret" in text for text in texts)
    back = Runs(tmp_path / "back")
    unpack(tmp_path / "a.tar.xz", back, data_fields(["data.root=/data/celeba"]))
    (found,) = back.cells_of("faces")
    assert found.cell().to_json()["data"]["root"] == "/data/celeba"
    assert found.cell().cell_id == cell.cell_id


def test_nothing_is_overwritten(runs: Runs, tmp_path: Path) -> None:
    pack(runs, "packed", tmp_path / "a.tar.xz")
    back = Runs(tmp_path / "back")
    unpack(tmp_path / "a.tar.xz", back, {})
    path = back.cells_of("packed")[0].path / "status.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"status\.json exists and differs"):
        unpack(tmp_path / "a.tar.xz", back, {})
    assert path.read_text() == "{}"


@pytest.mark.parametrize("name", ["../outside", "cells/a/../../b/cell.json", "cells/a/setup.py", "/etc/passwd"])
def test_a_foreign_archive_writes_nothing(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    with pytest.raises(ConfigError, match="which is no file of a grid"):
        unpack(tmp_path / "bad.tar.xz", Runs(tmp_path / "back"), {})
    assert not (tmp_path / "back").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo("cells/a/cell.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ConfigError, match="which is no file of a grid"):
        unpack(tmp_path / "bad.tar.xz", Runs(tmp_path / "back"), {})


def test_an_archived_cell_runs_again_with_the_same_losses(runs: Runs, tmp_path: Path) -> None:
    """Its trials need not: the values that they chose are in the archive."""
    pack(runs, "packed", tmp_path / "a.tar.xz")
    again = Runs(tmp_path / "again")
    found = rerun(tmp_path / "a.tar.xz", "de-prox_jfb_cosine_tuned_s1", {}, again)
    assert (found.steps, found.loss, found.psnr) == (4, 0.0, 0.0)
    finished = [folder for folder in again.cells_of("packed") if folder.status().state == "finished"]
    assert sorted(isinstance(folder.cell(), PretrainCell) for folder in finished) == [False, True]
    starts = [event for folder in finished for event in folder.events() if isinstance(event, Start)]
    assert [start.environment["threads"] for start in starts] == [1, 1], "as before: other numbers round differently"


def test_an_archived_cell_names_only_classes_of_trusted_packages(tmp_path: Path) -> None:
    theirs, cell = Runs(tmp_path / "theirs"), tiny_cell(model="theirs.maps:Map")
    theirs.write_plan(Grid(name="g"), [cell])
    theirs.cell(cell.cell_id).write_status(CellStatus(state="finished"))
    pack(theirs, "g", tmp_path / "a.tar.xz")
    with pytest.raises(ConfigError, match=r"^model: theirs.maps:Map is code that .* --trust theirs runs it$"):
        rerun(tmp_path / "a.tar.xz", cell.cell_id, {}, Runs(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_another_result_is_seen(runs: Runs) -> None:
    folder = next(folder for folder in runs.cells_of("packed") if "tuned" in folder.cell_id)
    events = folder.events()
    changed = [
        event.model_copy(update={"loss": event.loss * 1.5}) if isinstance(event, Step) and event.step == 2 else event
        for event in events
    ]
    assert compare("cell", events, changed).loss == pytest.approx(0.5)
    broken = [
        event.model_copy(update={"loss": math.nan}) if isinstance(event, Step) and event.step == 2 else event
        for event in events
    ]
    assert compare("cell", events, broken).loss == compare("cell", broken, events).loss == math.inf
    assert compare("cell", broken, broken).loss == 0
    with pytest.raises(ConfigError, match="other steps"):
        compare("cell", events, [event for event in events if not (isinstance(event, Step) and event.step == 2)])


def test_only_where_data_lie_can_be_set() -> None:
    with pytest.raises(ConfigError, match=r"steps: an archive's cells are as they were run"):
        data_fields(["steps=3"])
    assert json.dumps(data_fields(["data.root=/a"])) == '{"data.root": "/a"}'
