"""What training reports of itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.cells import TrainCell
from harness.implicit.solvers import Anderson, Picard
from harness.models.build_model import build_equilibrium
from harness.models.losses import LOSSES
from harness.records.events import Contraction, Step
from launch.local.single import run_here
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

SMALL = {"image_size": 16, "train_images": 32, "validation_images": 2, "test_images": 2}


def events(runs: Runs, **fields: Any) -> list[Any]:
    """The record of a tiny cell and of what it needs."""
    cell = tiny_cell(**fields)
    for one in (cell.needs, cell):
        assert one is not None
        folder = runs.cell(one.cell_id)
        folder.plan(one)
        assert folder.status().state == "finished" or run_here(folder) == "finished"
    return folder.events()


def test_the_jacobian_penalty_is_recorded_and_shrinks_the_jacobian(tmp_path: Path) -> None:
    """The same training twice: the penalty says what the loss it is added to does not."""
    runs = Runs(tmp_path / "runs")
    common: dict[str, Any] = {"data": SMALL, "steps": 30, "optimizer": {"lr": 0.01}}
    plain, penalised = events(runs, **common), events(runs, **common, jacobian_penalty=0.1)
    norms = [[e.norm for e in found if isinstance(e, Contraction)][-1] for found in (plain, penalised)]
    penalties = [[e.penalty for e in found if isinstance(e, Step)] for found in (plain, penalised)]
    assert set(penalties[0]) == {0.0}
    assert 0 < penalties[1][-1] < penalties[1][0] < 0.1
    assert max(norms[1]) < min(norms[0])


def test_shine_goes_on_with_the_states_of_a_pool(tmp_path: Path) -> None:
    """With Broyden steps: the gradient needs the estimate of the Jacobian that the last solve ends with."""
    pool = {"size": 12, "refresh_every": 3, "max_steps": 2}
    found = events(Runs(tmp_path), data=SMALL, steps=8, backprop="shine", solver={"name": "broyden"}, pool=pool)
    assert {event.nfe for event in found if isinstance(event, Step)} >= {2.0}


def test_warm_up_takes_the_gradient_of_jfb_and_solves_no_adjoint_equation(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "data": SMALL,
        "steps": 6,
        "gradient_clip": None,
        "optimizer": {"name": "sgd", "lr": 1e-3},
    }
    exact = {**common, "backprop": "implicit"}
    warmed, jfb, cold = (
        [event for event in events(Runs(tmp_path), **fields) if isinstance(event, Step)]
        for fields in ({**exact, "warm_up": 3}, common, exact)
    )
    assert [step.adjoint_nfe > 0 for step in warmed] == [False] * 3 + [True] * 3
    assert [step.gradient_norm for step in warmed[:3]] == [step.gradient_norm for step in jfb[:3]]
    assert warmed[3].gradient_norm != jfb[3].gradient_norm
    assert cold[0].gradient_norm != jfb[0].gradient_norm
    phases = {"data", "forward_solve", "parameter_gradient", "gradient_synchronization", "optimizer", "other",
              "waiting"}  # fmt: skip
    assert warmed[0].seconds.keys() == phases
    assert warmed[3].seconds.keys() == phases | {"adjoint_solve"}
    assert all(min(ranks) > 0 for phase, ranks in warmed[3].seconds.items() if phase != "waiting")


def test_a_pool_visit_saves_adjoint_products(tmp_path: Path) -> None:
    """The adjoint solve continues from the solution of the visit before."""
    adjoint = {"name": "gmres", "tol": 3e-1, "max_steps": 60}
    common: dict[str, Any] = {
        "data": SMALL, "steps": 8, "backprop": {"name": "implicit", "solver": adjoint}, "optimizer": {"lr": 2e-4},
        "pretraining": {"steps": 100},
        "solver": {"name": "anderson", "tol": 1e-4, "max_steps": 50},
    }  # fmt: skip
    pool = {"size": 12, "max_steps": 5, "refresh_every": 12}
    cold, warm = (
        [event for event in events(Runs(tmp_path), **common, pool={**pool, "adjoint": keep}) if isinstance(event, Step)]
        for keep in (False, True)
    )
    assert [event.adjoint_nfe for event in warm[:2]] == [event.adjoint_nfe for event in cold[:2]]
    assert sum(event.adjoint_nfe for event in warm[2:]) < 0.6 * sum(event.adjoint_nfe for event in cold[2:])
    assert max(event.adjoint_residual for event in warm) <= 3e-1


def test_a_pool_visit_takes_relaxed_steps_or_goes_on_with_the_solver_of_the_cell() -> None:
    cell = tiny_cell(pool={"size": 12})
    assert isinstance(cell, TrainCell)
    assert build_equilibrium(cell)[0].continuing_solver == Picard(tol=None, max_steps=5, relaxation=1.5)
    cell = tiny_cell(pool={"size": 12, "relaxation": None, "max_steps": 7})
    assert isinstance(cell, TrainCell)
    solver = build_equilibrium(cell)[0].continuing_solver
    assert isinstance(solver, Anderson)
    assert solver.max_steps == 7


def test_a_compiled_map_trains_alike_and_is_another_cell(tmp_path: Path) -> None:
    """With the Jacobian penalty and the measurement of contraction, which need derivatives that it does not have. SGD,
    for Adam's first steps make of the last bits what they will.
    """
    runs = Runs(tmp_path / "runs")
    common: dict[str, Any] = {"data": SMALL, "steps": 2, "backprop": "implicit", "jacobian_penalty": 0.1,
        "optimizer": "sgd"}  # fmt: skip
    plain, compiled = (events(runs, **common, compile=choice) for choice in (False, True))
    assert len(list((tmp_path / "runs" / "cells").iterdir())) == 3
    losses = [[e.loss for e in found if isinstance(e, Step)] for found in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_cell_leaves_no_thread_behind(tmp_path: Path) -> None:
    """A thread of the process group that frees a tensor while the interpreter shuts down would abort it."""
    events(Runs(tmp_path / "runs"), data=SMALL)
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    assert not [name for name in names if "gloo" in name]


def test_pictures_of_all_qualities_count_in_rmse() -> None:
    """Halving a small error changes the loss by as much as taking that amount off a large one."""
    truth = torch.zeros(2, 3, 4, 4)
    images = torch.stack([torch.full((3, 4, 4), error) for error in (0.02, 0.2)]).requires_grad_()
    loss = LOSSES["rmse"](images, truth)
    assert loss.item() == pytest.approx(0.11)
    loss.backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad[0], images.grad[1])
