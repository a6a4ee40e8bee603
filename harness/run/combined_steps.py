"""Combines the training steps of all ranks into one."""

import time
from collections.abc import Iterator
from itertools import chain

import torch

from harness.implicit.solvers import Solution, Status
from harness.measure.step_time import with_waiting
from harness.records.events import Step
from harness.run.attempt import Attempt
from harness.run.distributed import gather, gather_values
from harness.training.loop import LocalStep


def combined_steps(attempt: Attempt, steps: Iterator[LocalStep]) -> Iterator[tuple[Step, bool]]:
    """Yield each step's results combined over all ranks, and whether any rank was asked to stop.

    This costs small gathers per step, after the step's own synchronization.
    """
    for local in steps:
        numbers, names = _rank_numbers(local)
        everyone = gather([float(bool(attempt.stop())), *numbers.values(), *local.seconds.values()], attempt.device)
        stopping = any(row[0] for row in everyone)
        columns = list(zip(*everyone, strict=True))[1:]
        ranks = dict(zip([*numbers, *local.seconds], columns, strict=True))
        diverged = gather_values(names, attempt.device) if any(ranks.pop("diverged")) else [[]]
        busiest = ranks.pop("busiest")
        yield (
            Step(
                time=time.time(),
                step=local.step,
                loss=_mean(ranks["loss"]),
                penalty=_mean(ranks["penalty"]),
                learning_rate=local.learning_rate,
                gradient_norm=local.gradient_norm,
                nfe=_mean(ranks["nfe"]),
                nfe_imbalance=max(busiest) / _mean(busiest),
                residual=max(ranks["residual"]),
                diverged=sorted(chain(*diverged)),
                adjoint_nfe=_mean(ranks["adjoint_nfe"]),
                adjoint_residual=max(ranks["adjoint_residual"]),
                unconverged=_mean(ranks["unconverged"]),
                adjoint_unconverged=_mean(ranks["adjoint_unconverged"]) if min(ranks["has_tolerance"]) else None,
                seconds=with_waiting({phase: ranks[phase] for phase in local.seconds}),
                updated=local.updated,
                evaluations=_of_each_sample([local.output.forward], attempt.device),
                products=_of_each_sample(local.output.adjoint, attempt.device),
            ),
            stopping,
        )


def _rank_numbers(local: LocalStep) -> tuple[dict[str, float], list[int]]:
    """One rank's numbers for a step, and the indices of its diverged pictures."""
    forward, adjoint = local.output.forward, local.output.adjoint
    failed = forward.status == Status.DIVERGED
    for solution in adjoint:
        failed = failed | (solution.status == Status.DIVERGED)
    names = [index for index, bad in zip(local.batch.indices, failed.tolist(), strict=True) if bad]
    numbers = {
        "loss": local.loss,
        "penalty": local.penalty,
        "nfe": float(forward.nfe.double().mean()),
        "busiest": float(forward.nfe.max() + sum(solution.nfe.max() for solution in adjoint)),
        "residual": float(forward.residual.max()),
        "adjoint_nfe": sum(float(solution.nfe.double().mean()) for solution in adjoint),
        "adjoint_residual": max((float(solution.residual.max()) for solution in adjoint), default=0.0),
        "unconverged": _share(forward),
        "adjoint_unconverged": max((_share(solution) for solution in adjoint), default=0.0),
        "has_tolerance": float(any(bool((solution.status != Status.FIXED_STEPS).any()) for solution in adjoint)),
        "diverged": float(len(names)),
    }
    return numbers, names


def _of_each_sample(solves: list[Solution], device: torch.device) -> tuple[int, ...]:
    """What these solves needed for each sample of the global batch, in rank order; empty without a solve."""
    mine = [sum(counts) for counts in zip(*(solution.nfe.tolist() for solution in solves), strict=True)]
    return tuple(int(count) for row in gather(mine, device) for count in row) if solves else ()


def _share(solution: Solution) -> float:
    """The share of samples that ended at the largest number of steps."""
    return float((solution.status == Status.MAX_STEPS).double().mean())


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
