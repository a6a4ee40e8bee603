"""The `harness` command line. Each command imports heavy modules when it runs: --help must be instant."""

import typer

from harness.commands.bench.command import bench
from harness.commands.console import run_app
from harness.commands.reconstruct import reconstruct
from harness.commands.score import score

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Restore pictures with a trained cell, score cells again, and measure what one gradient costs.",
)
for command in (reconstruct, score, bench):
    app.command()(command)

if __name__ == "__main__":
    run_app(app)
