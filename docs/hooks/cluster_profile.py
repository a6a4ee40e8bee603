"""The reference of cluster profiles, read off the validated models."""

from page_parts import code, fields_table, prose, summary, table
from pydantic import BaseModel

from launch.planning.profiles import TEMPLATES, Local, Slurm


def slurm_section() -> str:
    """The keys of a profile of a SLURM cluster."""
    return fields_table(Slurm, _name)


def local_section() -> str:
    """The keys of a profile of this machine."""
    return f"{prose(summary(Local))}\n\n{fields_table(Local, _name)}"


def templates_section() -> str:
    """The profiles that come with the repository, and what each is an example of."""
    files = sorted(TEMPLATES.glob("*.yaml"))
    rows = [(code(path.stem), prose(_first_comment(path.read_text(encoding="utf-8")))) for path in files]
    return table(("Profile", "What it shows"), rows)


def _first_comment(text: str) -> str:
    """The first sentence of the comment at the top of a file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).partition(". ")[0].removeprefix("Worked example: ").rstrip(".") + "."


def _name(model: type[BaseModel]) -> str:
    return code(model.__name__)
