"""How every command line of the project ends; torch-free, and quick to import for `--help`."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160
"""Characters a line where there is no terminal to ask; 80, which rich takes, breaks the names of cells."""


def screen() -> "Console":
    """Where a command prints its tables: as wide as the terminal, if there is one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def run_app(app: Callable[[], object]) -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        from harness.config.errors import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
