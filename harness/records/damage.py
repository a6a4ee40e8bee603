"""Reads JSON that may be damaged, and says what is wrong with a file in one line: where, and why."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config.errors import ConfigError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: the file is missing, may not be read or is damaged; the message has the file, line and reason.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(damage(path, error)) from None


def damage(path: Path, error: Exception, line: int = 1) -> str:
    """What is wrong with a file, given the error of reading it, or of validating what `line` of it says."""
    if isinstance(error, OSError):
        return f"{path}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, json.JSONDecodeError):
        return f"{path}, line {error.lineno}: {_plain(error.msg) if error.doc.strip() else 'the file is empty'}"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        within = re.search(r"(.*) at line (\d+)", str(first.get("ctx", {}).get("error", "")))
        if within:
            said = "the file is empty" if within[1].startswith("EOF") and int(within[2]) == 1 else _plain(within[1])
            return f"{path}, line {line + int(within[2]) - 1}: {said}"
        field = ".".join(str(part) for part in first["loc"])
        return f"{path}, line {line}: {field + ': ' if field else ''}{_plain(first['msg'])}"
    return f"{path}: {_plain(str(error).splitlines()[0] if str(error) else type(error).__name__)}"


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:]
