"""Shows what cells are doing: their status, their logs, and MLflow, which is filled from their records.

Imports planning and slurm.
"""

import os

# Read by MLflow when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# By default MLflow tries seven times, which takes minutes, and waits two minutes for each answer. A repeated request
# could also create a run twice, if only the answer to the first one was lost.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# The addresses of single runs, two lines for each.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
