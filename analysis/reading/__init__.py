"""Cells' directories to tidy frames, the names of methods, and the conditions under which numbers were made.

Imports no other room.
"""

from analysis.reading.load import GridData, load

__all__ = ["GridData", "load"]
