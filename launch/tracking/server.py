"""Shows MLflow's pages on this machine's loopback address, and where the prepared views of each grid are."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from launch.tracking.views import TABLE, VIEW_TAG, VIEWS, address

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.2
GRIDS_SHOWN = 10


def show(runs: Runs, port: int) -> None:
    """Start MLflow's server, wait until it answers, print the addresses of the views, and serve until Ctrl-C.

    If MLFLOW_TRACKING_URI names a server that runs already, only its addresses are printed.

    Raises:
        ConfigError: the port is in use, or the server does not start or does not answer.
    """
    if runs.tracking_uri.startswith("http"):
        print_views(runs.tracking_uri.rstrip("/"))
        return
    _require_free(port)
    runs.root.mkdir(parents=True, exist_ok=True)
    log = runs.root / "mlflow-server.log"
    with _served(runs.tracking_uri, port, log) as (server, process):
        began = time.monotonic()
        print(f"starting MLflow on {server} ...", flush=True)
        _wait_until_it_answers(server, process, log)
        print(f"MLflow is ready after {time.monotonic() - began:.0f} s; Ctrl-C stops it", flush=True)
        print_views(server)
        process.wait()


def print_views(server: str) -> None:
    """Print the address of the list of grids, and the addresses of the views of the newest ones.

    Raises:
        ConfigError: the server does not answer.
    """
    print(f"all grids: {server}/#/experiments?workflowType=machine_learning")
    experiments = _experiments(server)
    for experiment in experiments[:GRIDS_SHOWN]:
        for view, words in VIEWS.items():
            print(f"{experiment['name']}, {words}: {address(server, experiment['experiment_id'], view)}")
    if len(experiments) > GRIDS_SHOWN:
        print(f"... and {len(experiments) - GRIDS_SHOWN} older grids")
    if not experiments:
        print("no grid is here yet; `python -m launch sync GRID` brings one")
    sys.stdout.flush()


def _experiments(server: str) -> list[dict[str, Any]]:
    """The experiments that have prepared views, the one that changed last first."""
    wanted = {"max_results": 1000, "order_by": ["last_update_time DESC"]}
    request = Request(
        f"{server}/api/2.0/mlflow/experiments/search", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urlopen(request, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer).get("experiments", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"MLflow at {server} does not answer: {error}") from None
    return [one for one in found if any(tag["key"] == f"{VIEW_TAG}{TABLE}" for tag in one.get("tags", []))]


def _require_free(port: int) -> None:
    """Check that nothing listens on a port of this machine.

    Raises:
        ConfigError: something does, or the port may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            said = (error.strerror or "").lower()
            raise ConfigError(f"--port: {port} cannot be used ({said}); choose another one") from None


@contextmanager
def _served(store: str, port: int, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """MLflow's server with one worker, which writes to `log`; it ends with this process, also by Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Every user of the machine sees the arguments of a process, and the URI may contain a password.
    environment = {**os.environ, **quiet, "MLFLOW_BACKEND_STORE_URI": store}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options = ["--uvicorn-opts", "--log-level warning"]
    with open(log, "wb") as said:
        process = subprocess.Popen(
            [*command, *options],
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    except KeyboardInterrupt:
        pass
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait_until_it_answers(server: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = (log.read_text(errors="replace").strip() or "no message").splitlines()[-1]
            raise ConfigError(f"MLflow's server ended before it answered: {last} (see {log})")
        try:
            with urlopen(f"{server}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise ConfigError(f"MLflow's server did not answer within {PATIENCE_SECONDS:.0f} s")
