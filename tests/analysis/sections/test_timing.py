"""The step over jfb from timing cells, and what the report says without one."""

import math

import pytest

from analysis.reading.load import GridData, load
from analysis.report import build, to_html
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.cost import cost_frame
from analysis.sections.findings import findings
from analysis.sections.timing import timing_frame, timing_table
from harness.config.cells import Cell, TimingCell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("model=de-grad,de-hqs", "steps=12", "pretraining.steps=1")
TAKING_TURNS = (0.25 * 1.05 + 0.065 + 0.12) / (0.1 * 1.05 + 0.065)
"""Mean step of `implicit` over that of `jfb` in the synthetic rounds."""


def slow_training(cell: Cell, fake: Fake) -> None:
    """The machine was busy while `implicit` trained."""
    if isinstance(cell, TrainCell) and cell.backprop.name == "implicit":
        fake.seconds *= 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> GridData:
    """A grid with timing cells."""
    runs = make(Runs(tmp_path_factory.mktemp("runs")), *SMALL, "timing.steps=30", change=slow_training)
    return load(runs, "demo")


def test_each_method_has_a_row_with_its_ratio_and_interval(data: GridData) -> None:
    frame = timing_frame(data).set_index("label")
    assert list(frame.index) == ["de-grad jfb", "de-grad implicit", "de-hqs jfb", "de-hqs implicit"]
    assert (frame["rounds"] == 30).all()
    assert (frame["world_size"] == 2).all()
    row = frame.loc["de-hqs implicit"]
    assert row["ratio"] == pytest.approx(TAKING_TURNS, rel=0.03)
    assert 1 < row["ratio_low"] < row["ratio"] < row["ratio_high"] < 4
    assert (row["nfe"], row["adjoint_nfe"]) == (20, 18)
    same = frame.loc["de-hqs jfb"]
    assert (same["ratio"], same["ratio_low"], same["ratio_high"]) == (1, 1, 1)
    shown = [[cell.text for cell in cells] for cells in timing_table(data).rows()]
    assert shown[3][3].startswith(f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, ")


def test_the_table_of_costs_and_the_summary_take_the_ratio_from_the_timing_cell(data: GridData) -> None:
    """The times of the trainings themselves would say 9 or more."""
    frame, timed = cost_frame(data).set_index("label"), timing_frame(data).set_index("label")
    for label in timed.index:
        for column in ("ratio", "ratio_low", "ratio_high"):
            assert frame.loc[label, column] == timed.loc[label, column]
    row = timed.loc["de-hqs implicit"]
    expected = f"at {row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}] times the mean step time"
    details = " ".join(finding.detail for finding in findings(data))
    assert expected in details
    assert "not interleaved" not in details


def test_without_a_finished_timing_cell_the_ratio_is_called_not_interleaved(runs: Runs) -> None:
    def unfinished(cell: Cell, fake: Fake) -> None:
        fake.state = "interrupted" if isinstance(cell, TimingCell) else fake.state

    data = load(make(runs, *SMALL, "timing.steps=30", change=unfinished), "demo")
    assert timing_frame(data).empty
    row = cost_frame(data).set_index("label").loc["de-hqs implicit"]
    assert row["ratio"] > 1
    assert math.isnan(row["ratio_low"])
    details = " ".join(finding.detail for finding in findings(data))
    assert f"at {row['ratio']:.2f} times the mean step time (not interleaved)" in details


def test_a_timing_cell_is_neither_scored_nor_trained(data: GridData) -> None:
    assert not accuracy_frame(data)["label"].str.contains("timing").any()
    assert set(data.trained["kind"]) == {"train"}
    caption = timing_table(data).caption
    assert "timed: 30 steps, global batch 12, seed 0, world size 2" in caption
    assert "test pictures" not in caption


def test_the_report_shows_the_table_and_every_timing_cell(data: GridData) -> None:
    page = to_html(build(data))
    assert "methods taking turns" in page
    assert "timing_de-hqs_s0-" in page


def test_cut_solves_are_named_here_too(runs: Runs) -> None:
    def cut(cell: Cell, fake: Fake) -> None:
        fake.cut = 0.5 if isinstance(cell, TimingCell) else 0.0

    data = load(make(runs, "model=de-hqs", *SMALL[1:], "timing.steps=4", change=cut), "demo")
    assert list(timing_frame(data)["label"]) == ["de-hqs jfb", "de-hqs implicit, cut"]
