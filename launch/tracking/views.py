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

VIEW_TAG = "mlflow.sharedViewState."
TABLE, CHARTS = "jfbench-table", "jfbench-charts"
ADDRESSES = {
    TABLE: {"workflowType": "machine_learning", "viewStateShareKey": TABLE},
    CHARTS: {"workflowType": "machine_learning", "viewStateShareKey": CHARTS, "compareRunsMode": "CHART"},
}
"""The query of each view's address. Without workflowType, MLflow shows its pages for language models and no runs."""

PSNR, SSIM = "test/psnr", "test/ssim"
STEP_MS, MEMORY, GRADIENT_MS = "cost/step_ms", "cost/peak_memory_mib", "cost/gradient_ms"
SECTIONS = ("Quality and cost", "Training against step", "Training against time")
FOLDED = ("train", "validation", "test", "seconds", "cost", "probe", "contraction", "fidelity")
"""Sections of all other metrics, which MLflow fills with a chart for each."""


def view_tags(varying: Sequence[str], several_seeds: bool) -> dict[str, str]:
    """The tags of an experiment that hold its views; `varying` lists the fields that differ within the grid."""
    return {
        f"{VIEW_TAG}{TABLE}": encode(table(varying)),
        f"{VIEW_TAG}{CHARTS}": encode(charts(varying, several_seeds)),
    }


def address(server: str, experiment_id: str, view: str) -> str:
    """The address of a view on a server such as http://127.0.0.1:5000."""
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(ADDRESSES[view])}"


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
    return _state("tags.kind != 'pretrain'") | {
        "selectedColumns": columns,
        "columnWidths": dict.fromkeys(columns, 110) | dict.fromkeys(numbers, 150),
    }


def charts(varying: Sequence[str], several_seeds: bool) -> dict[str, Any]:
    """Charts of the trained cells; with several seeds, means of each method."""
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "TAG", "groupByData": "method"}]}
    return _state("tags.kind = 'train'") | {
        "compareRunCharts": _cost_charts(varying) + _training_charts(),
        "compareRunSections": [_section(name) for name in SECTIONS] + [_section(name, False) for name in FOLDED],
        "isAccordionReordered": True,
        "groupBy": group if several_seeds else None,
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _section(name: str, is_open: bool = True) -> dict[str, Any]:
    shown = {"uuid": name, "name": name, "display": is_open, "isReordered": True, "deleted": False}
    return shown | {"isGenerated": False, "columns": 2, "cardHeight": 360}


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


def _cost_charts(varying: Sequence[str]) -> list[dict[str, Any]]:
    axes = {"xaxis": {"key": STEP_MS, "type": "METRIC"}, "yaxis": {"key": PSNR, "type": "METRIC"}}
    params = [*dict.fromkeys(_param(field) for field in ("model", "backprop", *varying))]
    lines = {"selectedParams": params, "selectedMetrics": [STEP_MS, PSNR], "showAllRuns": True}
    return [
        _chart("SCATTER", 0, "quality-cost", **axes, runsCountToCompare=1000),
        _chart("PARALLEL", 0, "what-varies", **lines, runsCountToCompare=1000),
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
