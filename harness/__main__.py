"""The `harness` command line. Each command imports heavy modules when it runs: --help must be instant."""

from harness.commands.bench.command import bench
from harness.commands.console import command_line, run_app
from harness.commands.fixed_points import fixed_points
from harness.commands.reconstruct import reconstruct
from harness.commands.score import score

app = command_line("Restore pictures with a trained cell, score cells again, and measure what one gradient costs.")
for command in (reconstruct, score, fixed_points, bench):
    app.command()(command)

if __name__ == "__main__":
    run_app(app)
