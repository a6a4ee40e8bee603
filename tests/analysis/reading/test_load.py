import math

import pytest

from analysis.reading.load import load
from harness.config.cells import Cell, TrainCell
from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, append, default, events, make

SMALL = ("model=de-hqs", "backprop=jfb", "baselines=tikhonov", "steps=10", "pretraining.steps=4")


def trained(runs: Runs) -> str:
    return next(folder.cell_id for folder in runs.cells_of("demo") if folder.cell().kind == "train")


def test_every_event_becomes_rows(runs: Runs) -> None:
    data = load(make(runs, *SMALL), "demo")
    assert list(data.cells["kind"]) == ["baseline", "pretrain", "train"]
    assert len(data.steps) == 10 + 4
    assert len(data.evaluations) == (6 + 8) + 2 * 6 + (2 * 6 + 2 * 8)
    assert len(data.probes) == 1
    assert set(data.searches["candidate"]) == {0.01, 0.02, 0.04, 0.08}
    assert data.missing.empty


def test_step_before_a_resume_is_counted_once_and_attempts_are_told_apart(runs: Runs) -> None:
    make(runs, *SMALL)
    cell_id = trained(runs)
    cell, folder = runs.cell(cell_id).cell(), runs.cell(cell_id)
    whole = events(cell, default(cell), 10)
    (folder.path / "attempts/0/record.jsonl").unlink()
    (folder.path / "attempts/0").rmdir()
    checkpoint = next(event for event in whole if event.event == "checkpoint")
    steps = [event for event in whole if event.event == "step"]
    first = [whole[0], *steps[:6], checkpoint.model_copy(update={"step": 6}), *steps[6:8]]
    append(folder, first)
    append(folder, [whole[0].model_copy(update={"resumed_from": 6}), *steps[6:], whole[-1]])
    found = load(runs, "demo").steps.query("cell_id == @cell_id")
    assert list(found["step"]) == list(range(1, 11))
    assert list(found["attempt"]) == [0] * 6 + [1] * 4
    assert list(found["attempt_step"]) == [*range(1, 7), *range(1, 5)]


def test_infinities_come_back(runs: Runs) -> None:
    def worst(cell: Cell, fake: Fake) -> None:
        fake.residual, fake.legacy_psnr = math.inf, -math.inf

    found = load(make(runs, *SMALL, change=worst), "demo").evaluations
    assert (found["residual"] == math.inf).all()
    assert (found["legacy_psnr"] == -math.inf).all()


@pytest.mark.parametrize(
    ("state", "message", "problem"),
    [
        ("planned", "", "not started"),
        ("failed", "rank 1: out of memory", "rank 1: out of memory"),
        ("running", "", "interrupted at step 10 of 10"),
    ],
)
def test_missing_cell_says_why(runs: Runs, state: str, message: str, problem: str) -> None:
    def fail(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            fake.state, fake.message = state, message

    data = load(make(runs, *SMALL, change=fail), "demo")
    assert list(data.missing["problem"]) == [problem]
    assert len(data.finished) == 2


@pytest.mark.parametrize("damage", ["cell.json", "attempts/0/record.jsonl"])
def test_damaged_cell_is_a_missing_cell(runs: Runs, damage: str) -> None:
    make(runs, *SMALL)
    (runs.cell(trained(runs)).path / damage).write_text('{"event": "bang"}\n')
    data = load(runs, "demo")
    assert list(data.missing["cell_id"]) == [trained_id(data.cells["cell_id"])]
    assert data.missing["problem"].iloc[0].startswith("cannot be read: ")


def trained_id(cell_ids: "list[str]") -> str:
    return next(cell_id for cell_id in cell_ids if cell_id.startswith("de-hqs"))


def test_unknown_grid_names_the_known_ones(runs: Runs) -> None:
    make(runs, *SMALL)
    with pytest.raises(ConfigError, match="found: demo"):
        load(runs, "other")
