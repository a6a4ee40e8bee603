"""What an installed wheel has: every file of the packages, commands that run outside a clone, and shell completion."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "launch", "analysis", "slurm_templates")
NEEDED = ("pyproject.toml", "README.md", "LICENSE")
NEVER_PACKED = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the packages, where no earlier build has left files behind."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, source / package, ignore=NEVER_PACKED)
    for name in NEEDED:
        shutil.copy(REPOSITORY / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=source, check=True, timeout=300)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and this environment's packages but not its jfbench."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, timeout=300)
    # A directory that a .pth file names comes last, and its own .pth files, such as the clone's, are not read.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(programs: Path, *command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the new environment in another directory than the clone."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "JFBENCH_RUNS")}
    done = subprocess.run(
        [programs / command[0], *command[1:]],
        cwd=cwd, env=inherited | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.is_file())
    assert packed == {str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts}
    assert {
        "launch/grids/demo.yaml",
        "slurm_templates/slurm-generic.yaml",
        "harness/commands/shipped/cell.json",
        "harness/py.typed",
    } <= packed


def test_the_commands_run_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    show = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {PACKAGES}))"
    for path in run(programs, "python", "-c", show, cwd=tmp_path).stdout.split():
        assert Path(path).is_relative_to(programs.parent)
    dry = run(programs, "python", "-m", "launch", "grid", "demo", "--dry-run", cwd=tmp_path).stdout
    assert "demo: 14 cells" in dry
    scripts = run(
        programs, "python", "-m", "launch", "grid", "demo", "--cluster", "slurm-generic", "--dry-run", cwd=tmp_path
    ).stdout
    assert "#SBATCH" in scripts
    assert "Restore" in run(programs, "python", "-m", "harness", "reconstruct", "--help", cwd=tmp_path).stdout
    assert "report" in run(programs, "jfbench", "analysis", "--help", cwd=tmp_path).stdout
    assert not list(tmp_path.iterdir())


def test_the_wheel_restores_a_picture_with_the_cell_that_comes_with_it(programs: Path, tmp_path: Path) -> None:
    draw = "from PIL import Image; Image.radial_gradient('L').resize((32, 32)).convert('RGB').save('disc.png')"
    run(programs, "python", "-c", draw, cwd=tmp_path)
    run(programs, "jfbench", "harness", "reconstruct", "disc.png", "--blur", cwd=tmp_path)
    assert (tmp_path / "restored" / "disc-restored.png").is_file()


@pytest.mark.parametrize("command", [["-m", "launch"], ["-m", "analysis"], ["-m", "harness"]])
def test_the_version_is_printed_without_torch(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--version"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"jfbench {version('jfbench')}\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "mlflow", "pandas", "pydantic"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["analysis", "harness", "launch"]),
        ("launch grid pap", ["paper", "paper-cpu"]),
        ("launch grid ow", ["own.yaml"]),
        ("launch grid demo --cluster gpu", ["gpu-node-4", "gpu-node-8"]),
        ("launch status mi", ["mine"]),
        ("launch cancel mine/de", ["mine/de-prox_jfb-01234567"]),
        ("launch cancel unknown/", []),
        ("launch logs de", ["de-prox_jfb-01234567"]),
        ("analysis report m", ["mine"]),
        ("analysis report --runs nowhere m", []),
    ],
)
def test_a_shell_completes_commands_grids_clusters_and_cells(typed: str, offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").touch()
    for path, content in {
        "grids/mine/grid.json": {"cells": ["de-prox_jfb-01234567", "tikhonov-89abcdef"]},
        "cells/de-prox_jfb-01234567/cell.json": {},
    }.items():
        (tmp_path / "runs" / path).parent.mkdir(parents=True)
        (tmp_path / "runs" / path).write_text(json.dumps(content))
    words = ["jfbench", *typed.split(" ")]
    shell = {"_JFBENCH_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    programs = Path(sys.executable).parent
    assert sorted(run(programs, "jfbench", cwd=tmp_path, **shell).stdout.split()) == offered


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (\S+)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited
    assert cited[1] == version("jfbench")
    assert f"## [{version('jfbench')}]" in (REPOSITORY / "CHANGELOG.md").read_text()
