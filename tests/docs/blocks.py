"""The code in the pages of the site and in the README: fenced blocks, and commands of ours wherever they stand."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), REPOSITORY / "README.md"])
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))

FENCE = re.compile(
    r"^(?P<mark><!-- parsed only: .+ -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"(?=(?:python -m|jfbench) (launch|analysis|harness)(?= )([^\n`#)]*))")
"""A command of ours; it ends with its line, code span, comment or substitution, and another may stand inside it."""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    title: str
    """A file name, or "Output" for what the block before it prints; else empty."""
    text: str
    parsed_only: bool
    """Whether the page says that it cannot be run by a test."""

    @property
    def is_file(self) -> bool:
        return bool(self.title) and self.title != "Output"


def name(page: Path) -> str:
    """A page as tests call it."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            title=found["title"] or "",
            text=found["text"],
            parsed_only=found["mark"] is not None,
        )
        for found in FENCE.finditer(text)
    ]


def commands(page: Path) -> list[tuple[str, str]]:
    """Every command of ours in a page: package and arguments. The site's generated parts are no part of a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [(found[1], re.sub(r"\$\(.*", "RESULT", found[2]).strip()) for found in COMMAND.finditer(text)]
