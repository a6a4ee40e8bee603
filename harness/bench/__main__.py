"""The command. Heavy modules are imported when it runs: --help must be instant."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

EQUAL_ERROR_PROBLEMS = 5
"""Other networks, pictures and targets: what two libraries need for the same error differs from one to the next."""
WIDTH = 140
"""Of the tables in a log, where nobody says how wide it is."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def bench(
    output: Annotated[Path, typer.Option(metavar="JSON", help="Where to write the numbers.")] = Path("runs/bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is timed, in turns.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds, not minutes: small problems, few depths.")] = False,
) -> None:
    """Measure what one gradient costs: our methods, torchdeq's where it is installed, and plain loops.

    \b
    python -m harness.bench
    python -m harness.bench --quick --rounds 1
    """
    from rich.console import Console

    from harness.bench import report

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    results, sizes = run(quick, rounds, output.parent / "data")
    report.show(results, console)
    found = [asdict(claim) for claim in report.claims(results)]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**describe_run(rounds), **sizes, **asdict(results), "claims": found}, indent=2))
    console.print(f"Written to {output}")


def run(quick: bool, rounds: int, cache: Path) -> Any:
    """All experiments, and the sizes of their problems; decoded pictures are kept in `cache`."""
    import torch

    from harness.bench import depth, experiments, report
    from harness.bench.problem import Size, make_problem
    from harness.bench.warm_start import Length, warm_starts

    # Large enough for T to take most of the time: a smaller one measures how fast the machine calls torch.
    gradient_size = Size(2, 12, depth=3, width=8) if quick else Size(2, 96)
    equal_error_size = gradient_size if quick else Size(2, 48)
    forward_size = Size(2, 32) if quick else Size(8, 64)
    length = Length(pretraining=4, steps=16, seeds=1, test_images=2) if quick else Length()
    seeds = range(1 if quick else EQUAL_ERROR_PROBLEMS)
    depths = [2, 3, 4] if quick else [5, 15, 30, 60]
    # Pictures of 32 pixels are too small to share between threads.
    torch.set_num_threads(1)
    warm = warm_starts(length, cache)
    torch.set_num_threads(1 if quick else os.cpu_count() or 1)
    case, forward = make_problem(gradient_size), make_problem(forward_size)
    results = report.Results(
        depths=depths,
        depth_rows=depth.against_depth(case, depths, rounds),
        floor=depth.against_floor(case, depths, evaluations=20 if quick else 600),
        equal_error=experiments.at_equal_error([make_problem(equal_error_size, seed) for seed in seeds], rounds),
        forward=experiments.forward_solves(forward),
        invariances=[*experiments.forward_invariances(forward), *experiments.adjoint_invariances(case)],
        memory_format=experiments.memory_formats(case, rounds),
        warm_starts=warm,
        compiled=None if quick else experiments.compiled(case, rounds),
    )
    sizes = {
        "gradient_problem": asdict(gradient_size),
        "equal_error_problems": asdict(equal_error_size),
        "forward_problem": asdict(forward_size),
        "warm_start_problem": asdict(length),
    }
    return results, sizes


def describe_run(rounds: int) -> dict[str, Any]:
    """With what the numbers were made."""
    import torch

    from harness.bench import peers
    from harness.environment import git_state

    return {
        **git_state(),
        "torch": torch.__version__,
        peers.NAME: peers.installed(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }


if __name__ == "__main__":
    app()
