"""The rooms: imports go one way, and every room says what it is."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "launch", "analysis", "slurm_templates")
MOST_ROOMS = 10
"""Directories in `harness/`: as many as a reader takes in at a glance."""


def rooms(package: str) -> list[Path]:
    """The directories of a package."""
    return sorted(path for path in (REPOSITORY / package).iterdir() if path.is_dir() and path.name != "__pycache__")


def lint_imports(directory: Path) -> tuple[bool, str]:
    """Whether the packages in a directory keep every contract of its pyproject.toml, and what import-linter printed."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=directory, capture_output=True, text=True, timeout=300)
    return done.returncode == 0, done.stdout + done.stderr


def test_imports_go_downwards_only() -> None:
    kept, printed = lint_imports(REPOSITORY)
    assert kept, printed[printed.find("Broken contracts") :]


@pytest.mark.parametrize(
    ("module", "upwards", "broken"),
    [
        ("harness/config/upwards.py", "import harness.models.maps", "rooms of harness import downwards"),
        ("harness/upstairs/__init__.py", "", "rooms of harness import downwards"),
        ("harness/run/upwards.py", "import launch.planning.grid", "analysis reads what launch planned"),
        ("launch/planning/upwards.py", "import launch.slurm.arrays", "rooms of launch import downwards"),
        ("launch/slurm/computing.py", "import torch", "planning and review are torch-free"),
        ("harness/physics/numbers.py", "import numpy", "the scientific core and the physics need torch alone"),
    ],
)
def test_a_broken_rule_is_named(module: str, upwards: str, broken: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text(upwards)
    kept, printed = lint_imports(tmp_path)
    assert not kept
    assert broken in printed[printed.find("Broken contracts") :]


def test_harness_stays_small_enough_to_overlook() -> None:
    assert len(rooms("harness")) <= MOST_ROOMS


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_every_room_says_what_it_is(package: str) -> None:
    assert (REPOSITORY / package / "py.typed").is_file()
    for path in (REPOSITORY / package, *rooms(package)):
        assert ast.get_docstring(ast.parse((path / "__init__.py").read_text())), path
