"""Where the time of a training step goes on each rank, with waiting for other ranks as a phase of its own."""

from collections.abc import Mapping, Sequence

BEFORE_SYNCHRONIZATION = ("data", "forward_solve", "adjoint_solve", "parameter_gradient")
"""The phases in which a rank works alone, before the ranks' gradients are reduced."""


def with_waiting(phases: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Split each rank's gradient synchronization into waiting for slower ranks and communication.

    `phases` maps each phase to the seconds that it took on each rank. All ranks enter a step together, because the
    step before ended in a collective. So a rank waits until the slowest one has done the work that comes before the
    synchronization, and the rest of its synchronization is communication. No rank's total changes.
    """
    split = {phase: list(seconds) for phase, seconds in phases.items()}
    ranks = range(len(next(iter(split.values()), [])))
    synchronization = split.get("gradient_synchronization", [0.0 for _ in ranks])
    alone = [sum(split[phase][rank] for phase in BEFORE_SYNCHRONIZATION if phase in split) for rank in ranks]
    latest = max(alone, default=0.0)
    waiting = [min(synchronization[rank], latest - alone[rank]) for rank in ranks]
    split["gradient_synchronization"] = [synchronization[rank] - waiting[rank] for rank in ranks]
    return {**split, "waiting": waiting}
