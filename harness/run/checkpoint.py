"""Checkpoints: they are saved atomically and verified when loaded, and only the newest few are kept.

A file's name contains the digest of its content, so one rename makes a checkpoint both visible and verifiable.
"""

import hashlib
import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step-(?P<step>\d+)-(?P<digest>[0-9a-f]{16})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Save `state` as the checkpoint of `step`, then delete all but the newest and `keep` older ones.

    Only one process at a time may save in `folder`.

    Raises:
        OSError: it cannot be written, because the disk is full, for instance; no part of it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.glob(".step-*"):  # of an attempt that was killed while it saved
        abandoned.unlink(missing_ok=True)
    partial = folder / f".step-{step:08d}.{os.getpid()}"
    try:
        _write(partial, state)
        partial.replace(folder / f"step-{step:08d}-{_digest(partial)}.pt")
    finally:
        partial.unlink(missing_ok=True)
    for old in _newest_first(folder)[keep + 1 :]:
        old.unlink(missing_ok=True)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a state to disk; torch hides why a file cannot be written, so what it says is taken from a buffer."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with open(path, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest intact checkpoint, on the CPU; None if there is none.

    Whoever loads the state moves it: an optimizer keeps its counts of steps on the CPU and reads them at every step.

    Raises:
        ValueError: its digest is right, but it was not written by `save`.
    """
    for path in _newest_first(folder):
        name = _NAME.fullmatch(path.name)
        if name and _digest(path) == name["digest"]:
            try:
                return int(name["step"]), torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                raise ValueError(f"{path} holds no checkpoint ({str(error).splitlines()[0]})") from None
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
