"""Reads YAML that a user wrote, within bounds: whatever the text, it takes a moment and a mistake is one line."""

from pathlib import Path
from typing import Any

import yaml

from harness.config.errors import ConfigError
from launch.planning.unique_keys import load_unique

DEEPEST = 20
"""Nesting of a value; a grid needs about six levels."""
MOST_VALUES = 250_000
"""Values in a text, with every alias written out."""
MOST_BYTES = 5 * 2**20


def read_yaml(path: Path, field: str) -> Any:
    """The content of a YAML file; `field` names it in messages.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 or not valid YAML, or is too large.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{field}: {path} is larger than {MOST_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{field}: {path} is not UTF-8 text (byte {error.start})") from None
    return parse_yaml(text, f"{field}: {path}")


def parse_yaml(text: str, place: str) -> Any:
    """The content of a YAML text; `place` begins every message.

    Raises:
        ConfigError: the text is not valid YAML, or nested too deeply, or its aliases expand to too many values.
    """
    try:
        content = load_unique(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, OverflowError) as error:  # an impossible date, a mapping as a key
        raise ConfigError(f"{place} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{place} is nested more than {DEEPEST} levels deep") from None
    _require_bounds(content, place)
    return content


def _require_bounds(content: Any, place: str) -> None:
    pending, values = [(content, 0)], 0
    while pending:
        value, depth = pending.pop()
        values += 1
        if depth > DEEPEST:
            raise ConfigError(f"{place} is nested more than {DEEPEST} levels deep")
        if values > MOST_VALUES:
            raise ConfigError(f"{place} has more than {MOST_VALUES:,} values, aliases written out")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending += [(one, depth + 1) for one in inner]
