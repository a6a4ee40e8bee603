"""Where and with which code a record was made (torch-free at import)."""

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

JOB = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "CUDA_VISIBLE_DEVICES")
PACKAGES = ("torch", "numpy", "scikit-image", "submitit", "mlflow")


def describe() -> dict[str, Any]:
    """Git commit and dirty flag, package versions, host, and what the scheduler says about this job."""
    about_job = {key.lower(): os.environ[key] for key in JOB if key in os.environ}
    return {
        **git_state(),
        **about_job,
        "job": job(),
        "host": host(),
        "python": platform.python_version(),
        **{f"version_{name}": _version(name) for name in PACKAGES},
    }


def code(described: dict[str, Any]) -> str:
    """Abbreviated commit and dirty flag; empty outside a repository."""
    return described["git_commit"][:12] + (" (dirty)" if described["git_dirty"] else "")


def processors() -> int:
    """Number of processors that this process may use; in an allocation or a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host() -> str:
    """Name of this node."""
    return socket.gethostname()


def job() -> str:
    """The scheduler's name for this job: its number, with the index in a job array; empty without a scheduler."""
    get = os.environ.get
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{get('SLURM_ARRAY_JOB_ID')}_{get('SLURM_ARRAY_TASK_ID')}"
    return get("SLURM_JOB_ID", "")


def restart() -> int:
    """Number of times the scheduler has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def git_state() -> dict[str, Any]:
    """Commit of this checkout and whether files differ from it; empty outside a repository."""
    # An installed package may lie inside the repository of another project, which does not track it.
    is_tracked = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = _git("rev-parse", "HEAD") if is_tracked else None
    if commit is None:
        return {"git_commit": "", "git_dirty": False}
    return {"git_commit": commit, "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
