"""Sets a dotted field of a cell's declaration wherever a choice has it: `model.damping` on any map, by its catalog."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from harness.config.cells import TrainCell
from harness.config.errors import ConfigError
from harness.config.spec import Frozen, Imported, Spec


def reaches(dotted: str, value: Any) -> bool:
    """Whether `value`, which some cells declare for the first part of `dotted`, is a choice that has the rest.

    A choice that does not exist counts as having every field, because validation names it; so does a user's own class.
    """
    head, _, rest = dotted.partition(".")
    field = TrainCell.model_fields.get(head)
    return field is None or _has(field.annotation, value, rest)


def with_reached(dotted: str, value: Any, new: Any) -> Any:
    """`value` with the rest of `dotted` set to `new`; what it leaves to defaults stays as the catalog declares it.

    Raises:
        ConfigError: the value is not a choice, such as a number of steps.
    """
    head, _, rest = dotted.partition(".")
    field = TrainCell.model_fields.get(head)
    return _with(field.annotation if field else None, value, rest, new, head)


def set_if_reached(dotted: str, value: Any, new: Any) -> Any:
    """`value` with the rest of `dotted` set to `new` if it is a choice that has it, or else unchanged."""
    return with_reached(dotted, value, new) if reaches(dotted, value) else value


def require_reach(dotted: str, values: Sequence[Any]) -> None:
    """Check that one of the values declared for the first part of `dotted` has the rest.

    Raises:
        ConfigError: none has it; the message says which fields each choice has.
    """
    if any(reaches(dotted, value) for value in values):
        return
    head, _, rest = dotted.partition(".")
    choices = {_name(value): _fields(TrainCell.model_fields[head].annotation, value, rest) for value in values}
    listed = "; ".join(f"{name} has {', '.join(fields) or 'none'}" for name, fields in choices.items())
    raise ConfigError(f"{dotted}: no value of {head} has this field ({listed})")


def _has(annotation: Any, value: Any, rest: str) -> bool:
    name, _, below = rest.partition(".")
    if not rest:
        return True
    if value is None or isinstance(value, int | float | list):
        return False
    model = _model(annotation, value)
    if model is None or issubclass(model, Imported):
        return True
    if name not in model.model_fields:
        return False
    return not below or _has(model.model_fields[name].annotation, _inner(model, value, name), below)


def _with(annotation: Any, value: Any, rest: str, new: Any, path: str) -> Any:
    if not rest:
        return new
    fields = {"name": value} if isinstance(value, str) else {} if value is None else value
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{path}.{rest}: {path} is {value!r}, which has no fields")
    name, _, below = rest.partition(".")
    model = _model(annotation, fields)
    inner = fields.get(name) if model is None else _inner(model, fields, name)
    declared = model.model_fields.get(name) if model else None
    return {**fields, name: _with(declared.annotation if declared else None, inner, below, new, f"{path}.{name}")}


def _inner(model: type[BaseModel], value: Any, name: str) -> Any:
    """What `value` declares for a field, or else its default, as a user would write it."""
    if isinstance(value, Mapping) and name in value:
        return value[name]
    field = model.model_fields.get(name)
    default = field.get_default(call_default_factory=True) if field else None
    if isinstance(default, Spec):
        return {"name": default.name, **default.model_dump(exclude_defaults=True)}
    return {} if isinstance(default, Frozen) else None


def _model(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model that validates `value`; None if the annotation has none or names no such choice."""
    for part in get_args(annotation) or (annotation,):
        if isinstance(part, type) and issubclass(part, Spec) and Spec in part.__bases__:
            name = value.get("name", part.default_name) if isinstance(value, Mapping) else value
            if isinstance(name, str) and ":" in name:
                return Imported
            return part.choices().get(name) if isinstance(name, str) else None
        if isinstance(part, type) and issubclass(part, Frozen):
            return part
    return None


def _fields(annotation: Any, value: Any, rest: str) -> Iterator[str]:
    """The dotted fields that `value` has, as deep as `rest` can be followed."""
    model = None if value is None or isinstance(value, int | float | list) else _model(annotation, value)
    name, _, below = rest.partition(".")
    for field in model.model_fields if model else ():
        if field == name and below and model:
            deeper = _fields(model.model_fields[name].annotation, _inner(model, value, name), below)
            yield from (f"{name}.{one}" for one in deeper)
        elif field != "name":
            yield field


def _name(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, Mapping) else "null" if value is None else str(value)
