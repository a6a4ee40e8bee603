"""Shared console and error handling of the project's command lines; free of torch."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harness.records.check import Check

TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="PACKAGE", help="A package whose classes a cell may name and run; repeatable."),
]
PIPED_WIDTH = 160
"""Characters per line if the output is not a terminal; rich's default of 80 would break the names of cells."""


def screen() -> "Console":
    """The console to which a command prints its tables, as wide as the terminal if there is one."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def command_line(help: str, completion: bool = False) -> typer.Typer:
    """An application without commands; `completion` adds options that install shell completion."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help=help,
    )
    app.callback()(_options)
    return app


def report_checks(checks: "Iterable[Check]") -> bool:
    """Print each check as soon as it is made, and return whether all passed."""
    sound = True
    for check in checks:
        print(f"{'ok ' if check.passed else 'BAD'} {check.said}", flush=True)
        sound = sound and check.passed
    return sound


def report_damage(lines: Iterable[str]) -> bool:
    """Print what is damaged on standard error, and return whether anything is."""
    found = list(lines)
    for line in found:
        print(f"damaged: {line}", file=sys.stderr)
    return bool(found)


def run_app(app: Callable[[], object]) -> None:
    """Run a command; report a user's mistake in one line, with exit code 2.

    What the command and the jobs that it starts write, other users cannot change, whatever the umask of the shell.
    """
    os.umask(os.umask(0) | 0o022)
    try:
        app()
    except ValueError as error:
        from harness.config.errors import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"jfbench {version('jfbench')}")
    except PackageNotFoundError:
        print("jfbench: unknown version, because it is not installed")
    raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Define the options that every command line has."""
