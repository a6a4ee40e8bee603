"""Scaling studies: which cells belong to one, and what is computed from them."""

from typing import Any

import pandas as pd
import pytest

from analysis.reading.load import load
from analysis.sections.scaling import scaling_frame, scaling_table
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("steps=40", "pretraining.steps=4", "model=de-hqs", "backprop=jfb", "pool=null")


def frame(runs: Runs, *overrides: str, **how: Any) -> pd.DataFrame:
    return scaling_frame(load(make(runs, *SMALL, *overrides, **how), "demo"))


def halved(cell: Cell, fake: Fake) -> None:
    """A solve that two ranks do in half the time; the other phases, 65 ms, stay."""
    if isinstance(cell, TrainCell):
        fake.seconds = 0.4 / cell.world_size


def test_strong_scaling_keeps_the_global_batch(runs: Runs) -> None:
    found = frame(runs, "world_size=1,2,4", change=halved)
    assert list(found["mode"]) == ["strong"] * 3
    assert list(found["world_size"]) == [1, 2, 4]
    assert list(found["speedup"]) == pytest.approx([1, 465 / 265, 465 / 165], rel=0.05)
    for row in found.itertuples():
        assert row.parallel_efficiency == pytest.approx(row.speedup / row.world_size)
    assert found["exposed_communication"].notna().all()


def test_weak_scaling_keeps_the_batch_of_a_rank(runs: Runs) -> None:
    found = frame(runs, "world_size=1,2", "global_batch_size=8,16")
    weak = found[found["mode"] == "weak"]
    assert list(zip(weak["world_size"], weak["global_batch_size"], strict=True)) == [(1, 8), (2, 16)]
    assert weak["speedup"].iloc[1] == pytest.approx(2.0, rel=0.1)
    assert weak["parallel_efficiency"].iloc[1] == pytest.approx(1.0, rel=0.1)


def test_steps_that_solve_in_full_count_in_the_speedup(runs: Runs) -> None:
    """Cheap steps take half the time on two ranks; every fourth does not, and takes 1 s on one rank as on two."""
    data = load(make(runs, *SMALL, "world_size=1,2"), "demo")
    cheap = 0.4 / data.steps["cell_id"].map(data.cells["world_size"]).astype(float)
    data.steps["seconds_total"] = cheap.where(data.steps["step"] % 4 != 0, 1.0)
    found = scaling_frame(data)
    timed = data.steps[data.steps["step"] > 5].groupby("cell_id")["seconds_total"].mean()
    one, two = sorted(timed[timed.index.str.startswith("de-hqs")], reverse=True)
    assert list(found["throughput"]) == pytest.approx([12 / one, 12 / two])
    assert found["speedup"].iloc[1] == pytest.approx(one / two)
    assert found["parallel_efficiency"].iloc[1] == pytest.approx(one / two / 2)


def test_studies_that_differ_otherwise_have_rows_and_lines_of_their_own(runs: Runs) -> None:
    found = frame(runs, "world_size=1,2", "schedule=cosine,fixed")
    assert list(found["label"]) == ["de-hqs jfb cosine"] * 2 + ["de-hqs jfb fixed"] * 2
    assert found["study"].nunique() == 2


def test_one_number_of_ranks_is_no_study(runs: Runs) -> None:
    data = load(make(runs, *SMALL), "demo")
    assert scaling_frame(data).empty
    assert scaling_table(data).frame.empty
