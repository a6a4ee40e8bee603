"""The bench command. Heavy modules are imported only when it runs, so that --help is instant."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.console import screen

EQUAL_ERROR_PROBLEMS = 5
"""Number of problems with different networks, pictures and targets, because the cost of equal error varies."""


def bench(
    output: Annotated[Path, typer.Option(metavar="JSON", help="File for the results.")] = Path("runs/bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Number of timing rounds.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="Take seconds, not minutes: small problems and few depths.")
    ] = False,
) -> None:
    """Measure the cost of one gradient: our methods, plain loops and, if installed, torchdeq.

    \b
    python -m harness bench
    python -m harness bench --quick --rounds 1
    """
    import torch

    from harness.commands.bench import report
    from harness.records.files import write_atomically

    # With two threads, every layer waits for whichever one other processes delay; with one thread, times repeat.
    torch.set_num_threads(1)
    console = screen()
    results, sizes = run(quick, rounds, output.parent / "data")
    report.show(results, console)
    found = [asdict(claim) for claim in report.claims(results)]
    numbers = {**describe_run(rounds), **sizes, **asdict(results), "claims": found}
    write_atomically(output, json.dumps(numbers, indent=2))
    console.print(f"Written to {output}")


def run(quick: bool, rounds: int, cache: Path) -> Any:
    """Run all experiments; return their results and the sizes of their problems. `cache` stores decoded pictures."""
    from rich.progress import track

    from harness.commands.bench import depth, experiments, report
    from harness.commands.bench.case import Size, make_case
    from harness.commands.bench.warm_start import Length, warm_starts

    # Large enough for T to dominate the time; a smaller problem would measure the overhead of calling PyTorch.
    gradient_size = Size(2, 12, depth=3, width=8) if quick else Size(2, 96)
    equal_error_size = gradient_size if quick else Size(2, 48)
    forward_size = Size(2, 32) if quick else Size(8, 64)
    length = Length(pretraining=4, steps=16, seeds=1, test_images=2) if quick else Length()
    seeds = range(1 if quick else EQUAL_ERROR_PROBLEMS)
    depths = [2, 3, 4] if quick else [5, 15, 30, 60]
    case, forward = make_case(gradient_size), make_case(forward_size)
    equal = [make_case(equal_error_size, seed) for seed in seeds]
    measurements: dict[str, Callable[[], Any]] = {
        "warm_starts": lambda: warm_starts(length, cache),
        "depth_rows": lambda: depth.against_depth(case, depths, rounds),
        "floor": lambda: depth.against_floor(case, depths, evaluations=20 if quick else 600),
        "equal_error": lambda: experiments.at_equal_error(equal, rounds),
        "forward": lambda: experiments.forward_solves(forward),
        "invariances": lambda: [*experiments.forward_invariances(forward), *experiments.adjoint_invariances(case)],
        "memory_format": lambda: experiments.memory_formats(case, rounds),
        "compiled": lambda: None if quick else experiments.compiled(case, rounds),
    }
    found = {name: measure() for name, measure in track(measurements.items(), "measuring")}
    sizes = {
        "gradient_problem": asdict(gradient_size),
        "equal_error_problems": asdict(equal_error_size),
        "forward_problem": asdict(forward_size),
        "warm_start_problem": asdict(length),
    }
    return report.Results(depths, **found), sizes


def describe_run(rounds: int) -> dict[str, Any]:
    """The code, versions and settings that produced the results."""
    import torch

    from harness.commands.bench import peers
    from harness.records.environment import git_state

    return {
        **git_state(),
        "torch": torch.__version__,
        peers.NAME: peers.installed(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
