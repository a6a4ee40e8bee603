"""Which code a cell may run besides the project's own: that of the packages that the user named."""

from collections.abc import Collection, Iterable

from harness.config.cells import BaseCell
from harness.config.errors import ConfigError
from harness.config.spec import Frozen, imported_specs


def packages_of(cells: Iterable[BaseCell]) -> set[str]:
    """The top-level packages of all classes that cells name by import path.

    A user who plans cells names these packages in the grid file or on the command line.
    """
    # Thousands of cells share most of their parts, so each distinct part is read once.
    parts = {id(part): part for cell in cells for _, part in cell if isinstance(part, Frozen)}
    return {spec.package for part in parts.values() for _, spec in imported_specs(part)}


def require_trust(cell: BaseCell, trusted: Collection[str]) -> None:
    """Check that a cell read from a file names no class outside the trusted packages; imports nothing.

    Raises:
        ConfigError: it names one; the message says which, and how to trust it.
    """
    for field, spec in imported_specs(cell):
        if spec.package not in trusted:
            raise ConfigError(
                f"{field}: {spec.name} is code that does not come with jfbench; --trust {spec.package} runs it"
            )
