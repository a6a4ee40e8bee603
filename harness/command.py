"""How every command line of the project ends; torch-free, and quick to import for `--help`."""

import sys
from collections.abc import Callable


def run_app(app: Callable[[], object]) -> None:
    """Run a command; a user's mistake is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        from harness.config import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
