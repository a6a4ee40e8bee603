"""The outcome of a check of a device or of a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    passed: bool
    said: str
    """What was found, in one line."""
