"""Prepared views of a grid in MLflow: a table and charts, stored as tags of its experiment. Pure functions.

MLflow's page reads the state of a shared view from the tag `mlflow.sharedViewState.KEY` if its address ends with
`viewStateShareKey=KEY`. A version that does not know the tag shows its usual page.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from harness.config.catalog.backprop import BackpropSpec

VIEW_TAG = "mlflow.sharedViewState."
TABLE, CHARTS, CELLS = "jfbench-table", "jfbench-charts", "jfbench-cells"
VIEWS = {TABLE: "table", CHARTS: "charts by method", CELLS: "charts by cell"}
"""The views, and what each shows in a few words."""
PSNR, SSIM = "test/psnr", "test/ssim"
STEP_MS, MEMORY, GRADIENT_MS = "cost/step_ms", "cost/peak_memory_mib", "cost/gradient_ms"
SECTIONS = ("Quality and cost", "Training against step", "Training against time")
FOLDED = (
    "train", "validation", "test", "seconds", "cost", "probe", "contraction", "fidelity",
    *(f"fidelity/{method}" for method in (*BackpropSpec.choices(), "implicit-tight", "as trained")),
)  # fmt: skip
"""Sections of all other metrics, which MLflow fills with a chart for each."""


def view_tags(varying: Sequence[str], several_seeds: bool) -> dict[str, str]:
    """The tags of an experiment that hold its views; `varying` lists the fields that differ within the grid."""
    return {
        f"{VIEW_TAG}{TABLE}": encode(table(varying)),
        f"{VIEW_TAG}{CHARTS}": encode(charts(several_seeds)),
        f"{VIEW_TAG}{CELLS}": encode(cell_charts(varying)),
    }


def address(server: str, experiment_id: str, view: str) -> str:
    """The address of a view on a server such as http://127.0.0.1:5000."""
    # Without workflowType, MLflow shows its pages for language models and no runs.
    query = {"workflowType": "machine_learning", "viewStateShareKey": view}
    mode = {} if view == TABLE else {"compareRunsMode": "CHART"}
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(query | mode)}"


def encode(state: dict[str, Any]) -> str:
    """A view's state in the form that MLflow stores."""
    packed = zlib.compress(json.dumps(state, sort_keys=True).encode(), 9)
    return "deflate;" + base64.b64encode(packed).decode()


def table(varying: Sequence[str]) -> dict[str, Any]:
    """Trained cells and baselines, best first: what each is, how good, and at what cost."""
    fields = dict.fromkeys(("model", "backprop", "schedule", "seed", *varying, "state"))
    numbers = [f"metrics.`{name}`" for name in (PSNR, SSIM, STEP_MS, GRADIENT_MS, MEMORY)]
    columns = [*(f"tags.`{name}`" for name in fields), *numbers]
    # The tag is absent from the grid's own run, so it is not listed either.
    return _state("tags.kind != 'pretrain' and tags.kind != 'trial'") | {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, 90) | dict.fromkeys(numbers, 130),
    }


def charts(several_seeds: bool) -> dict[str, Any]:
    """Charts of the trained cells; with several seeds, means of each method.

    MLflow loads a hundred runs at first. In the order of the seeds, no method's mean rests on its best runs only.
    """
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "method"}]}
    order = {"orderByKey": "tags.`seed`", "orderByAsc": True} if several_seeds else {}
    shown = _chart_state(_cost_charts() + _training_charts(), SECTIONS)
    return shown | order | {"groupBy": group if several_seeds else None}


def cell_charts(varying: Sequence[str]) -> dict[str, Any]:
    """Every trained cell as a line through what varies, its cost and its quality; MLflow draws none of means."""
    params = [*dict.fromkeys(_param(field) for field in ("model", "backprop", "seed", *varying))]
    options = {"selectedParams": params, "selectedMetrics": [STEP_MS, MEMORY, PSNR], "showAllRuns": True}
    lines = _chart("PARALLEL", 0, "what-varies", **options, runsCountToCompare=1000)
    return _chart_state([lines, *_cost_charts()[:1]], SECTIONS[:1], columns=1)


def _chart_state(shown: list[dict[str, Any]], sections: Sequence[str], columns: int = 2) -> dict[str, Any]:
    return _state("tags.kind = 'train'") | {
        "compareRunCharts": shown,
        "compareRunSections": [_section(name, columns) for name in sections]
        + [_section(name, columns, is_open=False) for name in FOLDED],
        "isAccordionReordered": True,
        "groupBy": None,
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _section(name: str, columns: int, is_open: bool = True) -> dict[str, Any]:
    shown = {"uuid": name, "name": name, "display": is_open, "isReordered": True, "deleted": False}
    return shown | {"isGenerated": False, "columns": columns, "cardHeight": 360}


def _state(search: str) -> dict[str, Any]:
    return {
        "searchFilter": search,
        "orderByKey": f"metrics.`{PSNR}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _cost_charts() -> list[dict[str, Any]]:
    axes = {"xaxis": {"key": STEP_MS, "type": "METRIC"}, "yaxis": {"key": PSNR, "type": "METRIC"}}
    return [
        _chart("SCATTER", 0, "quality-cost", **axes, runsCountToCompare=1000),
        _chart("BAR", 0, "step-time", metricKey=STEP_MS),
        _chart("BAR", 0, "memory", metricKey=MEMORY),
    ]


def _training_charts() -> list[dict[str, Any]]:
    by_step, by_time = {"xAxisKey": "step"}, {"xAxisKey": "time-relative", "useGlobalXaxisKey": False}
    return [
        _chart("LINE", section, f"{metric}-{section}", metricKey=metric, selectedMetricKeys=[metric], **axis)
        for section, axis in ((1, by_step), (2, by_time))
        for metric in ("train/loss", "validation/psnr")
    ]


def _chart(kind: str, section: int, uuid: str, **options: Any) -> dict[str, Any]:
    shown = {"type": kind, "uuid": uuid, "metricSectionId": SECTIONS[section], "deleted": False, "isGenerated": False}
    return {**shown, "runsCountToCompare": 100, **options}


def _param(field: str) -> str:
    """The parameter that holds a field: a choice is a mapping, whose name is what varies."""
    return field if "." in field or field in _PLAIN else f"{field}.name"


_PLAIN = ("seed", "steps", "warm_up", "world_size", "global_batch_size", "precision", "loss", "pool", "compile")
