"""Access to nested mappings by dotted names: `optimizer.lr` is the field lr of the field optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.config.errors import ConfigError


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its dotted name, in order."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def get(fields: Any, dotted: str) -> Any:
    """The value of a dotted field, or None if there is no such field."""
    for part in dotted.split("."):
        if not isinstance(fields, Mapping):
            return None
        fields = fields.get(part)
    return fields


def with_field(fields: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy with one dotted field set. A choice given by its name becomes a mapping when one of its fields is set.

    Raises:
        ConfigError: a field below a number or a list is set.
    """
    head, _, rest = dotted.partition(".")
    if not rest:
        return {**fields, head: value}
    inner = fields.get(head) or {}
    inner = {"name": inner} if isinstance(inner, str) else inner
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{dotted}: {head} is {inner!r}, which has no fields")
    return {**fields, head: with_field(inner, rest, value)}


def with_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with several dotted fields set, in order."""
    for dotted, value in values.items():
        fields = with_field(fields, dotted, value)
    return dict(fields)
