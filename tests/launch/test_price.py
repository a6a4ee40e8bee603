"""What a plan costs, from what finished cells of the same shape took."""

import json
from typing import Any

import pytest
from rich.console import Console

from harness.config import Cell
from harness.folder import CellStatus, write_atomically
from launch.cluster import Local
from launch.grid import Grid
from launch.price import Shape, describe_price, finished_shapes, price
from launch.reconcile import launch
from launch.runs import Runs
from tests.conftest import tiny_cell


def shape(**fields: Any) -> Shape:
    return Shape.of(tiny_cell(**fields).to_json())


def test_the_shape_is_what_decides_how_long_a_cell_takes() -> None:
    same = {
        "seed": 3,
        "schedule": "fixed",
        "operations": {"checkpoint_every": 9},
        "optimizer": {"name": "adam", "lr": 1e-5},
    }
    assert shape(**same) == shape()
    assert shape(steps=8).fields == shape().fields
    for other in ({"model": "de-hqs"}, {"backprop": "neumann"}, {"world_size": 2}, {"global_batch_size": 12}):
        assert shape(**other).fields != shape().fields


def test_cells_are_priced_whole_else_by_the_step_else_not_at_all() -> None:
    known = [(shape(steps=10), 100.0), (shape(steps=10), 300.0), (shape(steps=10), 120.0)]
    cells: list[Cell] = [
        tiny_cell(steps=10, seed=1),
        tiny_cell(steps=100, seed=1),
        tiny_cell(steps=10, model="de-hqs"),
    ]
    priced = price(cells, known)
    assert priced.seconds == {cells[0].cell_id: 120.0, cells[1].cell_id: pytest.approx(1200.0)}
    assert priced.rank_hours == pytest.approx(1320 / 3600)
    assert priced.unknown == [cells[2].cell_id]
    assert priced.finish_hours(at_once=1) == pytest.approx(1320 / 3600)
    assert priced.finish_hours(at_once=50) == pytest.approx(1200 / 3600)
    assert "name=probe" in describe_price(priced, 50)


def test_ranks_count(runs: Runs) -> None:
    cell = tiny_cell(world_size=2)
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    assert finished_shapes(runs) == []
    write_atomically(folder.path / "status.json", json.dumps({"state": "finished", "seconds": 1800.0}))
    assert folder.status() == CellStatus(state="finished", seconds=1800.0)
    assert price([tiny_cell(world_size=2, seed=5)], finished_shapes(runs)).rank_hours == pytest.approx(1.0)


def test_a_launch_notes_what_its_unfinished_cells_are_expected_to_take(runs: Runs) -> None:
    first, second = tiny_cell(seed=0).needs, tiny_cell(seed=1).needs
    assert first is not None
    assert second is not None
    here = Local(executor="debug")
    assert launch(runs, Grid(name="g"), [first], here, Console(quiet=True)) == 0
    assert runs.estimates("g") == {}
    assert launch(runs, Grid(name="g"), [first, second], here, Console(quiet=True)) == 0
    assert runs.estimates("g") == {second.cell_id: runs.cell(first.cell_id).status().seconds}
