"""The launcher: grids to jobs, status, and sync to MLflow."""
