"""The reference of records: every event and every field, read off the models that write them."""

from typing import get_args

from page_parts import code, fields_table, prose, summary
from pydantic import BaseModel

from harness.records.cell_folder import CellStatus, Exit
from harness.records.events import AnyEvent, Event, GradientError


def events_section() -> str:
    """Every event of a record, in the order of the union that parses them."""
    parts = [fields_table(Event, _name)]
    for event in get_args(AnyEvent):
        parts += [f"### {code(event_name(event))}", prose(summary(event))]
        parts.append(fields_table(event, _name, without=["event", *Event.model_fields]) or "It has no other fields.")
    parts += ["### `GradientError`", prose(summary(GradientError)), fields_table(GradientError, _name)]
    return "\n\n".join(parts)


def status_section() -> str:
    """The fields of status.json."""
    return fields_table(CellStatus, _name)


def exit_section() -> str:
    """The fields of exit.json."""
    return fields_table(Exit, _name)


def event_name(event: type[BaseModel]) -> str:
    """What its `event` field says."""
    return str(event.model_fields["event"].default)


def _name(model: type[BaseModel]) -> str:
    return f"[{code(model.__name__)}](#{model.__name__.lower()})"
