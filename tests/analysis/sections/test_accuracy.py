import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.reading.load import load
from analysis.sections import comparisons
from analysis.sections.accuracy import accuracy_frame, accuracy_table
from harness.config.cells import BaselineCell, Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("steps=10", "pretraining.steps=4")


def frame(runs: Runs, *overrides: str, **how: Any) -> pd.DataFrame:
    return accuracy_frame(load(make(runs, *SMALL, *overrides, **how), "demo")).set_index("label")


def test_baselines_come_first_then_trained_methods_in_the_grids_order(runs: Runs) -> None:
    found = frame(runs, "model=de-prox,de-grad", "baselines=total-variation,tikhonov")
    trained = ["de-prox jfb", "de-prox implicit", "de-grad jfb", "de-grad implicit"]
    assert list(found.index) == ["total-variation", "tikhonov", *trained]


def test_seeds_are_one_row_with_mean_and_spread(runs: Runs) -> None:
    found = frame(runs, "model=de-hqs", "backprop=jfb", "seed=0,1,2")
    row = found.loc["de-hqs jfb"]
    assert row["psnr"] == pytest.approx((34.6 + 34.7 + 34.8) / 3)
    assert row["psnr_seed_std"] == pytest.approx(0.1)
    assert row["seed_count"] == 3
    assert row["pictures"] == 8
    assert math.isnan(found.loc["tikhonov", "psnr_seed_std"])


