"""What is declared and where results are stored: grids, cluster profiles, the runs directory, the selection and
the names of cells.

Imports no other room.
"""

from launch.planning.grid import Grid, plan, read_grid
from launch.planning.profiles import Local, Profile, Slurm, read_profile
from launch.planning.runs_folder import Runs
from launch.planning.selection import select

__all__ = ["Grid", "Local", "Profile", "Runs", "Slurm", "plan", "read_grid", "read_profile", "select"]
