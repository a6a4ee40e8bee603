"""Puts what is read off the code in the place of `<!-- generated: NAME -->` in a page, each time the site is built."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from cluster_profile import local_section, slurm_section, templates_section
from command_line import command_line_section
from grid_fields import cells_section, choices_section, grid_file_section
from record_tables import events_section, exit_section, status_section

MARKER = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)
SECTIONS: dict[str, Callable[[], str]] = {
    "launch commands": partial(command_line_section, "launch"),
    "analysis commands": partial(command_line_section, "analysis"),
    "harness commands": partial(command_line_section, "harness"),
    "grid file": grid_file_section,
    "cells": cells_section,
    "choices": choices_section,
    "slurm profile": slurm_section,
    "local profile": local_section,
    "profile templates": templates_section,
    "events": events_section,
    "status": status_section,
    "exit": exit_section,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page; a name that does not exist ends the build."""
    return MARKER.sub(lambda found: SECTIONS[found[1]](), markdown)
