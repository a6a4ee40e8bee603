"""Python in the pages runs as it stands, page by page, and the tutorials' commands are really run."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import DOCS, PAGES, TUTORIALS, Block, blocks, name

CONTINUES = {DOCS / "tutorials/own-physics.md": DOCS / "tutorials/own-backprop-method.md"}
"""Tutorials that go on with the files of another."""
WITH_CODE = [page for page in PAGES if page in TUTORIALS or any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_what_a_page_tells_a_reader_to_do_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    if page in CONTINUES:
        for block in blocks(CONTINUES[page]):
            write(block)
    try:
        follow(page)
    finally:
        for module in set(sys.modules) - before:
            if module.partition(".")[0] == "mylab":
                del sys.modules[module]


def follow(page: Path) -> None:
    """Do what a page says, in the current directory."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    for block, after in pairwise([*found, found[-1]]):
        if block.is_file:
            write(block)
        elif block.language == "python":
            printed = run_python(block, namespace)
            if after.title == "Output":
                assert words(printed) == words(after.text), f"{name(page)}:{block.line} prints something else"
        elif block.language == "bash" and page in TUTORIALS and not block.parsed_only:
            run_shell(block)


def write(block: Block) -> None:
    """Write a block that has a file name."""
    if block.is_file:
        path = Path(block.title)
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        if path.suffix == ".py":
            compile(block.text, block.title, "exec")
            (path.parent / "__init__.py").touch()


def run_python(block: Block, namespace: dict[str, Any]) -> str:
    """Run a block after those before it on its page; what it prints. Errors show the line of the page."""
    code = compile("\n" * block.line + block.text, str(block.page), "exec")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(block: Block) -> None:
    """Run commands of a tutorial, with this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block.text], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{name(block.page)}:{block.line}\n{done.stdout}{done.stderr}"


def words(text: str) -> list[str]:
    """Lines without spaces at their ends."""
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_tutorial_of_an_own_package_runs_all_that_it_needs() -> None:
    found = blocks(DOCS / "tutorials/own-backprop-method.md")
    assert [block.title for block in found if block.is_file][:2] == ["mylab/backprop.py", "tails.yaml"]
    assert sum(block.language == "bash" and not block.parsed_only for block in found) >= 2
