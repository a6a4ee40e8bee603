"""The site builds without a warning, asks for nothing from elsewhere, and names only what exists."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from launch.planning.grid import plan, read_grid, shipped_names
from launch.planning.overrides import override, parse_assignment
from tests.docs.blocks import DOCS, PAGES, REPOSITORY, commands, name

ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^>]*>")
OF_THIS_MACHINE = re.compile(r"(?<![\w/])/(?:work|tmp|root|home)/")
LINE_LENGTH = 120


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install --editable '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_asks_for_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    found = {page.name: ELSEWHERE.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert not {page: tags for page, tags in found.items() if any('rel="canonical"' not in tag for tag in tags)}


def test_the_generated_parts_have_every_field_choice_command_and_event(site: Path) -> None:
    def text(page: str) -> str:
        return (site / page).read_text(encoding="utf-8")

    fields = text("reference/grid-fields.html")
    expected = ("jacobian_penalty", "stochastic-neumann", "cg-normal", "total-variation", "code2024", "refresh_every")
    assert not [word for word in expected if word not in fields]
    assert "cells_at_once" in text("reference/cluster-profiles.html")
    command_line = text("reference/command-line.html")
    assert all(word in command_line for word in ("--timeout-min", "--longer", "--output", "JFBENCH_RUNS"))
    assert all(event in text("record-schema.html") for event in ("no converged reference", "nfe_imbalance", "psnr_at"))
    assert "solve_adjoint" in text("reference/python-api.html")
    assert not [page for page in site.rglob("*.html") if "generated: " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short_and_name_no_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert DOCS not in page.parents or not [line for line in text.splitlines() if len(line) > LINE_LENGTH]
    assert not OF_THIS_MACHINE.search(text)


def parse(package: str, words: list[str]) -> None:
    """Parse a command line as the real application does, without running it."""
    group: Any = typer.main.get_command(import_module(f"{package}.__main__").app)
    assert words[0] in group.commands, f"no command {words[0]!r} in {package}"
    group.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_exists(page: Path) -> None:
    for package, arguments in commands(page):
        words = shlex.split(arguments)
        try:
            parse(package, words)
        except Exception as error:
            pytest.fail(f"python -m {package} {arguments}: {error or type(error).__name__}")
        if words[:1] == ["grid"] and words[1] in shipped_names() and "PATH" not in arguments and ":" not in arguments:
            fields = [word for word in words[2:] if "=" in word and not word.startswith("-")]
            plan(override(read_grid(words[1]), map(parse_assignment, fields)))


def test_cells_that_are_shown_of_the_demo_are_those_of_the_demo() -> None:
    text = (DOCS / "getting-started.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^[a-z]\S+-[0-9a-f]{8}(?= )", text, re.MULTILINE))
    assert shown == {cell.cell_id for cell in plan(read_grid("demo"))}


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for line in re.findall(r"(?:`|^ *)make ([a-z -]+)(?:`|$|  )", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert set(line.split()) <= targets, f"{name(page)}: make {line}"


def test_commands_and_pages_are_found_at_all() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 60
    assert DOCS / "tutorials" / "own-physics.md" in PAGES
