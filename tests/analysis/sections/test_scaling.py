"""Scaling studies: which cells belong to one, and what is computed from them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.reading.load import load
from analysis.reading.rows import PHASES
from analysis.sections.scaling import scaling_frame, scaling_table, speedup_against_ranks
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


def test_planted_phases_give_known_efficiency_and_imbalance(runs: Runs) -> None:
    """One rank computes for 400 ms; each of two computes for 200, waits for 30 on average and communicates for 20."""
    data = load(make(runs, *SMALL, "world_size=1,2"), "demo")
    two = data.steps["cell_id"].map(data.cells["world_size"]) == 2
    steady = 1 + 0.1 * np.sin(data.steps["step"].astype(float))
    for phase in PHASES:
        data.steps[f"seconds_{phase}"] = 0.0
    data.steps["seconds_forward_solve"] = steady * np.where(two, 0.2, 0.4)
    data.steps["seconds_waiting"] = steady * np.where(two, 0.03, 0.0)
    data.steps["seconds_gradient_synchronization"] = steady * np.where(two, 0.02, 0.0)
    data.steps["seconds_total"] = steady * np.where(two, 0.25, 0.4)
    one_rank, two_ranks = scaling_frame(data).to_dict("records")
    assert one_rank["speedup"] == one_rank["parallel_efficiency"] == one_rank["imbalance"] == 1
    assert two_ranks["speedup"] == pytest.approx(1.6)
    assert two_ranks["parallel_efficiency"] == pytest.approx(0.8)
    assert two_ranks["imbalance"] == pytest.approx(1.15)
    for part, seconds in (("compute", 0.2), ("waiting", 0.03), ("exposed_communication", 0.02)):
        assert two_ranks[part] == pytest.approx(seconds, rel=0.05)
        assert two_ranks[f"{part}_low"] < seconds < two_ranks[f"{part}_high"]
    assert two_ranks["throughput_low"] < 12 / 0.25 < two_ranks["throughput_high"]
    assert two_ranks["other"] == one_rank["waiting"] == 0


def test_ranks_that_share_processors_have_counts_but_no_times(runs: Runs) -> None:
    def crowded(cell: Cell, fake: Fake) -> None:
        fake.environment = {**fake.environment, "processors": 2, "ranks_on_host": cell.world_size}

    data = load(make(runs, *SMALL, "world_size=1,2,4", change=crowded), "demo")
    found = scaling_frame(data).set_index("world_size")
    assert list(found["speedup"].isna()) == [False, False, True]
    assert found.loc[4, ["throughput", "compute", "imbalance"]].isna().all()
    assert found["nfe_imbalance"].notna().all()
    assert any("more ranks than their machine has processors" in note for note in scaling_table(data).notes)
    assert speedup_against_ranks(scaling_frame(data)) is not None
