"""Records count the evaluations and products of each sample."""

from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.implicit.solvers import Solution
from harness.records.events import Step
from harness.run import combined_steps
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from harness.training.loop import LocalStep
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

FIELDS: dict[str, Any] = {
    "model": "de-hqs", "backprop": "implicit", "warm_up": 1,
    "solver": {"name": "anderson", "tol": 1e-3, "max_steps": 20},
}  # fmt: skip


def test_counts_of_a_record_are_those_that_its_means_are_made_of(runs: Runs) -> None:
    cell = tiny_cell(**FIELDS)
    for one in (*cell.prerequisites, cell):
        runs.cell(one.cell_id).plan(one)
        run_cell(runs.cell(one.cell_id).path, RankPosition.from_environment())
    steps = [event for event in runs.cell(cell.cell_id).events() if isinstance(event, Step)]
    for step in steps:
        assert len(step.evaluations) == 6
        assert fmean(step.evaluations) == pytest.approx(step.nfe)
        assert fmean(step.products or [0]) == pytest.approx(step.adjoint_nfe)
    assert [len(step.products) for step in steps] == [0, 6, 6, 6], "the warm-up solves no adjoint"
    assert len(set(steps[-1].evaluations)) > 1, "this cell is to have samples that take differently long"


def test_samples_are_in_rank_order_and_solves_of_a_sample_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second rank with the same batch, whose numbers are ten times as large."""
    monkeypatch.setattr(combined_steps, "gather", lambda mine, device: [mine, [10 * number for number in mine]])
    forward, *adjoint = (solution(nfe) for nfe in ([1, 2], [5, 5], [1, 3]))
    attempt: Any = SimpleNamespace(stop=lambda: "", device=torch.device("cpu"))
    for solves, products in ((adjoint, (6, 8, 60, 80)), ([], ())):
        local: Any = LocalStep(
            step=1, loss=torch.ones(()), penalty=torch.zeros(()), learning_rate=0.1, gradient_norm=1.0, updated=True,
            batch=SimpleNamespace(indices=[4, 7]), output=SimpleNamespace(forward=forward, adjoint=solves),
            seconds={"data": 0.1},
        )  # fmt: skip
        [(step, _)] = combined_steps.combined_steps(attempt, iter([local]))
        assert step.evaluations == (1, 2, 10, 20)
        assert step.products == products


def solution(nfe: list[int]) -> Solution:
    """A solve that needed so much for each sample."""
    zeros = torch.zeros(len(nfe))
    return Solution(zeros, zeros, torch.tensor(nfe), zeros.int())
