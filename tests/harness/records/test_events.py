"""Attempts merge to a history in which every step stands once."""

import math
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from harness.records.events import (
    AnyEvent,
    Checkpoint,
    Contraction,
    End,
    Fidelity,
    GradientError,
    Start,
    Step,
    durable,
    merge,
    parse_lines,
)


def start(resumed_from: int) -> Start:
    return Start(time=0, resumed_from=resumed_from, environment={})


def step(number: int, loss: float = 0.0) -> Step:
    return Step(
        time=0, step=number, loss=loss, learning_rate=0, gradient_norm=0, nfe=0, nfe_imbalance=1, residual=0,
        diverged=[], adjoint_nfe=0, adjoint_residual=0, seconds={},
    )  # fmt: skip


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(time=0, step=number)


def steps_of(events: Sequence[AnyEvent]) -> list[int]:
    return [event.step for event in events if isinstance(event, Step)]


def test_what_was_computed_after_the_checkpoint_of_a_resume_is_dropped() -> None:
    killed = [start(0), step(1), step(2), checkpoint(2), step(3, loss=9)]
    resumed = [start(2), step(3, loss=1), step(4), checkpoint(4), End(time=0, seconds=1)]
    merged = merge([killed, resumed])
    assert steps_of(merged) == [1, 2, 3, 4]
    assert [event.loss for event in merged if isinstance(event, Step) and event.step == 3] == [1]


def test_an_attempt_from_scratch_supersedes_all_before() -> None:
    assert steps_of(merge([[start(0), step(1)], [start(0), step(1)]])) == [1]


def test_only_what_no_attempt_recomputes_is_durable() -> None:
    assert steps_of(durable([start(0), step(1), checkpoint(1), step(2)])) == [1]
    assert steps_of(durable([start(0), step(1)])) == []
    assert steps_of(durable([start(0), step(1), End(time=0, seconds=1)])) == [1]


def test_a_line_cut_off_by_a_power_failure_is_no_event() -> None:
    lines = [event.model_dump_json() + "\n" for event in (start(0), step(1))]
    assert steps_of(parse_lines([*lines, lines[1][:20]])) == [1]


def test_measurements_are_read_as_they_were_written() -> None:
    contraction = Contraction(
        time=0, step=4, indices=[7], norm=[1.2], spectral_radius=[1.17], dominant_eigenvalue=[-1.17],
        dominant_imaginary=[0.0], eigenvalue_residual=[1e-3], psnr_at={8: 33.9, 80: 9.8},
        residual_at={8: 1e-3, 80: math.inf},
    )  # fmt: skip
    error = GradientError(cosine=0.8, relative_error=math.inf, norm_ratio=0.5, evaluations=2, products=1)
    fidelity = Fidelity(
        time=0, step=4, status="measured", indices=[7, 8], left_out=[8], forward_residual=1e-11, adjoint_residual=None,
        methods={"as trained": error},
    )  # fmt: skip
    events = [contraction, fidelity]
    assert parse_lines([event.model_dump_json() + "\n" for event in events]) == events


@given(st.lists(st.integers(1, 7), max_size=6), st.integers(1, 3), st.booleans())
def test_however_often_it_is_killed_each_step_stands_once(kills: list[int], every: int, early: bool) -> None:
    """Run 20 steps with checkpoints every `every`; attempt k is killed after kills[k] steps.

    `early`: where that is just after a checkpoint, before the record says so.
    """
    attempts: list[list[AnyEvent]] = []
    saved = 0
    for survived in [*kills, 20]:
        events: list[AnyEvent] = [start(saved)]
        for number in range(saved + 1, min(saved + survived, 20) + 1):
            events.append(step(number))
            if number % every == 0 or number == 20:
                events.append(checkpoint(number))
                saved = number
        killed_early = early and survived != 20 and isinstance(events[-1], Checkpoint)
        attempts.append(events[:-1] if killed_early else events)
    merged = merge(attempts)
    assert steps_of(merged) == list(range(1, 21))
    assert all(steps_of(durable(merge(attempts[:k]))) == steps_of(merged)[: len(steps_of(durable(merge(attempts[:k]))))]
               for k in range(len(attempts)))  # fmt: skip
    assert all(a < b for a, b in pairwise(steps_of(merged)))
