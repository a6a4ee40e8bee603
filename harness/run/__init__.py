"""One cell on one rank: wires the other rooms together, and alone knows the cell's directory and the process group.

Imports every room but commands.
"""

from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from harness.run.load_model import trained_model

__all__ = ["RankPosition", "run_cell", "trained_model"]
