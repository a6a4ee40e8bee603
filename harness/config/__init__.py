"""What users declare: the fields of a cell, every choice there is, and how a choice becomes an object.

Torch-free. Imports no other room.
"""

from harness.config.cells import BaselineCell, Cell, PretrainCell, Site, TrainCell, parse_cell
from harness.config.errors import ConfigError
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
    "TrainCell",
    "parse_cell",
]
