import math
from typing import Any

import pandas as pd
import pytest

from analysis.reading.load import load
from analysis.sections.cost import cost_frame, timed_steps
from harness.config.cells import Cell, TrainCell
from harness.records.events import FIRST_STEPS
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, append, default, events, make

SMALL = ("steps=40", "pretraining.steps=4")


def frame(runs: Runs, *overrides: str, **how: Any) -> pd.DataFrame:
    return cost_frame(load(make(runs, *SMALL, *overrides, **how), "demo")).set_index("label")


def test_warm_up_steps_do_not_count(runs: Runs) -> None:
    """The first three steps are five times slower."""
    row = frame(runs, "model=de-hqs", "backprop=jfb").loc["de-hqs jfb"]
    assert row["timed_steps"] == 40 - FIRST_STEPS
    assert row["seconds_forward_solve_max"] < 0.12
    assert row["seconds_total_median"] <= row["seconds_total_p90"] <= row["seconds_total_max"]


def test_steps_of_the_warm_up_by_jfb_do_not_count(runs: Runs) -> None:
    row = frame(runs, "model=de-hqs", "backprop=jfb", "warm_up=25").loc["de-hqs jfb"]
    assert row["timed_steps"] == 40 - 25


def test_every_attempt_warms_up(runs: Runs) -> None:
    make(runs, *SMALL, "model=de-hqs", "backprop=jfb")
    folder = next(folder for folder in runs.cells_of("demo") if folder.cell().kind == "train")
    cell = folder.cell()
    whole = events(cell, default(cell), 80)
    resumed = whole[0].model_copy(update={"resumed_from": 40})
    rest = [event for event in whole if event.event == "end" or (event.event == "step" and event.step > 40)]
    append(folder, [resumed, *rest])
    data = load(runs, "demo")
    timed = timed_steps(data, data.cells)
    expected = [*range(FIRST_STEPS + 1, 41), *range(41 + FIRST_STEPS, 81)]
    assert list(timed[timed["cell_id"] == folder.cell_id]["step"]) == expected


def test_short_training_still_has_a_time(runs: Runs) -> None:
    row = frame(runs, "model=de-hqs", "backprop=jfb", "steps=1").loc["de-hqs jfb"]
    assert row["timed_steps"] == 1
    assert row["seconds_total_median"] > 0


def test_phases_add_up_and_jfb_has_no_adjoint_solve(runs: Runs) -> None:
    found = frame(runs, "model=de-hqs", "global_batch_size=4", "pool.size=8")
    assert found.loc["de-hqs jfb", "seconds_adjoint_solve_max"] == 0
    assert found.loc["de-hqs implicit", "seconds_adjoint_solve_median"] == pytest.approx(0.12)
    assert found.loc["de-hqs implicit", "adjoint_nfe"] == 18
    small = 0.002 + 0.06 + 0.003
    jfb = found.loc["de-hqs jfb"]
    assert jfb["seconds_total_median"] == pytest.approx(jfb["seconds_forward_solve_median"] + small)


def test_a_full_solve_now_and_then_counts_in_throughput_and_ratio_but_not_in_the_median(runs: Runs) -> None:
    """As with a pool: of four steps of jfb three take 0.1 s and one takes 0.5 s, those of implicit all take 0.4 s."""
    data = load(make(runs, *SMALL, "model=de-hqs", "global_batch_size=4", "pool.size=8"), "demo")
    jfb = data.steps["cell_id"].str.contains("jfb")
    data.steps["seconds_total"] = 0.4
    data.steps.loc[jfb, "seconds_total"] = 0.1
    data.steps.loc[jfb & (data.steps["step"] % 4 == 0), "seconds_total"] = 0.5
    found = cost_frame(data).set_index("label")
    timed = data.steps[jfb & (data.steps["step"] > FIRST_STEPS)]["seconds_total"]
    row = found.loc["de-hqs jfb"]
    assert row["seconds_total_median"] == 0.1
    assert row["seconds_total_mean"] == pytest.approx(timed.mean())
    assert row["throughput"] == pytest.approx(4 * len(timed) / timed.sum())
    assert found.loc["de-hqs implicit", "ratio"] == pytest.approx(0.4 / timed.mean())


def test_ratio_is_to_jfb_of_the_same_model(runs: Runs) -> None:
    def slow(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell) and cell.model.name == "de-grad":
            fake.seconds *= 10

    found = frame(runs, "model=de-hqs,de-grad", change=slow)
    for model in ("de-hqs", "de-grad"):
        times = found["seconds_total_mean"]
        assert found.loc[f"{model} jfb", "ratio"] == 1
        assert found.loc[f"{model} implicit", "ratio"] == pytest.approx(
            times[f"{model} implicit"] / times[f"{model} jfb"]
        )


def test_no_ratio_without_jfb(runs: Runs) -> None:
    assert math.isnan(frame(runs, "model=de-hqs", "backprop=implicit").loc["de-hqs implicit", "ratio"])


def test_probe_is_averaged_over_seeds(runs: Runs) -> None:
    def seeded(cell: Cell, fake: Fake) -> None:
        fake.seconds = 0.1 if cell.seed == 0 else 0.2

    row = frame(runs, "model=de-hqs", "backprop=jfb", "seed=0,1", change=seeded).loc["de-hqs jfb"]
    assert row["gradient_seconds"] == pytest.approx(0.15)
    assert row["flops"] == pytest.approx(1.5e10)
