"""Grids that look like finished ones, written through the real directories and records; nothing here imports torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from harness.config.cells import BaselineCell, Cell, PretrainCell, TimingCell, TrainCell
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.events import (
    AnyEvent,
    Checkpoint,
    Contraction,
    End,
    Evaluation,
    Exposure,
    Fidelity,
    GradientError,
    Probe,
    Round,
    Search,
    Start,
    Step,
)
from launch.planning.grid import plan, read_grid
from launch.planning.overrides import override, parse_assignment
from launch.planning.runs_folder import Runs

PICTURES = {"validation": range(20, 26), "test": range(30, 38)}
BASELINES = {
    "degraded": 24.8,
    "direct-inverse": 5.5,
    "gradient-descent": 29.4,
    "tikhonov": 28.9,
    "total-variation": 34.0,
}
TUNED = {"gradient-descent": "iterations", "tikhonov": "weight", "total-variation": "weight"}
MODELS = {"de-grad": 33.9, "de-prox": 33.4, "de-admm": 33.1, "de-hqs": 34.6, "feed-forward": 33.0}
TOL = 1e-4
"""Above it a solve counts as unconverged."""
SECONDS = 12.0
"""Wall time of every cell."""
ENVIRONMENT = {"git_commit": "a" * 40, "git_dirty": False, "device": "cpu", "host": "node1", "version_torch": "2.13.0"}


@dataclass
class Fake:
    """How one made-up cell is to turn out."""

    psnr: float
    """Mean over the test pictures."""
    start_psnr: float = 32.0
    state: str = "finished"
    message: str = ""
    seconds: float = 0.1
    """Of a step's forward solve, the other phases being small."""
    residual: float = 5e-5
    legacy_psnr: float | None = None
    """Of every picture; by default 6.02 dB less than the standard one."""
    diverged: list[int] = field(default_factory=list)
    interior: bool = True
    eigenvalue: float = 0.97
    """Dominant eigenvalue of the trained map."""
    eigenvalue_residual: float = 1e-2
    """Of that, relative to it."""
    cut: float = 0.0
    """Share of the adjoint solves that ended at their limit."""
    drift: float = 0.0
    """Decibels gained from the training depth to ten times that."""
    fidelity: bool = True
    """Whether the reference gradient converged."""
    environment: Mapping[str, Any] = field(default_factory=lambda: dict(ENVIRONMENT))


def default(cell: Cell) -> Fake:
    """A plausible outcome."""
    if isinstance(cell, TrainCell):
        jfb = cell.backprop.name == "jfb"
        psnr = MODELS[cell.model.name] + (0 if jfb else 0.3) + 0.1 * cell.seed
        return Fake(psnr, seconds=0.1 if jfb else 0.25)
    return Fake(BASELINES[cell.baseline.name] if isinstance(cell, BaselineCell) else 36.0)


Change = Callable[[Cell, Fake], None]


def make(runs: Runs, *overrides: str, change: Change = lambda cell, fake: None) -> Runs:
    """A launched `demo` grid whose cells turned out as `default` says and `change` alters."""
    grid = override(read_grid("demo"), map(parse_assignment, ("warm_up=0", *overrides)))
    cells = plan(grid)
    runs.write_plan(grid, cells)
    for cell in cells:
        fake = default(cell)
        change(cell, fake)
        if fake.state != "planned":
            write(runs.cell(cell.cell_id), cell, fake)
    return runs


def write(folder: CellFolder, cell: Cell, fake: Fake) -> None:
    """One attempt at a cell."""
    steps = training_steps(cell)
    append(folder, events(cell, fake, steps))
    status = {"state": fake.state, "step": steps, "steps": steps, "attempt": 0, "message": fake.message}
    status["seconds"] = SECONDS
    folder.write_status(CellStatus.model_validate(status))
    if fake.state == "finished" and isinstance(cell, TrainCell | BaselineCell):
        draw(folder, fake)


def training_steps(cell: Cell) -> int:
    """0 for a baseline."""
    if isinstance(cell, TrainCell):
        return cell.steps
    if isinstance(cell, TimingCell):
        return cell.rounds
    return cell.pretraining.steps if isinstance(cell, PretrainCell) else 0


