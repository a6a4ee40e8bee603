"""Runs one cell on one rank: connects the other rooms with the cell's directory and the process group.

Imports every room except commands.
"""

from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from harness.run.load_model import trained_model

__all__ = ["RankPosition", "run_cell", "trained_model"]
