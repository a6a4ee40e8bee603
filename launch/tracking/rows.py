"""What MLflow is told about one cell: parameters, metrics, tags and times. Pure functions of the cell's directory."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median

from mlflow.entities import Metric, Param

from harness.config.cells import BaselineCell, Cell, TrainCell
from harness.config.dotted import flatten, get
from harness.records.cell_folder import CellStatus
from harness.records.events import (
    FIRST_STEPS,
    AnyEvent,
    Contraction,
    End,
    Evaluation,
    Fidelity,
    Probe,
    Round,
    Start,
    Step,
    adjoint_cut_share,
    honest_name,
)
from launch.planning.methods import short

MIB = 2.0**-20


def params(cell: Cell) -> list[Param]:
    """Every field of the cell under its dotted name."""
    fields = flatten(cell.to_json())
    return [Param(key, json.dumps(value) if isinstance(value, list) else str(value)) for key, value in fields]


def choice_tags(cell: Cell, varying: Iterable[str]) -> dict[str, str]:
    """Tags to group runs by, under the names that `--where` uses: what the cell is, and the fields that vary."""
    tags = {"seed": str(cell.seed)}
    if isinstance(cell, BaselineCell):
        return tags | {"baseline": short(cell.baseline.name)}
    if not isinstance(cell, TrainCell):
        return tags
    fields = cell.to_json()
    return tags | {field: _words(get(fields, field)) for field in ("model", "backprop", "schedule", *varying)}


def environment_tags(events: Iterable[AnyEvent]) -> dict[str, str]:
    """The environment of the newest attempt, and the number of attempts."""
    starts = [event for event in events if isinstance(event, Start)]
    environment = starts[-1].environment if starts else {}
    return {"attempts": str(len(starts)), **{key: str(value) for key, value in environment.items()}}


def honest_tags(cell: Cell, events: Iterable[AnyEvent]) -> dict[str, str]:
    """The backprop method by its honest name: one whose adjoint solves were cut says so."""
    if not isinstance(cell, TrainCell):
        return {}
    return {"jfbench.backprop": honest_name(cell.backprop.name, adjoint_cut_share(events))}


def began_and_ended(status: CellStatus, events: Sequence[AnyEvent]) -> tuple[int, int]:
    """When a cell's first attempt began and its last one ended, in milliseconds since the epoch.

    A cell that runs has not ended; the second time is then that of its newest status.
    """
    starts = [event.time for event in events if isinstance(event, Start)]
    ends = [event for event in events if isinstance(event, End)]
    ended = status.updated or (events[-1].time if events else 0.0)
    # Records of 0.1.0 tell when the newest attempt started only.
    began = status.began or (ends[0].time - ends[0].seconds if ends and len(starts) == 1 else 0.0)
    began = began if began > 0 else min([*starts, status.started or ended, ended])
    return _milliseconds(began), max(_milliseconds(began), _milliseconds(ended))


def metrics(cell: Cell, events: Sequence[AnyEvent], sent: int = 0) -> list[Metric]:
    """Every number of a record after its first `sent` events, with the time and step at which it was recorded.

    MLflow has no infinity, so numbers that are not finite are left out. The record keeps them.
    """
    return [
        Metric(key, float(value), _milliseconds(event.time), step)
        for event in events[sent:]
        for step, values in [_numbers(cell, events, event)]
        for key, value in values.items()
        if math.isfinite(value)
    ]


def _numbers(cell: Cell, events: Sequence[AnyEvent], event: AnyEvent) -> tuple[int, dict[str, float]]:
    """The step of an event and its numbers by their names in MLflow."""
    if isinstance(event, Step):
        return event.step, _step(event)
    if isinstance(event, Round):
        return event.step, {f"timing/{_metric_name(name)}": step.duration for name, step in event.steps.items()}
    if isinstance(event, Evaluation):
        lists = {**event.scores, "nfe": event.nfe, "residual": event.residual}
        return event.step, {f"{event.split}/{name}": fmean(numbers) for name, numbers in lists.items()}
    if isinstance(event, Probe):
        return event.step, _probe(event)
    if isinstance(event, Contraction):
        return event.step, _contraction(event)
    if isinstance(event, Fidelity):
        return event.step, _fidelity(event)
    if isinstance(event, End) and (times := timed_seconds(cell, events)):
        last = max(one.step for one in events if isinstance(one, Step))
        return last, {"cost/step_ms": 1000 * median(times)}
    return 0, {}


def timed_seconds(cell: Cell, events: Iterable[AnyEvent]) -> list[float]:
    """The seconds of the steps that count for timing, the same ones as in the report.

    The first steps of each attempt, and the warm-up by jfb, do not count.
    """
    warm_up = cell.active_warm_up if isinstance(cell, TrainCell) and cell.active_warm_up < cell.steps else 0
    return [
        step.duration
        for attempt in _attempts(events)
        for step in attempt[min(FIRST_STEPS, len(attempt) // 2) :]
        if step.step > warm_up
    ]


def _attempts(events: Iterable[AnyEvent]) -> Iterator[list[Step]]:
    """The steps of each attempt."""
    steps: list[Step] = []
    for event in events:
        if isinstance(event, Start):
            yield steps
            steps = []
        elif isinstance(event, Step):
            steps.append(event)
    yield steps


def _step(event: Step) -> dict[str, float]:
    """The numbers of a step, without zeros that say only that a method lacks a penalty, an adjoint solve or a phase."""
    numbers = event.model_dump(include=_STEP_METRICS, exclude_none=True)
    train = {f"train/{key}": value for key, value in numbers.items() if value or key not in _ZERO_IF_ABSENT}
    phases = {f"seconds/{phase}": fmean(ranks) for phase, ranks in event.seconds.items() if any(ranks)}
    return train | phases | {"seconds/step": event.duration}


_STEP_METRICS = set(Step.model_fields) - {
    "event",
    "time",
    "step",
    "seconds",
    "diverged",
    "updated",
    "evaluations",
    "products",
}
_ZERO_IF_ABSENT = {"penalty", "adjoint_nfe", "adjoint_residual"}


def _probe(event: Probe) -> dict[str, float]:
    """The cost of a gradient; what one compares first has names with units."""
    numbers = event.model_dump(exclude={"event", "time", "step"})
    named = {
        "cost/gradient_ms": 1000 * numbers.pop("seconds"),
        "cost/gradient_spread_ms": 1000 * numbers.pop("seconds_spread"),
        "cost/peak_memory_mib": MIB * numbers.pop("peak_allocated_bytes"),
    }
    return named | {f"probe/{key}": value for key, value in numbers.items()}


def _contraction(event: Contraction) -> dict[str, float]:
    """Means over the pictures, and the PSNR and residual after each number of evaluations past the training depth."""
    lists = ("norm", "spectral_radius", "dominant_eigenvalue", "dominant_imaginary", "eigenvalue_residual")
    values = {f"contraction/{name}": fmean(getattr(event, name)) for name in lists}
    values |= {f"contraction/psnr_at_{count}": psnr for count, psnr in event.psnr_at.items()}
    return values | {f"contraction/residual_at_{count}": residual for count, residual in event.residual_at.items()}


def _fidelity(event: Fidelity) -> dict[str, float]:
    """The error of each method's gradient, and whether there was a reference to compare it with."""
    values = {"fidelity/measured": float(event.status == "measured"), "fidelity/residual": event.forward_residual}
    for name, error in event.methods.items():
        values |= {f"fidelity/{name}/{key}": value for key, value in error.model_dump().items()}
    return values


def _metric_name(method: str) -> str:
    """A method's name in the characters that MLflow allows."""
    return re.sub(r"[^\w .\-/]", "-", method)


def _words(value: object) -> str:
    """The value of a field as `--where` takes it: a choice by its name."""
    if isinstance(value, dict):
        value = value.get("name", value)
    return "null" if value is None else short(str(value)) if isinstance(value, str) else json.dumps(value)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
