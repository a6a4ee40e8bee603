"""The console script `jfbench`: all three command lines in one, for use outside a clone and for shell completion."""

import os
import sys

from analysis.__main__ import app as analysis_app
from harness.__main__ import app as harness_app
from harness.commands.console import command_line, run_app
from launch.__main__ import app as launch_app

app = command_line("Compare ways of backpropagating through implicit networks.", completion=True)
app.add_typer(launch_app, name="launch")
app.add_typer(harness_app, name="harness")
app.add_typer(analysis_app, name="analysis")


def main() -> None:
    """Run `jfbench launch|harness|analysis COMMAND`; like `python -m`, finds modules in the working directory."""
    sys.path.append(os.getcwd())
    run_app(app)
