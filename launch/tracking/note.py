"""The description of a grid's experiment in MLflow, as Markdown. A pure function."""

from collections import Counter
from collections.abc import Iterable

from harness.records.cell_folder import CellStatus

QUESTION = "How should one backpropagate through an implicit network that solves an inverse problem, and at what cost?"
LONGEST = 20_000
"""MLflow's limit for the value of an experiment's tag, in characters."""


def note(grid: str, statuses: Iterable[CellStatus], headline: str) -> str:
    """The question, what was found, the state of the cells, the grid as YAML, and how to reproduce it."""
    counts = Counter(status.state for status in statuses)
    cells = f"{counts.total()} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    found = f"**What the report found**\n\n{headline.strip()}\n\n" if headline else ""
    steps = "Save the grid below as `grid.yaml` and run `python -m launch grid grid.yaml`, with the commit of each run."
    head = f"**{QUESTION}**\n\n{found}{cells}.\n\n**To reproduce it:** {steps}\n\n"
    text = f"{head}```yaml\n{grid.strip()}\n```\n"
    return text if len(text) <= LONGEST else f"{head}The grid is too long to be shown; it is a file of the grid's run."
