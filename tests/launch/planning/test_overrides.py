"""Overrides have one meaning, whatever their order: a dotted one reaches every value of its axis that has the field."""

import re
from typing import Any

import pytest

from harness.config.cells import TrainCell
from harness.config.errors import ConfigError
from launch.planning.changes import changed_fields, declared_grid
from launch.planning.grid import Grid, plan, read_grid, validated
from launch.planning.overrides import override, parse_assignment

BLOCKS = [
    {"grid": {"backprop": ["jfb", {"name": "implicit", "solver": "gmres"}]}},
    {"base": {"backprop": {"name": "neumann", "order": 2}, "optimizer.lr": 0.5}},
]


def trained(grid: Grid, *texts: str) -> list[TrainCell]:
    return [cell for cell in plan(override(grid, map(parse_assignment, texts))) if isinstance(cell, TrainCell)]


def in_blocks() -> Grid:
    return validated({"name": "b", "base": {"model": "de-prox"}, "blocks": BLOCKS})


def test_a_field_below_an_axis_reaches_every_value_that_has_it() -> None:
    cells = trained(read_grid("demo"), "model.damping=1", "backprop.solver.tol=1e-1")
    assert {cell.model.damping for cell in cells} == {1.0}
    before = {cell.backprop.name: cell.backprop for cell in trained(read_grid("demo"))}
    after = {cell.backprop.name: cell.backprop for cell in cells}
    assert after["jfb"] == before["jfb"]
    exact = before["implicit"].model_dump()
    assert after["implicit"].model_dump() == exact | {"solver": exact["solver"] | {"tol": 0.1}}, "all else is kept"


def test_a_field_that_some_values_lack_leaves_these_alone() -> None:
    cells = trained(read_grid("demo"), "model.dual_step=0.5")
    assert {cell.model.name: cell.model.parameters().get("dual_step") for cell in cells} == {
        "de-grad": None, "de-prox": None, "de-admm": 0.5, "de-hqs": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule.foo=bar", "schedule.foo: no value of schedule has this field (cosine has none)"),
        ("model.dampin=1", "model.dampin: no value of model has this field (de-grad has damping, step_size, weight; "),
        ("backprop.solver.tolerance=1", "jfb has none; implicit has solver.tol, solver.max_steps"),
        ("schedule.foo=1,2", "schedule.foo: no value of schedule has this field (cosine has none)"),
        ("steps.x=3", "steps.x: steps is 130, which has no fields"),
        ("data.name=[1]", "data: [1] is not one of"),
        ("optimizer.lr= ", "optimizer.lr= ': an override is written field=value"),
        ("optimizer.rate=1", "optimizer: no field 'rate'; allowed: name, lr"),
        ("seed=18446744073709551616", "seed: input should be less than 4294967296"),
        ("steps=1000000000000", "steps: input should be less than or equal to 10000000"),
        ("pool.size=[1", "pool.size is not valid YAML"),
        (f"name={'n' * 300}", "name: string should have at most 100 characters"),
        (f"solver={'[' * 3000}{']' * 3000}", "solver is nested more than 20 levels deep"),
    ],
)
def test_an_override_that_reaches_nothing_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        trained(read_grid("demo"), text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("texts", [["model.damping=1", "model=de-admm"], ["model=de-admm", "model.damping=1"]])
def test_the_order_of_overrides_does_not_matter(texts: list[str]) -> None:
    assert {(cell.model.name, cell.model.damping) for cell in trained(read_grid("demo"), *texts)} == {("de-admm", 1.0)}


def test_several_values_of_a_field_below_an_axis_are_an_axis_of_the_values_that_have_it() -> None:
    cells = trained(read_grid("demo"), "model.dual_step=0.5,1.5", "backprop=jfb")
    admm = [cell for cell in cells if cell.model.name == "de-admm"]
    assert [cell.model.parameters()["dual_step"] for cell in admm] == [0.5, 1.5]
    assert len(cells) == 3 + 2, "a value without the field is one cell"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backprop.order=7", {"jfb": None, "implicit": 50, "neumann": 7}),
        ("backprop.solver.max_steps=9", {"jfb": None, "implicit": 9, "neumann": 2}),
        ("backprop.order=7,7", {"jfb": None, "implicit": 50, "neumann": 7}),
    ],
)
def test_overrides_reach_what_blocks_declare(text: str, expected: dict[str, Any]) -> None:
    def said(cell: TrainCell) -> Any:
        fields = cell.backprop.model_dump(serialize_as_any=True)
        return fields.get("order", (fields.get("solver") or {}).get("max_steps"))

    assert {cell.backprop.name: said(cell) for cell in trained(in_blocks(), text)} == expected


def test_an_override_below_a_value_of_a_block_keeps_what_the_grid_says_beside_it() -> None:
    cells = trained(in_blocks(), "optimizer.name=sgd")
    assert {(cell.backprop.name, cell.optimizer.name, cell.optimizer.lr) for cell in cells} == {
        ("jfb", "sgd", 1e-3), ("implicit", "sgd", 1e-3), ("neumann", "sgd", 0.5),
    }  # fmt: skip


def test_a_base_that_its_axis_would_hide_is_refused() -> None:
    declared = validated({"name": "g", "base": {"model.damping": 1}, "grid": {"model": ["de-prox"]}})
    with pytest.raises(
        ConfigError, match=r"base\.model: model is an axis beside it.*grid: \{model\.damping: \[...\]\}"
    ):
        plan(declared)
    axes = {"model.damping": [1], "model": ["de-prox", "de-hqs"]}
    assert {cell.model.damping for cell in trained(validated({"name": "g", "grid": axes}))} == {1.0}


def test_dotted_names_in_the_base_mean_what_they_mean_elsewhere() -> None:
    declared = validated({"name": "g", "base": {"optimizer.lr": 0.5, "solver.tol": 1e-2, "model": "de-prox"}})
    (cell,) = trained(declared)
    assert (cell.optimizer.lr, cell.solver.tol) == (0.5, 1e-2)


def test_a_dry_run_says_how_many_cells_each_override_changed() -> None:
    grid, changes = declared_grid("demo", ["name=x", "model.damping=1", "backprop.solver.tol=1e-1", "seed=0,3"])
    assert changed_fields(changes, plan(grid)) == [
        "changed: model.damping = 1 in 16 of 16 training cells",
        "changed: backprop.solver.tol = 1e-1 in 8 of 16 training cells",
        "changed: seed = 0, 3 in 16 of 16 training cells",
    ]
