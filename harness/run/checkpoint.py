"""Checkpoints: they are saved atomically and verified when loaded, and only the newest few are kept.

A file's name contains the digest of its content, so one rename makes a checkpoint both visible and verifiable.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Save `state` as the checkpoint of `step`, then delete all but the newest and `keep` older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".step-{step:08d}.{os.getpid()}"
    with open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / f"step-{step:08d}-{_digest(partial)}.pt")
    for old in _newest_first(folder)[keep + 1 :]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, device: torch.device) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest intact checkpoint; None if there is none."""
    for path in _newest_first(folder):
        _, step, digest = path.stem.split("-")
        if _digest(path) == digest:
            return int(step), torch.load(path, map_location=device, weights_only=True)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
