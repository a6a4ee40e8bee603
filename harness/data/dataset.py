"""Decoded pictures and their splits: one memory-mapped uint8 array that all ranks and cells share."""

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from harness.config.catalog.data import Counts, DataSpec
from harness.data.sources import Pixels, Source, open_source
from harness.records.environment import host
from harness.records.files import replacing


@dataclass(frozen=True)
class Dataset:
    """Decoded pictures and their splits; everywhere, a picture is identified by its index."""

    pixels: Pixels
    """(count, size, size, 3), memory-mapped."""
    train: range
    validation: range
    test: range


def load(spec: DataSpec, cache: Path, stage: str | None = None) -> Dataset:
    """Open the decoded pictures, decoding them first if necessary; with `stage`, open a copy in that folder.

    Raises:
        ValueError: one line that names the field, if the source is missing, broken or too small for the splits.
    """
    source = open_source(spec)
    splits = spec.splits(Counts(source.train_count, source.count, source.group))
    decoded = _decoded(source, cache)
    return Dataset(
        pixels=np.load(_staged(decoded, stage) if stage else decoded, mmap_mode="r"),
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
    )


def _decoded(source: Source, cache: Path) -> Path:
    """Path of the decoded array, which is created if it is missing."""
    path = cache / f"{source.key}.npy"
    cache.mkdir(parents=True, exist_ok=True)
    _make_once(path, lambda: _decode_to(path, source))
    return path


def _staged(path: Path, folder: str) -> Path:
    """Path of a copy of the decoded array in a folder of this node; `path` itself, and a printed reason, if that fails.

    The name of the copy contains the size and time of the original, so an array that was decoded again is copied again.
    The copy stays for other jobs. Its directory has a name that anybody can guess, in a place where everybody may
    write, so one that another user made, or can write to, is not used.
    """
    try:
        expanded = os.path.expandvars(folder)
        if "$" in expanded:
            raise OSError("a variable in it is not set")
        directory = Path(expanded) / f"jfbench-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        _require_private(directory)
        original = path.stat()
        copy = directory / f"{path.stem}-{original.st_size}-{original.st_mtime_ns}.npy"
        _make_once(copy, lambda: _copy_to(copy, path))
    except OSError as error:
        print(f"stage: {folder} on {host()} is not used: {error.strerror or error}", file=sys.stderr)
        return path
    return copy


def _make_once(path: Path, make: Callable[[], None]) -> None:
    """Let the first process that gets the lock make the file, which is complete once it exists under its name."""
    if not path.exists():
        with open(path.with_suffix(".lock"), "a", opener=_without_links) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make()


def _without_links(path: str, flags: int) -> int:
    """Open a file, but not the one that a symbolic link of this name points to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _require_private(directory: Path) -> None:
    """Check that a directory is not a link, and that only this user can read and write in it.

    Raises:
        OSError: it is not so.
    """
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(f"{directory} was not made by this user")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(f"{directory} is open to other users; remove it")


def _copy_to(path: Path, source: Path) -> None:
    if shutil.disk_usage(path.parent).free < source.stat().st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with replacing(path) as partial:
        shutil.copyfile(source, partial)


def _decode_to(path: Path, source: Source) -> None:
    with replacing(path) as partial:
        array: np.memmap[tuple[int, ...], np.dtype[np.uint8]] | None = None
        for index, pixels in enumerate(track(source.decode(), f"decoding {path.stem}", total=source.count)):
            if array is None:
                array = np.lib.format.open_memmap(
                    partial, mode="w+", dtype=np.uint8, shape=(source.count, *pixels.shape)
                )
            array[index] = pixels
        assert array is not None
        array.flush()
