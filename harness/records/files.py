"""Files that are either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to instead of `path`, so that readers see either the old file or the complete new one.

    The yielded path is in the same directory. It is renamed to `path` at the end, or removed after an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace the text of a file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_over(path: Path, text: str) -> None:
    """Write over an existing file in the space that it has; not atomic, so only for a disk without any other space."""
    with open(path, "r+b") as file:
        file.write(text.encode())
        file.truncate()


def make_private(folder: Path) -> None:
    """Make a directory that only this user can read and write, or take the access of others to it away."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
