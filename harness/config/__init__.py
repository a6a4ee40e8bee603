"""What users declare: the fields of a cell, the available choices, and how a choice is built into an object.

This room does not need torch and imports no other room.
"""

from harness.config.cells import BaselineCell, Cell, PretrainCell, TimingCell, TrainCell, parse_cell
from harness.config.errors import ConfigError
from harness.config.settings import Site
from harness.config.spec import Frozen, Imported, Spec

__all__ = [
    "BaselineCell",
    "Cell",
    "ConfigError",
    "Frozen",
    "Imported",
    "PretrainCell",
    "Site",
    "Spec",
    "TimingCell",
    "TrainCell",
    "parse_cell",
]
