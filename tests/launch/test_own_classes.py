"""A user's own classes, named by import path, from a grid file to a finished training."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.config.build import build
from harness.config.errors import ConfigError
from harness.records.events import Evaluation, Step
from launch.planning.grid import Grid, plan
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

MODULE = '''
"""Written as a user would: next to the grid file, with what the protocols ask for."""

from dataclasses import dataclass

import torch
from torch import nn

from harness.implicit import Differentiable, Solver
from harness.models import Map, Parameter


class Halving(nn.Module):
    """d = x / 2 + noise."""

    def __init__(self, image_size, noise_std, value_range, factor):
        super().__init__()
        self.noise_std, self.value_range, self.norm, self.factor = noise_std, value_range, factor, factor

    def A(self, x):
        return self.factor * x

    def A_adjoint(self, d):
        return self.factor * d

    def prox_l2(self, z, d, penalty):
        return (z + penalty * self.factor * d) / (1 + penalty * self.factor**2)

    def inverse(self, d):
        return d / self.factor


class Small(nn.Conv2d):
    def __init__(self, taps):
        super().__init__(3, 3, taps, padding=taps // 2)
        nn.init.zeros_(self.weight)


class Pulled(Map):
    """T(x) = D(x) pulled towards the data."""

    def __init__(self, physics, network, strength, damping):
        super().__init__(physics, network, damping)
        self.strength = nn.Parameter(torch.tensor(float(strength)))

    def step(self, state, d):
        return state - self.network(state) - self.strength * self.gradient(state, d)


@dataclass(frozen=True)
class Relaxed(Solver):
    """x <- x + weight (f(x) - x)."""

    weight: float

    def begin(self, x0):
        return lambda x, fx: torch.lerp(x, fx, self.weight)


@dataclass(frozen=True)
class OneMore:
    """JFB after one more step."""

    scale: float

    def __call__(self, problem):
        solution = problem.solve()
        with torch.no_grad():
            state = problem.f(solution.value)
        return Differentiable(self.scale * problem.f(state) + (1 - self.scale) * state, solution)


def largest_error(image, truth, value_range, power):
    """A metric."""
    return float((image - truth).abs().max()) ** power


class Gray:
    """A baseline: every pixel has one value."""

    parameters = (Parameter("level", 0.5, 1.2),)

    def __call__(self, physics, d, level):
        return torch.full_like(d, level)
'''

GRID: dict[str, Any] = {
    "name": "own",
    "base": {
        "data": {"name": "pictures", "image_size": 32, "test_images": 2, "validation_images": 2, "train_images": 8},
        "network": {"name": "mypackage.mymodule:Small", "taps": 3},
        "physics": {"name": "mypackage.mymodule:Halving", "factor": 0.5, "value_range": [-1, 1]},
        "solver": {"name": "mypackage.mymodule:Relaxed", "weight": 0.7, "max_steps": 6},
        "pool": {"size": 8, "max_steps": 2, "refresh_every": 2},
        "fidelity": {"pictures": 1},
        "global_batch_size": 4,
        "pretraining": {"steps": 2},
        "steps": 3,
        "warm_up": 0,
        "evaluate_every": 3,
        "operations": {
            "reconstructions": 1,
            "metrics": [{"name": "mypackage.mymodule:largest_error", "power": 2, "higher_is_better": False}],
        },
    },
    "grid": {
        "model": [{"name": "mypackage.mymodule:Pulled", "strength": 0.8, "damping": 0.9}],
        "backprop": [
            {"name": "mypackage.mymodule:OneMore", "scale": 1.0},
            {"name": "implicit", "solver": {"name": "mypackage.mymodule:Relaxed", "weight": 0.7, "max_steps": 9}},
        ],
    },
    "baselines": ["tikhonov", "mypackage.mymodule:Gray"],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the user's package."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "mymodule.py").write_text(MODULE)
    return tmp_path


def launch(home: Path, grid: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (home / "own.yaml").write_text(json.dumps(grid))
    command = [sys.executable, "-m", "launch", "grid", "own.yaml", "--runs", "runs"]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)


def test_own_classes_train_and_are_measured_like_ours(home: Path) -> None:
    done = launch(home, GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = Runs(home / "runs").cells_of("own")
    assert [folder.status().state for folder in folders] == ["finished"] * 5
    trained = [folder for folder in folders if folder.cell_id.startswith("Pulled")]
    assert {folder.cell_id.split("_")[1] for folder in trained} == {"OneMore", "implicit"}
    for folder in trained:
        events = folder.events()
        steps = [event for event in events if isinstance(event, Step)]
        assert [event.step for event in steps] == [1, 2, 3]
        assert max(event.nfe for event in steps) == 6, "the grid's max_steps reaches the user's solver"
        assert min(event.nfe for event in steps) == 2, "and the pool's"
        scores = [
            event.scores["psnr"][0] for event in events if isinstance(event, Evaluation) and event.split == "test"
        ]
        assert scores[-1] != scores[0]
        assert all(event.scores["largest_error"][0] > 0 for event in events if isinstance(event, Evaluation))
        assert {"contraction", "fidelity", "probe"} <= {event.event for event in events}


@pytest.mark.parametrize("name", ["mypackage.nothing:Map", "nothing:Map", "mypackage.mymodule.deeper:Map"])
def test_a_module_that_does_not_exist_is_found_when_planning(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(home))
    with pytest.raises(ConfigError, match=f"model: '{name}' names no module on the Python path"):
        plan(Grid.model_validate(GRID | {"grid": {"model": [name]}}))


def test_planning_imports_no_users_module(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(home))
    plan(Grid.model_validate(GRID))
    assert not {name for name in sys.modules if name.startswith("mypackage")}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "mypackage.mymodule:Puled"}, "mypackage.mymodule:Puled: cannot be imported"),
        ({"name": "mypackage.mymodule:Pulled"}, "mypackage.mymodule:Pulled: missing a required argument: 'strength'"),
        ({"name": "mypackage.mymodule:Pulled", "strength": 1, "strenght": 2}, "unexpected keyword argument 'strenght'"),
    ],
)
def test_a_class_that_cannot_be_built_is_one_line(
    model: dict[str, Any], said: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(home))
    with pytest.raises(ValueError, match=said):
        build(tiny_cell(model=model).model, None, None)