def append(folder: CellFolder, record: list[AnyEvent]) -> None:
    """A new attempt with this record."""
    with folder.open_record(folder.new_attempt()) as lines:
        lines.writelines(event.model_dump_json() + "\n" for event in record)


def events(cell: Cell, fake: Fake, steps: int) -> list[AnyEvent]:
    """The record of a cell that ran through."""
    record: list[AnyEvent] = [Start(time=0.0, resumed_from=0, environment=dict(fake.environment))]
    if isinstance(cell, TimingCell):
        return [*record, *rounds(cell, fake), End(time=2.0, seconds=SECONDS)]
    if isinstance(cell, BaselineCell):
        record += search(cell, fake)
    if steps:
        record.append(evaluation("validation", 0, fake.start_psnr, fake))
    if isinstance(cell, TrainCell):
        record.append(evaluation("test", 0, fake.start_psnr, fake))
        record += [contraction(0, fake), fidelity(0, fake)]
    record += [step(number, steps, fake, cell) for number in range(1, steps + 1)]
    for number in range(50, steps, 50) if isinstance(cell, TrainCell) else ():
        reached = fake.start_psnr + (fake.psnr - fake.start_psnr) * number / steps
        record.append(evaluation("validation", number, reached, fake))
    record.append(evaluation("validation", steps, fake.psnr, fake))
    if isinstance(cell, TrainCell):
        record += [contraction(steps, fake), fidelity(steps, fake)]
    if steps:
        record.append(Checkpoint(time=1.0, step=steps))
    if fake.state != "finished":
        return record
    if not isinstance(cell, PretrainCell):
        record.append(evaluation("test", steps, fake.psnr, fake))
    if isinstance(cell, TrainCell):
        record.append(probe(steps, fake))
        record.append(Exposure(time=1.0, step=steps, distinct_pictures=40, noise_draws=48))
    return [*record, End(time=2.0, seconds=SECONDS)]


def evaluation(split: Any, number: int, psnr: float, fake: Fake) -> Evaluation:
    """Scores that differ from picture to picture alike for all methods, and by a little in their own way."""
    pictures = list(PICTURES[split])
    own = np.random.default_rng([number, round(psnr * 1e6)]).normal(0, 0.05, len(pictures))
    scores = psnr + np.linspace(-3, 3, len(pictures)) + own - own.mean()
    return Evaluation(
        time=1.0,
        step=number,
        split=split,
        indices=pictures,
        scores={
            "psnr": scores.tolist(),
            "ssim": (scores / 40).clip(0, 1).tolist(),
            "legacy_psnr": (scores - 6.02).tolist() if fake.legacy_psnr is None else [fake.legacy_psnr] * len(pictures),
        },
        nfe=[20.0] * len(pictures),
        residual=[fake.residual] * len(pictures),
        unit_residual=[fake.residual / 0.45] * len(pictures),
        unconverged=pictures if number and fake.residual > TOL else [],
        diverged=fake.diverged if number else [],
    )


def step(number: int, steps: int, fake: Fake, cell: Cell) -> Step:
    """A training step; the first ones are slow."""
    noise = np.random.default_rng([number, round(fake.psnr * 1e6)])
    warming = 5.0 if number <= 3 else 1.0
    implicit = isinstance(cell, TrainCell) and cell.backprop.name == "implicit"
    forward = fake.seconds * warming * float(noise.uniform(0.95, 1.15))
    return Step(
        time=1.0,
        step=number,
        loss=float(0.004 * np.exp(-2 * number / steps) * noise.lognormal(0, 0.25)),
        learning_rate=1e-3 * (1 - number / steps),
        gradient_norm=0.1,
        nfe=20.0,
        nfe_imbalance=1.1,
        residual=fake.residual,
        diverged=[],
        adjoint_nfe=18.0 if implicit else 0.0,
        adjoint_residual=0.0,
        adjoint_unconverged=fake.cut if implicit else None,
        seconds={"data": [0.002], "forward_solve": [forward], "parameter_gradient": [0.06], "optimizer": [0.003]}
        | ({"adjoint_solve": [0.12]} if implicit else {}),
    )


