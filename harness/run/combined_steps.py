"""Combines the training steps of all ranks into one."""

import time
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from harness.implicit.solvers import Solution, Status
from harness.measure.step_time import with_waiting
from harness.records.events import Step
from harness.run.attempt import Attempt
from harness.run.distributed import gather, gather_values
from harness.training.loop import LocalStep


def combined_steps(attempt: Attempt, steps: Iterator[LocalStep]) -> Iterator[tuple[Step, bool]]:
    """Yield each step's results combined over all ranks, and whether any rank was asked to stop.

    This costs one small gather per step, after the step's own synchronization.
    """
    for local in steps:
        numbers, names, counts = _rank_numbers(local)
        mine = [float(bool(attempt.stop())), *numbers.values(), *local.seconds.values()]
        everyone = gather([*mine, *counts], attempt.device)
        samples = [row[len(mine) :] for row in everyone]
        everyone = [row[: len(mine)] for row in everyone]
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
                evaluations=tuple(int(count) for rank in samples for count in rank[: len(local.batch.indices)]),
                products=tuple(int(count) for rank in samples for count in rank[len(local.batch.indices) :]),
            ),
            stopping,
        )


def _rank_numbers(local: LocalStep) -> tuple[dict[str, float], list[int], list[float]]:
    """One rank's numbers for a step, the indices of its diverged pictures, and what each sample needed.

    The last are the evaluations of every sample, followed by its products if the adjoint equation was solved. All leave
    the device in one copy.
    """
    forward, adjoint = local.output.forward, local.output.adjoint
    zero = torch.zeros((), dtype=torch.float64, device=forward.nfe.device)
    failed = forward.status == Status.DIVERGED
    for solution in adjoint:
        failed = failed | (solution.status == Status.DIVERGED)
    numbers = {
        "loss": local.loss,
        "penalty": local.penalty.to(zero.device),
        "nfe": forward.nfe.double().mean(),
        "busiest": sum((solution.nfe.max() for solution in adjoint), forward.nfe.max()),
        "residual": forward.residual.max(),
        "adjoint_nfe": sum((solution.nfe.double().mean() for solution in adjoint), zero),
        "adjoint_residual": _largest(zero, [solution.residual.max() for solution in adjoint]),
        "unconverged": _share(forward),
        "adjoint_unconverged": _largest(zero, [_share(solution) for solution in adjoint]),
        "has_tolerance": _largest(zero, [(solution.status != Status.FIXED_STEPS).any() for solution in adjoint]),
        "diverged": failed.sum(),
    }
    products = [torch.stack([solution.nfe for solution in adjoint]).sum(0)] if adjoint else []
    parts = [torch.stack([number.double() for number in numbers.values()]), failed, forward.nfe, *products]
    copied = torch.cat([part.double() for part in parts]).tolist()
    flags, counts = copied[len(numbers) :][: len(failed)], copied[len(numbers) + len(failed) :]
    names = [index for index, bad in zip(local.batch.indices, flags, strict=True) if bad]
    return dict(zip(numbers, copied, strict=False)), names, counts


def _largest(zero: Tensor, found: list[Tensor]) -> Tensor:
    """The largest of these scalars; zero if there is none."""
    return torch.stack([one.double() for one in found]).max() if found else zero


def _share(solution: Solution) -> Tensor:
    """The share of samples that ended at the largest number of steps, a scalar."""
    return (solution.status == Status.MAX_STEPS).double().mean()


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
