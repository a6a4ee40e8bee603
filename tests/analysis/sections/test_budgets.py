"""Conditions of a comparison, from records of known values to the rendered cell."""

import pytest

from analysis.reading.load import load
from analysis.sections.budgets import budget_frame, budget_table
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

GRID = ("model=de-hqs", "steps=100", "pretraining.steps=1", "global_batch_size=12", "pool=null")


def rendered(runs: Runs, **changes: object) -> dict[str, dict[str, str]]:
    """Method to the texts of its row, by column."""

    def change(cell: Cell, fake: Fake) -> None:
        for name, value in changes.items() if isinstance(cell, TrainCell) else ():
            setattr(fake, name, value)

    table = budget_table(load(make(runs, *GRID, change=change), "demo"))
    return {
        row[0].text: {c.key: place.text for c, place in zip(table.columns, row, strict=True)} for row in table.rows()
    }


def test_conditions_are_shown_in_their_units(runs: Runs) -> None:
    rows = rendered(runs, cut=0.02)
    # Each of 100 steps: 12 pictures, 20 evaluations without a graph and one with it; implicit takes 18 products more.
    assert rows["de-hqs jfb"]["evaluations"] == rows["de-hqs implicit"]["evaluations"] == "25,200"
    assert rows["de-hqs jfb"]["products"] == "0"
    assert rows["de-hqs implicit"]["products"] == "21,600"
    assert (rows["de-hqs jfb"]["distinct_pictures"], rows["de-hqs jfb"]["noise_draws"]) == ("40", "48")
    assert rows["de-hqs implicit"]["cut_adjoint"] == "2.0%"
    assert rows["de-hqs jfb"]["cut_adjoint"] == "\N{EN DASH}"


def test_at_equal_work_the_dearer_method_has_come_less_far(runs: Runs) -> None:
    data = load(make(runs, *GRID), "demo")
    frame = budget_frame(data).set_index("label")
    jfb, implicit = frame.loc["de-hqs jfb"], frame.loc["de-hqs implicit"]
    final = {"jfb": 34.6, "implicit": 34.9}
    assert jfb["at_equal_step"] == jfb["at_equal_evaluations"] == pytest.approx(final["jfb"])
    assert implicit["at_equal_step"] == pytest.approx(final["implicit"])
    # JFB ends after 25,200 evaluations; implicit, at 39 instead of 21 per picture and step, was then at step 53.8,
    # between its evaluations at steps 50 and 100.
    halfway = 32.0 + (final["implicit"] - 32.0) / 2
    reached = halfway + (final["implicit"] - halfway) * (100 * 21 / 39 - 50) / 50
    assert implicit["at_equal_evaluations"] == pytest.approx(reached, abs=1e-6)
    assert implicit["at_equal_seconds"] < implicit["at_equal_step"]
