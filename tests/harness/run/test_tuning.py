"""A tuned cell is trained with the values whose trials scored best on validation pictures, and says so everywhere."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest

from analysis.reading.load import load
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.budgets import budget_frame
from analysis.sections.searches import search_table
from harness.config.cells import TrainCell
from harness.records.events import Evaluation, Search, Step
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.grid import Grid, plan
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

RATES = [1e-5, 1e-3, 1e-1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two seeds of two methods, tuned over three learning rates: the last is far too large."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    declared = grid()
    cells = plan(declared)
    runs.write_plan(declared, cells)
    for cell in cells:
        assert run_cell(runs.cell(cell.cell_id).path, RankPosition.from_environment()) == "finished"
    return runs


def grid() -> Grid:
    fields = tiny_cell(gradient_clip=None).to_json()
    base = {name: value for name, value in fields.items() if name not in ("kind", "backprop", "seed", "tune")}
    return Grid.model_validate(
        {
            "name": "tuned",
            "base": base,
            "grid": {"backprop": ["jfb", {"name": "neumann", "order": 1}], "seed": [0, 1]},
            "tune": {"axes": {"optimizer.lr": RATES}, "seeds": [5, 6]},
        }
    )


def final(runs: Runs) -> list[TrainCell]:
    cells = [folder.cell() for folder in runs.cells_of("tuned")]
    return [cell for cell in cells if isinstance(cell, TrainCell) and cell.tune]


def validation_psnr(runs: Runs, cell: TrainCell) -> float:
    scored = [event for event in runs.cell(cell.cell_id).events() if isinstance(event, Evaluation)]
    return fmean([event for event in scored if event.split == "validation"][-1].scores["psnr"])


def test_the_best_trial_on_validation_pictures_decides(runs: Runs) -> None:
    for cell in final(runs):
        mean = {
            rate: fmean(validation_psnr(runs, cell.trial({"optimizer.lr": rate}, seed)) for seed in (5, 6))
            for rate in RATES
        }
        best = max(mean, key=lambda rate: mean[rate])
        assert cell.optimizer.lr == best
        events = runs.cell(cell.cell_id).events()
        (search,) = (event for event in events if isinstance(event, Search))
        assert search.candidates == RATES
        assert search.psnr == pytest.approx(list(mean.values()))
        assert (search.chosen, search.interior, search.trials) == (best, best == RATES[1], 6)
        assert next(event for event in events if isinstance(event, Step)).learning_rate == pytest.approx(best, rel=0.2)


def test_once_the_fields_are_chosen_the_trials_are_needed_no_more(runs: Runs) -> None:
    cell = final(runs)[0]
    assert cell.needs is not None
    assert [one.cell_id for one in runs.cell(cell.cell_id).prerequisites()] == [cell.needs.cell_id]


def test_trials_saw_no_test_picture(runs: Runs) -> None:
    for trial in final(runs)[0].trials:
        splits = {event.split for event in runs.cell(trial.cell_id).events() if isinstance(event, Evaluation)}
        assert splits == {"validation"}


def test_the_report_shows_the_search_and_keeps_trials_out_of_its_tables(runs: Runs) -> None:
    data = load(runs, "tuned")
    frame = accuracy_frame(data)
    assert list(frame["label"]) == ["de-prox jfb", "de-prox neumann"]
    assert set(frame["seed_count"]) == {2}
    assert all(text.startswith("optimizer.lr ") for text in frame["tuned"])
    assert list(budget_frame(data)["trials"]) == [6, 6]
    rows = search_table(data).frame
    assert list(rows["label"]) == ["de-prox jfb", "de-prox neumann"]
    assert set(rows["tried"]) == {"1e-05, 0.001, 0.1"}


def test_a_trial_that_is_missing_or_diverged(runs: Runs, tmp_path: Path) -> None:
    """Without a trial nothing is chosen; a diverged one is never chosen, and if all are, the cell says so."""
    cell = final(runs)[0]
    copied = Runs(tmp_path)
    for one in (*cell.prerequisites, cell):
        source = runs.cell(one.cell_id).path
        target = copied.cell(one.cell_id).path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target)
    folder = copied.cell(cell.cell_id)
    (folder.path / "tuned.json").unlink()
    (folder.path / "status.json").unlink()
    best = cell.trial({"optimizer.lr": cell.optimizer.lr}, 5)
    _spoil(copied.cell(best.cell_id).path)
    run_cell(folder.path, RankPosition.from_environment())
    again = folder.cell()
    assert isinstance(again, TrainCell)
    assert again.optimizer.lr != cell.optimizer.lr
    (folder.path / "status.json").unlink()
    (folder.path / "tuned.json").unlink()
    for trial in cell.trials:
        _spoil(copied.cell(trial.cell_id).path)
    with pytest.raises(ValueError, match="none of the 3 combinations reached a finite validation PSNR"):
        run_cell(folder.path, RankPosition.from_environment())
    (copied.cell(best.cell_id).path / "status.json").unlink()
    with pytest.raises(ValueError, match=f"the trial {best.cell_id} is not finished"):
        run_cell(folder.path, RankPosition.from_environment())


def _spoil(path: Path) -> None:
    """Make every score of a cell NaN, as after a divergence."""
    record = path / "attempts" / "0" / "record.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    for line in lines:
        if line["event"] == "evaluation":
            line["scores"] = {name: [float("nan")] * len(values) for name, values in line["scores"].items()}
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
