"""Errors in a user's configuration, each reported in one line."""

from pydantic import ValidationError

LONGEST_VALUE = 120
"""Characters of a bad value that a message shows."""


class ConfigError(ValueError):
    """A user's mistake. The message is one line that names the field, the bad value and what is allowed."""


def explain(error: ValidationError, skip: int = 0) -> str:
    """The first error of a validation in one line: the field, the problem and the value.

    `skip` leading parts of the field's path are left out: in a union of kinds, the first part only names the kind.
    """
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][skip:]))
    if first["type"] == "missing":
        return f"{field}: a value is required"
    message = first["msg"][0].lower() + first["msg"][1:]
    got = repr(first["input"])
    got = got if len(got) <= LONGEST_VALUE else f"{got[:LONGEST_VALUE]}..."
    shown = "" if first["type"] == "choice" else f" (got {got})"
    return f"{field}: {message}{shown}" if field else message
