"""The cells behind the tables, one row each."""

import pytest

from analysis.reading.load import load
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.cells import cell_frame
from harness.records.files import write_atomically
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import make

GRID = ("model=de-hqs,de-grad", "seed=0,1", "steps=10")


def test_the_tables_are_means_of_the_cells(runs: Runs) -> None:
    data = load(make(runs, *GRID), "demo")
    cells = cell_frame(data)
    assert list(cells["cell_id"]) == list(data.finished["cell_id"])
    trained = cells[cells["kind"] == "train"]
    assert trained[["step_seconds", "spectral_radius", "test_start_psnr"]].notna().all(axis=None)
    for row in accuracy_frame(data).to_dict("records"):
        behind = cells[cells["label"] == row["label"]]
        assert len(behind) == row["seed_count"]
        assert behind["test_psnr"].mean() == pytest.approx(row["psnr"])
        assert behind["validation_psnr"].mean() == pytest.approx(row["validation_psnr"])


def test_a_grid_of_which_only_baselines_are_finished(runs: Runs) -> None:
    make(runs, *GRID)
    for folder in runs.cells_of("demo"):
        if folder.cell_id.startswith(("de-", "pretrain")):
            write_atomically(folder.path / "status.json", '{"state": "planned"}')
            (folder.path / "attempts" / "0" / "record.jsonl").unlink()
    cells = cell_frame(load(runs, "demo"))
    assert set(cells["kind"]) == {"baseline"}
    assert cells["test_psnr"].notna().all()
