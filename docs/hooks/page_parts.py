"""What several generated parts of the site are made of: escaped text, tables, and tables of fields."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness.config.spec import Frozen, Spec

Link = Callable[[type[BaseModel]], str]
"""A model to the Markdown that names it in a column of types."""

NAMES: dict[type, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    NoneType: "null",
}
BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def prose(text: str) -> str:
    """Text of a docstring as Markdown that can stand in a cell of a table; code between backticks stays as it is."""
    parts = re.sub(r"\s+", " ", text).strip().split("`")
    for position in range(0, len(parts), 2):
        for character, entity in {"<": "&lt;", ">": "&gt;", "|": "&#124;", "*": "&#42;"}.items():
            parts[position] = parts[position].replace(character, entity)
    return "`".join(parts)


def code(text: object) -> str:
    """Code in a line of text or in a cell of a table."""
    return f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, or nothing where there are no rows."""
    lines = [" | ".join(row) for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {line} |" for line in [" | ".join(header), " | ".join("---" for _ in header), *lines])


def fields_table(model: type[BaseModel], link: Link, without: Iterable[str] = ()) -> str:
    """The fields of a model: name, type, default and meaning."""
    shown = {name: field for name, field in model.model_fields.items() if name not in set(without)}
    rows = [
        (code(name), type_text(field, link), default_text(field), prose(field.description or docstring_of(field)))
        for name, field in shown.items()
    ]
    return table(("Field", "Type", "Default", "Meaning"), rows)


def docstring_of(field: FieldInfo) -> str:
    """What a field means where only its family says so."""
    models = [part for part in get_args(field.annotation) or (field.annotation,) if is_model(part)]
    return summary(models[0]) if models else ""


def summary(documented: object) -> str:
    """The first paragraph of a docstring."""
    return (getattr(documented, "__doc__", "") or "").strip().partition("\n\n")[0]


def type_text(field: FieldInfo, link: Link) -> str:
    """The type of a field in words, with its bounds."""
    return _bounded(_words(field.annotation, link), field.metadata)


def default_text(field: FieldInfo) -> str:
    """What a field is where nobody sets it."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Spec):
        changed = {name for name, value in default if value != type(default).model_fields[name].default}
        return code(default.name) + (" with other parameters" if changed else "")
    if isinstance(default, Frozen):
        return "its defaults"
    return code(as_yaml(default))


def as_yaml(value: Any) -> str:
    """A default as a grid file would have it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) or '""'


def is_model(part: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a part of an annotation is a model with fields of its own."""
    return isinstance(part, type) and issubclass(part, BaseModel)


def _words(annotation: Any, link: Link) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(_words(arguments[0], link), arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(_words(part, link) for part in arguments)
    if origin is Literal:
        return " or ".join(code(value) for value in arguments)
    if origin in (list, tuple, dict):
        return _container(origin, arguments, link)
    return link(annotation) if is_model(annotation) else NAMES.get(annotation, "any value")


def _container(origin: type, arguments: tuple[Any, ...], link: Link) -> str:
    if origin is dict:
        return f"mapping from {_words(arguments[0], link)} to {_words(arguments[1], link)}"
    if origin is tuple and Ellipsis not in arguments:
        return f"list of {len(arguments)}: {_words(arguments[0], link)} each"
    return f"list of {_words(arguments[0], link)}"


def _bounded(words: str, metadata: Iterable[Any]) -> str:
    bounds = [
        f"{said} {getattr(one, name):g}"
        for one in metadata
        for name, said in BOUNDS.items()
        if getattr(one, name, None) is not None
    ]
    return f"{words}, {' and '.join(bounds)}" if bounds else words
