"""Shows what cells are doing: their status, their logs, and MLflow, which is filled from their records.

Imports planning and slurm.
"""