def test_differences_are_paired_by_seed_and_picture(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures differ by 6 dB among themselves; an unpaired interval would be wider than a decibel."""
    monkeypatch.setattr(comparisons, "ONE_PHOTOGRAPH", set())
    row = frame(runs, "model=de-hqs", "seed=0,1,2").loc["de-hqs jfb"]
    assert row["over_tikhonov"] == pytest.approx(34.7 - 28.9)
    assert row["over_tv"] == pytest.approx(34.7 - 34.0)
    assert row["gain"] == pytest.approx(34.7 - 32.0)
    # Three seeds, .1 dB apart: the t interval of their means, widened a little by the pictures.
    half = 4.303 * 0.1 / 3**0.5
    assert half < row["over_tv_high"] - row["over_tv"] < 1.2 * half
    assert row["over_tv_verdict"] == "better"


def test_one_seed_or_one_photograph_decides_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = frame(runs, "model=de-hqs", "seed=0,1,2").loc["de-hqs implicit"]
    monkeypatch.setattr(comparisons, "ONE_PHOTOGRAPH", set())
    single = frame(Runs(tmp_path / "single"), "model=de-hqs").loc["de-hqs implicit"]
    for row in (patches, single):
        assert row["over_jfb"] == pytest.approx(0.3)
        assert row["over_jfb_verdict"] == "undecided"
        assert (row["over_jfb_low"], row["over_jfb_high"]) == (-math.inf, math.inf)


def test_an_undecided_comparison_says_how_many_seeds_it_needs(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against jfb, three seeds of implicit gain -.1, .3 and .2 dB; those of neumann gain 1 dB alike."""
    monkeypatch.setattr(comparisons, "ONE_PHOTOGRAPH", set())
    gains = {"implicit": [-0.1, 0.3, 0.2], "neumann": [1.0, 1.0, 1.0]}

    def change(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            fake.psnr = 34.0 + gains.get(cell.backprop.name, [0.0] * 3)[cell.seed]

    data = load(
        make(runs, *SMALL, "model=de-hqs", "backprop=jfb,implicit,neumann", "seed=0,1,2", change=change), "demo"
    )
    table = accuracy_table(data)
    column = next(column for column in table.columns if column.label == "Seeds needed for ±0.1 dB")
    shown = {row["label"]: place.text for row, place in zip(table.records, table.column(column), strict=True)}
    # Seeds spread by .208 dB, and eight pictures allow 7 degrees of freedom: 2.365 x .208 / sqrt(n) is .1 at 24.3. What
    # is left of the pictures' own noise takes a few more.
    assert 25 <= int(shown["de-hqs implicit"]) <= 30
    assert shown["de-hqs neumann"] == shown["de-hqs jfb"] == "\N{EN DASH}"


def test_a_method_whose_adjoint_solves_were_cut_is_called_so(runs: Runs) -> None:
    def cut(cell: Cell, fake: Fake) -> None:
        fake.cut = 0.2 if isinstance(cell, TrainCell) and cell.model.name == "de-hqs" else 0.01

    labels = frame(runs, "model=de-hqs,de-grad", change=cut).index
    assert {"de-hqs implicit, cut", "de-grad implicit"} <= set(labels)
    assert "de-hqs implicit" not in labels


def test_over_jfb_compares_with_the_same_model_and_settings(runs: Runs) -> None:
    found = frame(runs, "model=de-hqs,de-grad", "steps=10,12")
    assert found["over_jfb"].dropna().round(6).to_dict() == {
        f"{model} implicit steps={steps}": 0.3 for model in ("de-hqs", "de-grad") for steps in (10, 12)
    }


def test_baseline_of_other_physics_is_no_reference(runs: Runs) -> None:
    """Baselines share the base's physics; an axis over the physics leaves some trained cells without a reference."""
    found = frame(runs, "model=de-hqs", "backprop=jfb", "physics.kernel_std=2.236,1.0")
    assert found.loc["de-hqs jfb kernel_std=2.236", "over_tv"] == pytest.approx(0.6)
    assert math.isnan(found.loc["de-hqs jfb kernel_std=1.0", "over_tv"])


def test_diverged_and_unconverged_pictures_are_counted_over_seeds(runs: Runs) -> None:
    def diverge(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            fake.diverged, fake.residual = [30, 31], 3e-4

    row = frame(runs, "model=de-hqs", "backprop=jfb", "seed=0,1", change=diverge).loc["de-hqs jfb"]
    assert row["diverged"] == 4
    assert row["unconverged"] == 16


def test_unrolled_has_no_tolerance_to_miss(runs: Runs) -> None:
    found = frame(runs, "model=de-hqs", "backprop=unrolled")
    assert math.isnan(found.loc["du-hqs unrolled", "unconverged"])


def test_a_feed_forward_network_has_no_residual_of_a_fixed_point(runs: Runs) -> None:
    made = make(runs, *SMALL, "model=feed-forward,de-hqs", "backprop={name: unrolled, steps: 1}", "warm_up=0")
    data = load(made, "demo")
    feed_forward, unrolled = (
        accuracy_frame(data).set_index("model").loc[model] for model in ("feed-forward", "de-hqs")
    )
    for name in ("residual_median", "residual_max"):
        assert math.isnan(feed_forward[name])
        assert unrolled[name] == 5e-5


def test_tuned_baseline_shows_its_parameter_and_whether_the_search_is_interior(runs: Runs) -> None:
    def edge(cell: Cell, fake: Fake) -> None:
        fake.interior = not (isinstance(cell, BaselineCell) and cell.baseline.name == "tikhonov")

    tuned = frame(runs, "model=de-hqs", change=edge)["tuned"]
    assert tuned["tikhonov"] == "weight 0.08, at the edge"
    assert tuned["total-variation"] == "weight 0.02, interior"
    assert tuned["degraded"] == ""


def test_unfinished_cells_are_not_scored(runs: Runs) -> None:
    def fail(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell) and (cell.backprop.name == "implicit" or cell.seed == 1):
            fake.state = "failed"

    found = frame(runs, "model=de-hqs", "seed=0,1", change=fail)
    assert "de-hqs implicit" not in found.index
    assert found.loc["de-hqs jfb", "seed_count"] == 1


def test_caption_names_the_conditions(runs: Runs) -> None:
    data = load(make(runs, *SMALL, "model=de-hqs", "seed=0,1"), "demo")
    table = accuracy_table(data)
    for part in ("pictures, 64 px, 8 test pictures", "kernel size 5", "kernel std 2.236", "noise std 0.01",
                 "value range [0.0, 1.0]", "boundary zero", "device: cpu", "10 steps", "seed 0, 1", "world size 2",
                 f"commit: {'a' * 12}"):  # fmt: skip
        assert part in table.caption
    assert table.command == "python -m launch grid demo pretraining.steps=4 steps=10 warm_up=0 model=de-hqs seed=0,1"


def test_caption_names_each_protocol_with_its_physics(runs: Runs) -> None:
    data = load(make(runs, *SMALL, "model=de-hqs", "physics=paper,code2024"), "demo")
    caption = accuracy_table(data).caption
    assert "protocol: gaussian-blur (" in caption, "the baselines', which share the base"
    assert "paper (boundary zero, kernel size 5, kernel std 2.236, noise std 0.01, value range [0.0, 1.0])" in caption
    assert "code2024 (boundary zero, kernel size 5, kernel std 1, noise std 0.01, value range [-1.0, 1.0])" in caption