def rounds(cell: TimingCell, fake: Fake) -> list[Round]:
    """The timed rounds: each method's step takes as long as in its training, by default."""
    fakes = {name: default(training) for name, training in cell.trainings.items()}
    for one in fakes.values():
        one.cut = fake.cut
    return [
        Round(
            time=1.0,
            step=number,
            steps={name: step(number, cell.rounds, fakes[name], one) for name, one in cell.trainings.items()},
        )
        for number in range(cell.untimed + 1, cell.rounds + 1)
    ]


def contraction(number: int, fake: Fake) -> Contraction:
    """Two pictures, the second of which contracts better; iterated past the training depth only when trained."""
    radius = abs(fake.eigenvalue)
    return Contraction(
        time=1.0,
        step=number,
        indices=[20, 21],
        norm=[1.1, 1.05],
        spectral_radius=[radius, radius - 0.1],
        dominant_eigenvalue=[fake.eigenvalue, fake.eigenvalue * 0.8],
        dominant_imaginary=[0.0, 0.01],
        eigenvalue_residual=[fake.eigenvalue_residual, 2e-2],
        psnr_at={25: fake.psnr, 50: fake.psnr, 250: fake.psnr + fake.drift} if number else {},
        psnr_moved=[0.004, -0.006] if number else [],
        residual_at={25: 1e-2, 50: 1e-3, 250: math.inf if fake.drift < -10 else 1e-4} if number else {},
    )


ERRORS = {"jfb": (0.9, 3e-1, 1), "neumann": (0.99, 1e-1, 6), "implicit-tight": (1.0, 1e-9, 90)}
"""Cosine, relative error and products."""


def fidelity(number: int, fake: Fake) -> Fidelity:
    """A few gradients, one of which overflowed."""
    known = {
        name: GradientError(cosine=cosine, relative_error=error, norm_ratio=0.8, evaluations=2, products=products)
        for name, (cosine, error, products) in ERRORS.items()
    }
    broken = GradientError(cosine=math.nan, relative_error=math.nan, norm_ratio=math.nan, evaluations=25, products=25)
    return Fidelity(
        time=1.0,
        step=number,
        status="measured" if fake.fidelity else "no converged reference",
        indices=[20, 21],
        left_out=[21],
        forward_residual=9e-11 if fake.fidelity else 1e-6,
        adjoint_residual=8e-11 if fake.fidelity else None,
        methods={**known, "unrolled": broken} if fake.fidelity else {},
        pictures={name: [error] for name, error in {**known, "unrolled": broken}.items()} if fake.fidelity else {},
        dominant_eigenvalue=[fake.eigenvalue] if fake.fidelity else [],
        spectral_radius=[abs(fake.eigenvalue)] if fake.fidelity else [],
    )


def probe(number: int, fake: Fake) -> Probe:
    """The cost of one gradient."""
    return Probe(
        time=1.0,
        step=number,
        peak_allocated_bytes=round(60e6 + fake.seconds * 1e8),
        saved_bytes=round(9e6 + fake.seconds * 1e7),
        flops=round(fake.seconds * 1e11),
        seconds=fake.seconds,
        seconds_spread=0.01,
        exposed_communication=0.004,
        gradient_bytes=118036,
    )


def search(cell: BaselineCell, fake: Fake) -> list[AnyEvent]:
    """The search of a baseline that has a parameter."""
    if cell.baseline.name not in TUNED:
        return []
    candidates, scores = [0.01, 0.02, 0.04, 0.08], [20.0, 24.0, 23.0, 21.0] if fake.interior else [20.0, 22, 24, 26]
    chosen = candidates[int(np.argmax(scores))]
    parameter = TUNED[cell.baseline.name]
    found = {"parameter": parameter, "candidates": candidates, "psnr": scores, "chosen": chosen}
    return [Search.model_validate({"time": 0.5, "interior": fake.interior, **found})]


def draw(folder: CellFolder, fake: Fake) -> None:
    """Two reconstructed pictures and their truths."""
    folder.reconstructions.mkdir(parents=True, exist_ok=True)
    across, down = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 64))
    for index in (30, 31):
        truth = np.stack([across, down, (across * index) % 255], axis=-1)
        noise = np.random.default_rng(index).normal(0, 255 * 10 ** (-fake.psnr / 20), truth.shape)
        for kind, pixels in (("truth", truth), ("output", truth + noise)):
            path = folder.reconstructions / f"{index:06d}-{kind}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
