"""Applies overrides from the command line to a grid: `field=value`, or `field=value,value` for an axis."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.config.dotted import with_field
from harness.config.errors import ConfigError
from launch.planning.dotted_fields import reaches, require_reach, set_if_reached, with_reached
from launch.planning.grid import Grid, validated
from launch.planning.yaml_text import parse_yaml

_EMPTY: dict[str, dict[str, Any]] = {"base": {}, "grid": {}}
"""The only part of a grid without blocks."""


@dataclass(frozen=True)
class Assignment:
    """One `field=value` from the command line; several values replace an axis."""

    field: str
    values: list[Any]


def parse_assignment(text: str) -> Assignment:
    """Parse `field=value` or `field=value,value`; values are YAML, so lists and mappings keep their commas.

    Raises:
        ConfigError: the text is not an assignment.
    """
    field, equals, value = text.partition("=")
    if not equals or not field or not value.strip():
        raise ConfigError(f"{text!r}: an override is written field=value or field=value,value")
    return Assignment(field, parse_yaml(f"[{value}]", field))


def override(grid: Grid, assignments: Iterable[Assignment]) -> Grid:
    """Apply command-line overrides, in any order; `name`, `baselines`, `tune` and `timing` change the grid itself.

    An axis gets a new list, and so does a tuned field. A dotted field reaches every value of its axis that has the
    field, and the values that blocks declare.

    Raises:
        ConfigError: nothing has the field.
    """
    fields = grid.model_dump()
    for assignment in sorted(assignments, key=_outer_first):
        _assign(fields, assignment.field, assignment.values)
    return validated(fields)


def _outer_first(assignment: Assignment) -> tuple[int, bool]:
    """Sorts assignments so that the order in which they are typed does not matter: a choice precedes its fields."""
    return assignment.field.count("."), not assignment.field.endswith(".name")


def _assign(fields: dict[str, Any], field: str, values: list[Any]) -> None:
    is_one_list = len(values) == 1 and isinstance(values[0], list)
    if field == "name":
        fields["name"] = values[0] if len(values) == 1 else values
    elif field == "baselines":
        fields["baselines"] = values[0] if is_one_list else values
    elif field == "tune":
        fields["tune"] = values[0]
    elif field.partition(".")[0] == "timing":
        fields["timing"] = with_field(fields, field, values[0] if len(values) == 1 else values)["timing"]
    elif fields["tune"] and field in fields["tune"]["axes"]:
        fields["tune"]["axes"][field] = values[0] if is_one_list else values
    elif with_axis := [part for part in (fields, *fields["blocks"]) if field in part["grid"]]:
        for part in with_axis:
            part["grid"][field] = values[0] if is_one_list else values
    elif len(values) > 1:
        fields["grid"][field] = values
        for part in (fields, *fields["blocks"]):
            part["base"] = {key: value for key, value in part["base"].items() if not f"{key}.".startswith(f"{field}.")}
    else:
        _assign_one(fields, field, values[0])


def _assign_one(fields: dict[str, Any], field: str, value: Any) -> None:
    """Set one field in every base, and in every value of its axis, that has it."""
    head, dot, _ = field.partition(".")
    parts, blocks = (fields, *fields["blocks"]), fields["blocks"]
    others = [one for part in parts for one in part["grid"].get(head, [])]
    others += [block["base"][head] for block in blocks if head in block["base"]]
    if dot and all(head in {**fields["grid"], **block["grid"], **block["base"]} for block in blocks or [_EMPTY]):
        require_reach(field, others)  # the grid's own base has no effect
    for part in parts:
        if head in part["grid"]:
            part["grid"][head] = [set_if_reached(field, one, value) for one in part["grid"][head]]
    for block in blocks:
        block["base"] = _assigned(block["base"], field, value)
    declared = fields["base"].get(head) or {}
    if head not in fields["grid"] and (reaches(field, declared) or not any(reaches(field, one) for one in others)):
        fields["base"] = {**fields["base"], head: with_reached(field, declared, value)}


def _assigned(base: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The base of a block with one field set, if the block says something about this field."""
    head = field.partition(".")[0]
    if head in base:
        return {**base, head: set_if_reached(field, base[head], value)}
    if any(f"{key}.".startswith(f"{field}.") for key in base):
        return {key: one for key, one in base.items() if not f"{key}.".startswith(f"{field}.")} | {field: value}
    return base
