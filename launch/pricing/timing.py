"""How long the parts of a cell take, read from its record, so that a short training can predict a long one.

Cells have the same shape if a training step, an evaluation and everything else they do takes equally long in both. That
is so if all fields agree except the seed, the optimizer, the schedule, the clipping of the gradient, the pretraining of
the denoiser, the search by which the cell is tuned, and the fields that say how many times something is done. The
latter include the number of test pictures, if a training cell sets it.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.config.catalog.backprop import Jfb
from harness.config.cells import BaselineCell, Cell, PretrainCell, TimingCell, TrainCell
from harness.records.events import AnyEvent, Checkpoint, Evaluation, Fidelity, Round, Start, Step

SHAPELESS = (
    "seed", "optimizer", "schedule", "gradient_clip", "operations", "pretraining", "steps", "warm_up", "evaluate_every",
    "tune",
)  # fmt: skip
TEST_PICTURE = "test picture"
"""One test picture, scored before and after training. If a cell requests more than exist, each counts for several."""


@dataclass(frozen=True)
class Course:
    """Which training steps take longer than others."""

    warm_up: int = 0
    """The number of initial steps, which use a cheaper gradient."""
    batches: int = 1
    """Batches in the pool, which take turns."""
    refresh_every: int = 1
    """Visits to one batch before another replaces it."""

    @staticmethod
    def of(cell: Cell) -> "Course":
        """The course of a cell's training; without a pool, each step has a new batch."""
        if not isinstance(cell, TrainCell):
            return Course()
        warm_up = 0 if isinstance(cell.backprop, Jfb) else cell.active_warm_up
        pool = cell.active_pool
        return Course(warm_up, pool.size // cell.global_batch_size, pool.refresh_every) if pool else Course(warm_up)

    def kind(self, step: int) -> str:
        """The kind of a step, counted from 0: in the warm-up or not, and with a new batch or one visited before.

        A new batch is solved in full, which takes longer.
        """
        visit, batch = divmod(step, self.batches)
        is_new = visit == 0 or (visit + batch) % self.refresh_every == 0
        return f"step{' of warm-up' if step < self.warm_up else ''}{' with a new batch' if is_new else ''}"


@dataclass(frozen=True)
class Shape:
    """What determines how long a cell takes."""

    fields: str
    """The fields that determine how long each part takes, as JSON."""
    counts: tuple[tuple[str, int], ...]
    """How many times the cell does each part of which a longer training has more."""

    @staticmethod
    def of(cell: Cell) -> "Shape":
        """The shape of a cell."""
        return Shape(_fields(cell), tuple(sorted(_counts(cell).items())))


@dataclass(frozen=True)
class Timing:
    """How long the parts of one cell took."""

    each: dict[str, float]
    """Mean seconds of each part of which a longer training has more."""
    rest: float
    """Seconds of everything else, including the extra time that a part takes when it is done for the first time."""

    @staticmethod
    def of(cell: Cell, events: Iterable[AnyEvent]) -> "Timing":
        """Read the timing of a finished cell from its merged record: an event took the time since the previous one."""
        course, counted, before, total = Course.of(cell), _counts(cell), 0.0, 0.0
        took: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for event in events:
            seconds = 0.0 if isinstance(event, Start) else event.time - before
            before, total = event.time, total + seconds
            kind = _kind(event, course)
            if kind in counted:
                took[kind].append((seconds, counted[kind] // 2 if kind == TEST_PICTURE else 1))
        each = {kind: _mean(parts[1:] or parts) for kind, parts in took.items()}
        return Timing(each, total - sum(each[kind] * count for kind, parts in took.items() for _, count in parts))

    def seconds(self, shape: Shape) -> float:
        """Expected wall time of a cell with the same fields; a kind of step not seen here counts as the slowest one."""
        slowest = max((seconds for kind, seconds in self.each.items() if kind.startswith("step")), default=0.0)
        return self.rest + sum(count * self.each.get(kind, slowest) for kind, count in shape.counts)


def _fields(cell: Cell) -> str:
    fields = cell.to_json()
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in SHAPELESS}
    data = set(cell.data.location_fields) | ({"test_images"} if TEST_PICTURE in _counts(cell) else set())
    for part, names in (("data", data), ("pool", {"refresh_every"}), ("fidelity", {"every"})):
        if kept.get(part):
            kept[part] = {name: value for name, value in kept[part].items() if name not in names}
    if isinstance(cell, TimingCell):
        # Rounds before the timed ones are not recorded, so cells with another warm-up are of another shape.
        kept |= {"methods": [method["backprop"] for method in fields["methods"]], "warm_up": cell.warm_up}
    return json.dumps(kept, sort_keys=True)


def _counts(cell: Cell) -> Counter[str]:
    if isinstance(cell, BaselineCell):
        return Counter()
    if isinstance(cell, TimingCell):
        return Counter({"round": cell.steps})
    steps = cell.pretraining.steps if isinstance(cell, PretrainCell) else cell.steps
    counts = Counter(_steps(Course.of(cell), steps))
    counts["checkpoint"] = math.ceil(steps / cell.operations.checkpoint_every)
    counts["validation"] = 2
    if isinstance(cell, TrainCell):
        counts["validation"] = 1 + math.ceil(steps / cell.evaluate_every)
        if cell.data.test_images:
            counts[TEST_PICTURE] = 2 * cell.data.test_images
        if cell.fidelity:
            counts["fidelity"] = 2 + ((steps - 1) // cell.fidelity.every if cell.fidelity.every else 0)
    return counts


@lru_cache(maxsize=1024)
def _steps(course: Course, steps: int) -> Counter[str]:
    """The number of steps of each kind. After the first visits to the pool, kinds repeat with its period."""
    warm_up, period = min(course.warm_up, steps), course.batches * course.refresh_every
    return _counted(course, range(warm_up), period) + _counted(course, range(warm_up, steps), period)


def _counted(course: Course, steps: range, period: int) -> Counter[str]:
    first = steps[: course.batches]  # as many steps as the first visits take, in case they are among these
    turns, rest = divmod(len(steps) - len(first), period)
    begin = first.stop
    counts = Counter(map(course.kind, [*first, *range(begin, begin + rest)]))
    for kind, count in Counter(map(course.kind, range(begin, begin + period) if turns else ())).items():
        counts[kind] += turns * count
    return counts


def _kind(event: AnyEvent, course: Course) -> str:
    """The part that an event belongs to, if a longer training has more of it; otherwise empty."""
    match event:
        case Round():
            return "round"
        case Step():
            return course.kind(event.step - 1)
        case Evaluation(split="validation"):
            return "validation"
        case Evaluation(split="test"):
            return TEST_PICTURE
        case Checkpoint():
            return "checkpoint"
        case Fidelity():
            return "fidelity"
    return ""


def _mean(parts: list[tuple[float, int]]) -> float:
    return sum(seconds for seconds, _ in parts) / sum(count for _, count in parts)
