"""Prepared views: what MLflow's page reads, and what they show of a grid."""

import base64
import json
import zlib
from typing import Any

import pytest

from launch.planning.grid import plan, read_grid, validated
from launch.planning.overrides import override, parse_assignment
from launch.tracking.note import LONGEST, note
from launch.tracking.shown import Shown, shown
from launch.tracking.views import CELLS, CHARTS, TABLE, VIEW_TAG, address, view_tags


def of_demo(*overrides: str) -> Shown:
    cells = plan(override(read_grid("demo"), map(parse_assignment, overrides)))
    return shown({cell.cell_id: cell for cell in cells}, {})


def decoded(value: str) -> dict[str, Any]:
    kind, _, packed = value.partition(";")
    assert kind == "deflate"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


def views(named: Shown) -> dict[str, dict[str, Any]]:
    tags = view_tags(named.varying, named.several_seeds)
    assert all(len(value) < 5000 for value in tags.values()), "MLflow 2 refuses longer tags of an experiment"
    return {key.removeprefix(VIEW_TAG): decoded(value) for key, value in tags.items()}


def test_names_show_what_varies_and_the_seed_if_there_are_several() -> None:
    named = of_demo("seed=0,1", "optimizer.lr=0.001,0.01", "model=de-hqs")
    assert named.varying == ["optimizer.lr"]
    names = set(named.run_names.values())
    assert {"de-hqs jfb lr=0.01 s1", "de-hqs implicit lr=0.001 s0", "tikhonov", "pretrain dncnn s0"} <= names
    assert len(names) == len(named.run_names)
    assert "de-hqs jfb" in of_demo().run_names.values()


def test_trials_are_told_apart_from_what_they_tune_and_do_not_vary_its_name() -> None:
    grid = read_grid("demo").model_dump() | {"tune": {"axes": {"optimizer.lr": [1e-3, 1e-2]}}}
    cells = plan(override(validated(grid), map(parse_assignment, ("model=de-hqs", "backprop=jfb"))))
    named = shown({cell.cell_id: cell for cell in cells}, {})
    names = {kind: [named.run_names[c] for c in named.kinds if named.kinds[c] == kind] for kind in ("train", "trial")}
    assert names["train"] == ["de-hqs jfb"]
    assert {name.split(" s")[0] for name in names["trial"]} == {f"trial de-hqs jfb lr={lr}" for lr in (0.001, 0.01)}
    assert named.varying == []


def test_the_table_has_a_column_for_what_varies_and_the_best_comes_first() -> None:
    table = views(of_demo("optimizer.lr=0.001,0.01"))[TABLE]
    assert {"tags.`model`", "tags.`backprop`", "tags.`seed`", "tags.`optimizer.lr`", "tags.`state`"} <= {
        *table["selectedColumns"]
    }
    assert {"metrics.`test/psnr`", "metrics.`test/ssim`", "metrics.`cost/step_ms`"} <= {*table["selectedColumns"]}
    assert (table["orderByKey"], table["orderByAsc"]) == ("metrics.`test/psnr`", False)
    assert "pretrain" in table["searchFilter"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_charts_are_of_trained_cells_alone_and_by_method_where_there_are_seeds(seeds: int) -> None:
    charts = views(of_demo(f"seed={','.join(map(str, range(seeds)))}"))[CHARTS]
    assert charts["searchFilter"] == "tags.kind = 'train'"
    keys = [key["groupByData"] for key in (charts["groupBy"] or {"groupByKeys": []})["groupByKeys"]]
    assert keys == (["method"] if seeds > 1 else [])
    # The best runs come first otherwise, and a method's mean over its best runs alone is not its mean.
    assert charts["orderByKey"] == ("tags.`seed`" if seeds > 1 else "metrics.`test/psnr`")
    sections = {section["uuid"] for section in charts["compareRunSections"]}
    assert all(chart["metricSectionId"] in sections for chart in charts["compareRunCharts"])
    lines = [(c["metricKey"], c["xAxisKey"]) for c in charts["compareRunCharts"] if c["type"] == "LINE"]
    assert {*lines} == {(m, x) for m in ("train/loss", "validation/psnr") for x in ("step", "time-relative")}


def test_parallel_coordinates_go_through_what_varies() -> None:
    lines, _ = views(of_demo("optimizer.lr=0.001,0.01", "solver=anderson,picard"))[CELLS]["compareRunCharts"]
    assert lines["selectedParams"] == ["model.name", "backprop.name", "seed", "solver.name", "optimizer.lr"]


def test_addresses_open_views_of_runs() -> None:
    assert address("http://127.0.0.1:5000", "7", TABLE) == (
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=jfbench-table"
    )
    assert address("http://127.0.0.1:5000", "7", CHARTS).endswith("=jfbench-charts&compareRunsMode=CHART")


def test_the_description_has_question_grid_and_findings_within_the_limit() -> None:
    text = note("name: demo\n", [], "- 3 of 4 beat Tikhonov.\n")
    assert "How should one backpropagate" in text
    assert "3 of 4 beat Tikhonov" in text
    assert "```yaml\nname: demo\n```" in text
    assert len(note("x" * LONGEST, [], "")) < LONGEST
