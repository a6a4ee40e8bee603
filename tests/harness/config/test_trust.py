"""No class of a foreign package is imported, and nothing is called that is not what its family consists of."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.commands.reconstruct import SHIPPED
from harness.config.build import build, implementation
from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.baselines import BaselineSpec
from harness.config.catalog.data import DataSpec
from harness.config.catalog.maps import MapSpec
from harness.config.catalog.metrics import MetricSpec
from harness.config.catalog.networks import NetworkSpec
from harness.config.catalog.optimization import OptimizerSpec, ScheduleSpec
from harness.config.catalog.physics import PhysicsSpec
from harness.config.catalog.solvers import AdjointSolverSpec, SolverSpec
from harness.config.cells import parse_cell
from harness.config.errors import ConfigError
from harness.config.spec import Spec
from harness.config.trust import packages_of
from harness.records.cell_folder import CellFolder, CellStatus
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from harness.run.load_model import trained_model
from harness.run.rescore import measure_again
from tests.conftest import tiny_cell

FAMILIES = [
    AdjointSolverSpec, BackpropSpec, BaselineSpec, DataSpec, MapSpec, MetricSpec, NetworkSpec, OptimizerSpec,
    PhysicsSpec, ScheduleSpec, SolverSpec,
]  # fmt: skip
PACKAGE = """
import pathlib, torch
pathlib.Path("ran").touch()
class Small(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 3, padding=1)
"""


def picked(family: type[Spec], fields: dict[str, Any]) -> Spec:
    return family.model_validate(fields)


def test_every_family_says_what_it_consists_of() -> None:
    assert {family for family in Spec.__subclasses__() if "Imported" not in family.__name__} <= set(FAMILIES)
    for family in FAMILIES:
        for choice in family.choices().values():
            assert implementation(choice.model_construct(name=choice.__name__)) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_of_its_family_is_not_called(family: type[Spec], tmp_path: Path) -> None:
    spec = picked(family, {"name": "subprocess:Popen", "args": ["touch", str(tmp_path / "ran")]})
    with pytest.raises(ValueError, match=r"^subprocess:Popen: must be a (class|function)"):
        build(spec)
    with pytest.raises(ValueError, match=r"^os:system: must be a (class|function)"):
        build(picked(family, {"name": "os:system", "command": f"touch {tmp_path / 'ran'}"}))
    assert not list(tmp_path.iterdir())


def test_a_name_in_the_running_program_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model: '__main__:X' is not in a module of its own$"):
        tiny_cell(model="__main__:X")


def test_the_packages_of_cells_are_those_that_they_name() -> None:
    cell = tiny_cell(
        model="a.b:Map",
        backprop={"name": "implicit", "solver": "b.c:Solver"},
        operations={"metrics": ["c.d:metric"]},
    )
    assert packages_of([tiny_cell(), cell]) == {"a", "b", "c"}


@pytest.fixture
def foreign(tmp_path: Path) -> CellFolder:
    """A copy of a trained cell whose cell.json names a network of another package, which is importable."""
    folder = CellFolder(tmp_path / "cells" / "foreign")
    shutil.copytree(SHIPPED / "weights", folder.path / "weights")
    fields = CellFolder(SHIPPED).cell().to_json() | {"network": {"name": "foreign.networks:Small"}}
    folder.plan(parse_cell(fields))
    folder.write_status(CellStatus(state="finished"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "networks.py").write_text(PACKAGE)
    return folder


REFUSED = r"network: foreign.networks:Small is code that does not come with jfbench; --trust foreign runs it"


@pytest.mark.parametrize("command", ["reconstruct", "score", "fixed-points"])
def test_a_foreign_cell_runs_no_code_unless_its_package_is_trusted(command: str, foreign: CellFolder) -> None:
    home = foreign.runs_root
    what = ["picture.png", "--cell", str(foreign.path)] if command == "reconstruct" else [str(foreign.path)]
    Image.new("RGB", (40, 40)).save(home / "picture.png")

    def ran(*trust: str) -> str:
        line = [sys.executable, "-m", "harness", command, *what, *trust]
        done = subprocess.run(line, cwd=home, capture_output=True, text=True, timeout=300)
        assert done.returncode != 0
        return done.stderr

    assert ran() == f"error: {REFUSED}\n"
    assert ran("--trust", "forei", "--trust", "subprocess") == f"error: {REFUSED}\n"
    assert not (home / "ran").exists()
    assert "cannot be built" in ran("--trust", "foreign"), "its weights are those of another network"
    assert (home / "ran").exists()


def test_no_entry_to_a_foreign_cell_imports_its_package(foreign: CellFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(foreign.runs_root))
    for enter in (
        lambda: trained_model(foreign.path, {"torch"}),
        lambda: measure_again(foreign, 2, 0),
        lambda: run_cell(foreign.path, RankPosition.from_environment()),
    ):
        with pytest.raises(ConfigError, match=REFUSED):
            enter()
    assert "foreign" not in sys.modules
