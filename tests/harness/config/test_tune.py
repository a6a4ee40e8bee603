"""What a tuned cell is: its trials, and its cell_id, which the chosen values do not change."""

from typing import Any

import pytest

from harness.config.cells import PretrainCell, TrainCell, in_order, parse_cell
from harness.config.errors import ConfigError
from harness.config.tune import Tune
from tests.conftest import tiny_cell

AXES = {"optimizer.lr": [1e-3, 1e-4], "gradient_clip": [1e-3, 1e-4, 1e-5]}


def tuned_cell(tune: dict[str, Any] | None = None, **fields: Any) -> TrainCell:
    cell = tiny_cell(tune={"axes": AXES} | (tune or {}), **fields)
    assert isinstance(cell, TrainCell)
    return cell


def test_every_combination_is_tried_with_every_tuning_seed() -> None:
    cell = tuned_cell({"seeds": [7, 8]})
    tried = [(trial.optimizer.lr, trial.gradient_clip, trial.seed) for trial in cell.trials]
    assert tried == [(lr, clip, seed) for lr in (1e-4, 1e-3) for clip in (1e-5, 1e-4, 1e-3) for seed in (7, 8)]
    assert all(trial.tune is None and trial.data.test_images == 0 for trial in cell.trials)


def test_a_number_of_trials_is_the_same_combinations_for_every_method() -> None:
    methods = [tuned_cell({"trials": 4}, backprop=backprop) for backprop in ("jfb", "implicit")]
    tried = [[(trial.optimizer.lr, trial.gradient_clip) for trial in cell.trials] for cell in methods]
    assert len(set(tried[0])) == 4
    assert tried[0] == tried[1]


def test_the_chosen_values_do_not_change_the_cell_id_but_what_is_tried_does() -> None:
    cell = tuned_cell()
    chosen = cell.with_tuned({"optimizer.lr": 3e-4, "gradient_clip": 1e-5})
    assert (chosen.optimizer.lr, chosen.gradient_clip) == (3e-4, 1e-5)
    assert chosen.cell_id == cell.cell_id == parse_cell(cell.to_json()).cell_id
    assert tuned_cell({"seeds": [5]}).cell_id != cell.cell_id != tiny_cell().cell_id
    assert "_tuned_" in cell.cell_id


def test_a_cell_comes_after_its_denoiser_and_its_trials_and_these_after_their_denoiser() -> None:
    cell = tuned_cell()
    ids = [one.cell_id for one in in_order(cell)]
    assert ids[-1] == cell.cell_id
    for trial in cell.trials:
        assert trial.needs is not None
        assert ids.index(trial.needs.cell_id) < ids.index(trial.cell_id) < len(ids) - 1
    assert {one.seed for one in in_order(cell) if isinstance(one, PretrainCell)} == {0, 1000}


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"axes": {"optimizer.lr": [1e-3]}}, "2 trials are needed, but there are only 1 combinations"),
        ({"axes": {"optimizer.lr": [1e-3, 1e-4]}, "trials": 3}, "3 trials are needed, but there are only 2"),
        ({"axes": {"optimizer.lr": [1e-3, 1e-3]}}, "optimizer.lr lists a value twice"),
        (
            {"axes": {f"optimizer.{k}": list(range(1, 999)) for k in "abcdefgh"}, "trials": 2},
            "combinations are too many",
        ),
        ({"axes": {"seed": [1, 2]}}, "seed is part of what is compared and cannot be tuned"),
        ({"axes": {"backprop.name": [1, 2]}}, "backprop.name is part of what is compared"),
        ({"axes": {"optimizer.lr": ["fast", "slow"]}}, "fast"),
        ({"axes": AXES, "seeds": []}, "seeds"),
        ({"axes": AXES, "seeds": [3, 3]}, "a seed is listed twice"),
        ({"axes": AXES, "seeds": [0]}, "tune.seeds: 0 is also a seed of the grid"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(tune: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny_cell(tune=tune)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"optimizer.rate": [1e-3, 1e-4]}, "tune.axes: optimizer: no field 'rate'"),
        ({"backprop.solver.tol": [1e-1, 1e-2]}, "tune.axes: backprop: no field 'solver'"),
        ({"optimizer.lr": [-1e-3, 1e-3]}, "tune.axes: optimizer.lr"),
    ],
)
def test_an_axis_that_a_method_does_not_have_is_refused_in_one_line(axes: dict[str, Any], message: str) -> None:
    cell = tuned_cell({"axes": axes})
    with pytest.raises(ConfigError) as refused:
        _ = cell.trials
    assert str(refused.value).startswith(message)


def test_whole_numbers_stay_whole() -> None:
    assert Tune(axes={"warm_up": (10, 40)}).points() == [{"warm_up": 10}, {"warm_up": 40}]
