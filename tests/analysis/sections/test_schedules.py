"""The table of learning-rate schedules."""

import pytest

from analysis.reading.load import load
from analysis.rendering import tables
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.schedules import schedule_frame, schedule_table
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

GAINS = {"fixed": 0.0, "step": 0.5, "cosine": 0.2}
GRID = ("model=de-hqs,de-grad", "backprop=jfb,neumann", "seed=0,1", "steps=10")


def by_schedule(cell: Cell, fake: Fake) -> None:
    if isinstance(cell, TrainCell):
        fake.psnr += GAINS[cell.schedule.name]


def test_a_model_and_its_backprop_method_have_one_row_and_each_schedule_a_column(runs: Runs) -> None:
    data = load(make(runs, *GRID, "schedule=fixed,step,cosine", change=by_schedule), "demo")
    frame = schedule_frame(data).set_index("label")
    assert list(frame.index) == ["de-hqs jfb", "de-hqs neumann", "de-grad jfb", "de-grad neumann"]
    row = frame.loc["de-grad jfb"]
    for name, gain in GAINS.items():
        assert row[f"{name}_psnr"] - row["fixed_psnr"] == pytest.approx(gain, abs=0.02)
        assert row[f"{name}_std"] == pytest.approx(0.1 / 2**0.5, abs=0.02)
    assert row["spread"] == pytest.approx(0.5, abs=0.02)
    assert row["seed_count"] == 2
    text = tables.to_markdown(schedule_table(data))
    assert "| Method | fixed: PSNR, dB | step: PSNR, dB | cosine: PSNR, dB | Best less worst, dB | Seeds |" in text


def test_one_schedule_is_no_comparison(runs: Runs) -> None:
    data = load(make(runs, *GRID), "demo")
    assert schedule_frame(data).empty


@pytest.mark.parametrize("first", ["fixed, {name: step, factor: 0.5}", "{name: step, factor: 0.5}, fixed"])
def test_of_two_versions_of_a_schedule_the_better_one_on_validation_pictures_counts(runs: Runs, first: str) -> None:
    def better_on_test(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell) and cell.schedule.parameters().get("factor") == 0.5:
            fake.psnr += 1

    versions = f"schedule=[{first}, {{name: step, factor: 0.1}}]"
    data = load(make(runs, "model=de-hqs", "backprop=jfb", "steps=10", versions, change=better_on_test), "demo")
    accuracy = accuracy_frame(data)
    accuracy["validation_psnr"] = -accuracy["psnr"]
    (row,) = schedule_frame(data).to_dict("records")
    steps = accuracy[accuracy["schedule"] == "step"]
    assert row["step_psnr"] == steps["psnr"].min() < steps["psnr"].max()
    assert row["label"] == "de-hqs jfb"
