"""The outcome of one check of a device or a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    passed: bool
    said: str
    """What was found, in one line."""
