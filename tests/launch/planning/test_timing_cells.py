"""Which timing cells a grid makes."""

from typing import Any

import pytest

from harness.config.cells import TimingCell
from harness.config.errors import ConfigError
from launch.planning.grid import Grid, plan, read_grid, validated
from launch.planning.overrides import override, parse_assignment

METHODS = ["jfb", "implicit", {"name": "neumann", "order": 2}, {"name": "neumann", "order": 5}]


def timing_cells(**fields: Any) -> list[TimingCell]:
    grid = validated({"name": "test", "timing": {"steps": 8}, **fields})
    return [cell for cell in plan(grid) if isinstance(cell, TimingCell)]


def test_each_model_has_one_cell_with_all_methods_whatever_the_schedules_and_seeds() -> None:
    axes = {"model": ["de-prox", "de-hqs"], "backprop": METHODS, "schedule": ["fixed", "cosine"], "seed": [3, 4]}
    cells = timing_cells(grid=axes)
    assert [cell.label for cell in cells] == ["timing_de-prox_s3", "timing_de-hqs_s3"]
    for cell in cells:
        assert list(cell.trainings) == ["jfb", "implicit", "neumann order=2", "neumann order=5"]
        assert cell.steps == 8


def test_every_other_axis_makes_cells_of_its_own() -> None:
    axes = {"model": ["de-hqs"], "backprop": ["jfb", "implicit"], "world_size": [1, 2], "solver.max_steps": [10, 20]}
    cells = timing_cells(grid=axes)
    assert [(cell.world_size, cell.solver.max_steps) for cell in cells] == [(1, 10), (1, 20), (2, 10), (2, 20)]


def test_methods_come_from_all_blocks_each_with_its_own_learning_rate() -> None:
    blocks = [{"grid": {"backprop": ["jfb"]}}, {"base": {"backprop": "implicit", "optimizer.lr": 1e-4}}]
    (cell,) = timing_cells(base={"model": "de-hqs"}, blocks=blocks)
    rates = {name: training.optimizer.lr for name, training in cell.trainings.items()}
    assert rates == {"jfb": 1e-3, "implicit": 1e-4}


def test_a_group_with_one_method_is_left_out() -> None:
    """Here deep unrolling, whose map has other settings."""
    blocks = [
        {"base": {"model": "de-hqs"}, "grid": {"backprop": ["jfb", "implicit"]}},
        {"base": {"model": {"name": "de-hqs", "damping": 1}, "backprop": "unrolled"}},
    ]
    (cell,) = timing_cells(blocks=blocks)
    assert list(cell.trainings) == ["jfb", "implicit"]


def test_it_starts_from_a_denoiser_that_the_grid_trains_anyway_and_changes_no_other_cell() -> None:
    axes = {"model": ["de-hqs"], "backprop": ["jfb", "implicit"]}
    with_timing, without = (
        [cell.cell_id for cell in plan(Grid.model_validate({"name": "test", "grid": axes, "timing": timing}))]
        for timing in ({"steps": 8}, None)
    )
    assert with_timing[:-1] == without
    assert with_timing[-1].startswith("timing_de-hqs_s0-")


def test_the_command_line_sets_and_removes_it() -> None:
    demo = read_grid("demo")
    assert demo.timing is None
    timed = override(demo, [parse_assignment("timing.steps=9")])
    assert sum(isinstance(cell, TimingCell) for cell in plan(timed)) == 4
    assert override(timed, [parse_assignment("timing=null")]) == demo


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grid": {"model": ["de-hqs"], "backprop": ["jfb"]}}, "timing: no two backprop methods to compare"),
        ({"grid": {"model": ["de-hqs"], "backprop": ["jfb", "jfb"]}}, "timing: no two backprop methods to compare"),
        ({"baselines": ["degraded"]}, r"timing: no two .* \(got none\)"),
        ({"timing": {"steps": 1}}, r"timing\.steps: input should be greater than or equal to 2 \(got 1\)"),
        ({"timing": {}}, r"timing\.steps: a value is required"),
        ({"timing": {"rounds": 3}}, "timing: no field 'rounds'; allowed: steps"),
    ],
)
def test_a_mistake_gets_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}[^\n]*$"):
        timing_cells(**fields)
