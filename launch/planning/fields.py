"""The reference of grid files, read from the models that validate them: every field, its default and its meaning."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.config.cells import BaselineCell, TrainCell
from harness.config.spec import Frozen, Spec
from launch.planning.grid import Grid


def describe_fields() -> Group:
    """The fields of a training cell, then the choices of every field that offers choices."""
    parts: list[Table | Text] = [Text("Fields of a cell", style="bold"), _table(TrainCell)]
    grid_fields = {"baselines": BaselineCell.model_fields["baseline"], "timing": Grid.model_fields["timing"]}
    for name, field in (TrainCell.model_fields | grid_fields).items():
        for title, model in _described(name, field.annotation):
            parts += [Text(f"\n{title}", style="bold"), Text(_summary(model)), _table(model)]
    return Group(*parts)


def _described(name: str, annotation: Any) -> Iterator[tuple[str, type[Frozen]]]:
    """The models within a field, each with its title: a nested model, or every choice followed by its own choices."""
    for model in _models(annotation):
        if Spec not in model.__bases__:
            yield name, model
            continue
        for choice, spec in sorted(model.choices().items()):
            yield f"{name}: {choice}", spec
            for nested, field in spec.model_fields.items():
                yield from _described(f"{name}.{nested} ({choice})", field.annotation)


def _table(model: type[Frozen]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, field in model.model_fields.items():
        if name not in ("kind", "name"):
            table.add_row(Text(f"  {name}", style="cyan"), Text(_default(field)), Text(field.description or ""))
    return table


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Spec):
        return default.name
    return "(below)" if isinstance(default, Frozen) else f"{default!r}".replace("None", "null")


def _models(annotation: Any) -> Iterator[type[Any]]:
    """The models in an annotation such as `Pool | None`."""
    for part in get_args(annotation) or (annotation,):
        if isinstance(part, type) and issubclass(part, Frozen):
            yield part


def _summary(model: type[Frozen]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]
