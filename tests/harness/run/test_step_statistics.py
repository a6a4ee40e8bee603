"""The statistics of a step leave the device in one copy."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.implicit.solvers import Solution, Status
from harness.run import train_cell
from harness.run.combined_steps import _rank_numbers


class Reads(TorchDispatchMode):
    """Counts scalars that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.scalars += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def solution(residual: list[float], nfe: list[int], status: list[Status]) -> Solution:
    return Solution(torch.zeros(3, 1), torch.tensor(residual), torch.tensor(nfe), torch.tensor(status))


def step(adjoint: list[Solution]) -> Any:
    forward = solution([0.5, 2.0, 0.25], [3, 4, 8], [Status.CONVERGED, Status.DIVERGED, Status.MAX_STEPS])
    return SimpleNamespace(
        loss=torch.tensor(0.1), penalty=torch.zeros(()), batch=SimpleNamespace(indices=[7, 8, 9]),
        output=SimpleNamespace(forward=forward, adjoint=adjoint),
    )  # fmt: skip


def test_the_numbers_of_a_step_are_those_of_its_solves_and_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    whole = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> object:
        copies.append(tensor.numel())
        return whole(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    adjoint = solution([0.125, 0.5, 1.5], [2, 2, 5], [Status.CONVERGED, Status.CONVERGED, Status.DIVERGED])
    with Reads() as reads:
        numbers, names, counts = _rank_numbers(step([adjoint]))
    assert (copies, reads.scalars) == ([20], 0)
    assert names == [8, 9]
    assert counts == [3, 4, 8, 2, 2, 5], "the evaluations of each sample, then its products"
    assert numbers == {
        "loss": pytest.approx(0.1), "penalty": 0, "nfe": 5, "busiest": 13, "residual": 2, "adjoint_nfe": 3,
        "adjoint_residual": 1.5, "unconverged": pytest.approx(1 / 3), "adjoint_unconverged": 0, "has_tolerance": 1,
        "diverged": 2,
    }  # fmt: skip
    without, _, counts = _rank_numbers(step([]))
    assert counts == [3, 4, 8]
    assert [without[name] for name in ("busiest", "adjoint_nfe", "adjoint_residual", "has_tolerance")] == [8, 0, 0, 0]


def test_the_numbers_of_all_ranks_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_cell.gather.__globals__["dist"], "get_world_size", lambda: 4)
    monkeypatch.setattr(
        train_cell.gather.__globals__["dist"], "all_gather", lambda rows, mine: [r.copy_(mine) for r in rows]
    )
    copies: list[int] = []
    whole = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: copies.append(tensor.numel()) or whole(tensor))
    assert train_cell.gather([1.0, 2.0], torch.device("cpu")) == [[1.0, 2.0]] * 4
    assert copies == [8]
