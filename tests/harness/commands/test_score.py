"""Finished cells scored on more pictures than their grid did."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.reading.load import load
from analysis.sections.all_pictures import best_cells, final_frame
from harness.config.cells import parse_cell
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.events import Evaluation
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.grid import Grid, plan
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A grid with a baseline, a map in two schedules, and a feed-forward network."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    base = tiny_cell(model="de-hqs", physics="paper", steps=2, evaluate_every=2).to_json()
    del base["kind"]
    blocks = [{"grid": {"schedule": ["fixed", "cosine"]}},
              {"base": {"model": "feed-forward", "backprop": {"name": "unrolled", "steps": 1}}}]  # fmt: skip
    grid = Grid.model_validate({"name": "small", "base": base, "baselines": ["tikhonov"], "blocks": blocks})
    cells = plan(grid)
    runs.write_plan(grid, cells)
    for cell in cells:
        assert run_cell(runs.cell(cell.cell_id).path, RankPosition.from_environment()) == "finished"
    return runs


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, timeout=300)


def test_the_best_cell_of_each_method_is_scored_on_more_pictures_and_iterated_longer(finished: Runs) -> None:
    printed = command("analysis", "best", "small", "--runs", finished.root).stdout.split()
    kinds = [Path(path).name.split("_")[0].split("-")[0] for path in printed]
    assert kinds == ["tikhonov", "de", "feed"], "of the two schedules the one that is better on validation pictures"
    before = {path: CellFolder(Path(path)).events() for path in printed}
    for longer, said in ((0, "evaluation"), (2, "longer"), (2, "scored before")):
        done = command("harness", "score", *printed, "--pictures", 6, "--longer", longer)
        assert done.returncode == 0, done.stderr
        (map_line,) = [line for line in done.stdout.splitlines() if "/de-hqs" in line]
        assert map_line.endswith(said)
    for path in printed:
        folder = CellFolder(Path(path))
        assert folder.events() == before[path], "the record of the attempts stays as it was"
        (full,) = [event for event in folder.scores() if isinstance(event, Evaluation)]
        test = [event for event in before[path] if isinstance(event, Evaluation) and event.split == "test"][-1]
        assert len(full.indices) == 6
        assert full.indices[:4] == test.indices
        assert full.scores["psnr"][:4] == pytest.approx(test.scores["psnr"], abs=1e-3)
    data = load(finished, "small")
    frame = final_frame(data).set_index("label")
    assert list(frame["pictures"]) == [6, 6, 6]
    trained = frame.loc["de-hqs jfb cosine" if "de-hqs jfb cosine" in frame.index else "de-hqs jfb fixed"]
    assert (trained["depth"], trained["longer_pictures"]) == (4, 2)
    assert frame["longer_psnr"].notna().sum() == 1, "only a map is iterated"
    assert trained["longer_psnr"] != frame["psnr"].max()
    assert len(best_cells(data)) == 3


def test_what_is_not_finished_is_named(finished: Runs, tmp_path: Path) -> None:
    done = command("harness", "score", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: CELL: {tmp_path} is not the directory of a finished cell\n"
    pretrained = next(path for path in (finished.root / "cells").iterdir() if path.name.startswith("pretrain"))
    done = command("harness", "score", pretrained)
    assert done.returncode == 2
    assert "reconstructs nothing" in done.stderr


def test_a_missing_denoiser_is_one_line(finished: Runs, tmp_path: Path) -> None:
    cell = parse_cell({"kind": "baseline", "baseline": {"name": "pnp-pgd"}, "data": tiny_cell().data.model_dump(),
                       "network": {"name": "dncnn", "depth": 3, "width": 8}, "pretraining": {"steps": 4}})  # fmt: skip
    folder = CellFolder(tmp_path / "cells" / cell.cell_id)
    folder.plan(cell)
    folder.write_status(CellStatus(state="finished"))
    done = command("harness", "score", folder.path, "--pictures", 2)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: CELL: {cell.cell_id} needs pretrain_dncnn_s0-")
    assert len(done.stderr.splitlines()) == 1
