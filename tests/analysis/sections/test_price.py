"""What a grid was expected to cost, against what it used."""

import math

import pytest

from analysis.reading.load import load
from analysis.sections.price import price_frame, price_table
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import SECONDS, Fake, make

SMALL = ("model=de-hqs", "steps=10", "pretraining.steps=4", "baselines=tikhonov", "world_size=2", "seed=0,1")


def estimate(runs: Runs, **seconds: float) -> None:
    """Note the same estimate for every cell whose id starts with a name."""
    found = {
        folder.cell_id: value
        for folder in runs.cells_of("demo")
        for name, value in seconds.items()
        if folder.cell_id.startswith(name.replace("_", "-", 1))
    }
    runs.write_estimates("demo", found)


def test_rank_hours_of_a_method_are_compared_over_its_finished_cells(runs: Runs) -> None:
    def one_fails(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell) and cell.backprop.name == "implicit" and cell.seed == 1:
            fake.state = "failed"

    make(runs, *SMALL, change=one_fails)
    estimate(runs, de_hqs_jfb=SECONDS / 2, de_hqs_implicit=SECONDS)
    frame = price_frame(load(runs, "demo")).set_index("label")
    rank_hours = 2 * SECONDS / 3600
    jfb, implicit, total = (frame.loc[name] for name in ("de-hqs jfb", "de-hqs implicit", "all"))
    assert jfb["cells"] == 2
    assert jfb["estimated"] == pytest.approx(rank_hours)
    assert jfb["used"] == pytest.approx(2 * rank_hours)
    assert jfb["ratio"] == pytest.approx(2)
    assert (implicit["cells"], implicit["ratio"]) == (1, pytest.approx(1))
    assert (total["cells"], total["ratio"]) == (3, pytest.approx(1.5))


def test_cells_without_estimate_are_counted_apart_and_named(runs: Runs) -> None:
    make(runs, *SMALL)
    estimate(runs, de_hqs=SECONDS)
    data = load(runs, "demo")
    frame = price_frame(data).set_index("label")
    baseline = frame.loc["tikhonov"]
    assert (baseline["cells"], baseline["unestimated_cells"]) == (0, 1)
    assert math.isnan(baseline["ratio"])
    assert baseline["unestimated_used"] == pytest.approx(SECONDS / 3600)
    assert frame.loc["all", "unestimated_cells"] == 3
    shown = price_table(data)
    assert all(cell_id in shown.notes[-1] for cell_id in data.cells["cell_id"] if not cell_id.startswith("de-"))
    assert "de-hqs" not in shown.notes[-1]


def test_a_grid_launched_without_any_estimate_has_no_such_table(runs: Runs) -> None:
    assert price_frame(load(make(runs, *SMALL), "demo")).empty


def test_the_first_estimate_of_a_cell_stays(runs: Runs) -> None:
    runs.write_estimates("demo", {"a": 1.0})
    runs.write_estimates("demo", {"a": 2.0, "b": 3.0})
    assert runs.estimates("demo") == {"a": 1.0, "b": 3.0}
