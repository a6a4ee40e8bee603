"""Reads cell directories into tidy frames, and describes the conditions behind the numbers.

Imports no other room.
"""

from analysis.reading.load import GridData, load

__all__ = ["GridData", "load"]
