"""The truth about a cell: its directory, the events of its record, and the environment in which it ran.

This room does not need torch. It imports config.
"""

from harness.records.cell_folder import CellBusy, CellFolder, CellStatus
from harness.records.events import AnyEvent, merge, parse_lines

__all__ = ["AnyEvent", "CellBusy", "CellFolder", "CellStatus", "merge", "parse_lines"]
