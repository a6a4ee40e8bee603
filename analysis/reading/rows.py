"""Turns the events of cells into the rows of tidy tables. Pure functions."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from harness.config.cells import Cell, TimingCell
from harness.records.events import (
    AnyEvent,
    Contraction,
    Evaluation,
    Exposure,
    Fidelity,
    GradientError,
    Longer,
    Probe,
    Round,
    Search,
    Start,
    Step,
)
from launch.planning import methods

PHASES = (
    "data", "forward_solve", "adjoint_solve", "parameter_gradient", "waiting", "gradient_synchronization", "optimizer",
    "other",
)  # fmt: skip
"""The phases of a training step that a record may name; if a step does not name one, it spent no time in it."""

STEP_COLUMNS = ("cell_id", "step", "attempt", "attempt_step", "loss", "updated", "seconds_total")
CONTRACTION_COLUMNS = ("cell_id", *(name for name in Contraction.model_fields if name not in ("event", "time")))
FIDELITY_COLUMNS = ("cell_id", "step", "status", "pictures", "forward_residual", "adjoint_residual", "gradient",
                    *GradientError.model_fields)  # fmt: skip
PICTURE_GRADIENT_COLUMNS = ("cell_id", "step", "picture", "dominant_eigenvalue", "gradient",
                            *GradientError.model_fields)  # fmt: skip
ROUND_COLUMNS = ("cell_id", "step", "place", "method", "backprop", "timed", "seconds", "nfe", "adjoint_nfe",
                 "adjoint_unconverged")  # fmt: skip
SEARCH_COLUMNS = ("cell_id", "parameter", "candidate", "psnr", "chosen", "interior", "trials")
EVALUATION_COLUMNS = ("cell_id", "step", "split", "picture", "psnr", "nfe", "residual")


def frames(events: Mapping[str, list[AnyEvent]], cells: Mapping[str, Cell]) -> dict[str, pd.DataFrame]:
    """Every table of the records of some cells, under its name in `GridData`; each has its columns even if empty."""
    return {
        "steps": _frame(events, _step_rows, STEP_COLUMNS),
        "rounds": _round_frame(events, cells),
        "evaluations": _frame(events, _evaluation_rows, (*EVALUATION_COLUMNS, "diverged")),
        "probes": _frame(events, _probe_rows, ("cell_id", *Probe.model_fields)),
        "contractions": _frame(events, _contraction_rows, CONTRACTION_COLUMNS),
        "fidelities": _frame(events, _fidelity_rows, FIDELITY_COLUMNS),
        "picture_gradients": _frame(events, _picture_gradient_rows, PICTURE_GRADIENT_COLUMNS),
        "longer": _frame(events, _longer_rows, ("cell_id", "step", "indices", "psnr_at", "residual_at")),
        "exposures": _frame(events, _exposure_rows, ("cell_id", "step", "distinct_pictures", "noise_draws")),
        "searches": _frame(events, _search_rows, SEARCH_COLUMNS),
        "environments": _frame(events, _environment_rows, ("cell_id", "attempt", "key", "value")),
    }


def _frame(events: Mapping[str, list[AnyEvent]], rows_of: Any, columns: tuple[str, ...]) -> pd.DataFrame:
    """The rows of all cells in one frame, which has its columns even if it is empty."""
    rows = [{"cell_id": cell_id, **row} for cell_id, record in events.items() for row in rows_of(record)]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def _step_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    first, attempt = 0, -1
    for event in events:
        if isinstance(event, Start):
            first, attempt = event.resumed_from, attempt + 1
        elif isinstance(event, Step):
            fields = event.model_dump(exclude={"event", "time", "seconds", "diverged"})
            ranks = {phase: event.seconds.get(phase, [0.0]) for phase in {*PHASES, *event.seconds}}
            seconds = {phase: sum(values) / len(values) for phase, values in ranks.items()}
            yield {
                **fields,
                "attempt": attempt,
                "attempt_step": event.step - first,
                "diverged": len(event.diverged),
                **{f"seconds_{phase}": value for phase, value in seconds.items()},
                "seconds_total": event.duration,
            }


def _round_frame(events: Mapping[str, list[AnyEvent]], cells: Mapping[str, Cell]) -> pd.DataFrame:
    timing = {cell_id: cell for cell_id, cell in cells.items() if isinstance(cell, TimingCell)}
    by_cell = {cell_id: _round_rows(cell, events[cell_id]) for cell_id, cell in timing.items()}
    rows = [{"cell_id": cell_id, **row} for cell_id, found in by_cell.items() for row in found]
    return pd.DataFrame(rows, columns=list(ROUND_COLUMNS))


def _round_rows(cell: TimingCell, events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    rounds = [event for event in events if isinstance(event, Round)]
    for place, (method, training) in enumerate(cell.trainings.items()):
        named = {"place": place, "method": methods.short(method), "backprop": methods.short(training.backprop.name)}
        named["timed"] = methods.timed(methods.flat_config(training))
        for event in rounds:
            step = event.steps[method]
            measured = step.model_dump(include={"nfe", "adjoint_nfe", "adjoint_unconverged"})
            yield {"step": event.step, **named, "seconds": step.duration, **measured}


def _evaluation_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    for event in events:
        if not isinstance(event, Evaluation):
            continue
        for place, picture in enumerate(event.indices):
            yield {
                "step": event.step,
                "split": event.split,
                "picture": picture,
                **{metric: scores[place] for metric, scores in event.scores.items()},
                "nfe": event.nfe[place],
                "residual": event.residual[place],
                "unit_residual": event.unit_residual[place] if event.unit_residual else event.residual[place],
                "unconverged": picture in event.unconverged,
                "diverged": picture in event.diverged,
            }


def _probe_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    return [event.model_dump(exclude={"event", "time"}) for event in events if isinstance(event, Probe)]


def _contraction_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    return [event.model_dump(exclude={"event", "time"}) for event in events if isinstance(event, Contraction)]


def _fidelity_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    for event in events:
        if isinstance(event, Fidelity):
            shared = event.model_dump(include={"step", "status", "forward_residual", "adjoint_residual"})
            compared = len(event.indices) - len(event.left_out) if event.methods else 0
            shared["pictures"] = f"{compared} of {len(event.indices)}"
            for gradient, error in event.methods.items():
                yield {**shared, "gradient": gradient, **error.model_dump()}
            if not event.methods:
                yield {**shared, "gradient": None, **dict.fromkeys(GradientError.model_fields)}


def _picture_gradient_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    for event in events:
        if isinstance(event, Fidelity):
            compared = [index for index in event.indices if index not in event.left_out]
            for gradient, errors in event.pictures.items():
                for picture, eigenvalue, error in zip(compared, event.dominant_eigenvalue, errors, strict=True):
                    row = {"step": event.step, "picture": picture, "dominant_eigenvalue": eigenvalue}
                    yield {**row, "gradient": gradient, **error.model_dump()}


def _longer_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    return [event.model_dump(exclude={"event", "time"}) for event in events if isinstance(event, Longer)]


def _exposure_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    return [event.model_dump(exclude={"event", "time"}) for event in events if isinstance(event, Exposure)]


def _search_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    for event in events:
        if isinstance(event, Search):
            for candidate, psnr in zip(event.candidates, event.psnr, strict=True):
                chosen = {"chosen": event.chosen, "interior": event.interior, "trials": event.trials}
                yield {"parameter": event.parameter, "candidate": candidate, "psnr": psnr, **chosen}


def _environment_rows(events: list[AnyEvent]) -> Iterable[dict[str, Any]]:
    for attempt, event in enumerate(event for event in events if isinstance(event, Start)):
        for key, value in event.environment.items():
            yield {"attempt": attempt, "key": key, "value": str(value)}
