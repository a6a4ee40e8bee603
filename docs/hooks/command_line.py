"""The reference of the command line, read off the commands themselves."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from page_parts import code, prose, table

VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""What an option takes."""


def command_line_section(package: str) -> str:
    """Every command of `python -m PACKAGE`."""
    app = import_module(f"{package}.__main__").app
    group: Any = typer.main.get_command(app)
    functions = [info.callback for info in app.registered_commands]
    pairs = zip(group.commands.items(), functions, strict=True)
    return "\n\n".join(
        part for (name, command), function in pairs for part in _command(package, name, command, function)
    )


def _command(package: str, name: str, command: Any, function: Callable[..., object]) -> Iterator[str]:
    shown = [param for param in command.params if param.name != "help"]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option"]
    words = ["python -m", package, name, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)]
    yield f"### {code(f'{package} {name}')} {{ #{package}-{name} }}"
    yield f"```text\n{' '.join(words)}\n```"
    yield from _help(command.help or "")
    yield table(("Argument", "Meaning"), [(code(_usage(param)), prose(param.help or "")) for param in arguments])
    types = get_type_hints(function)
    yield table(("Option", "Default", "Meaning"), [_option(param, types[param.name]) for param in options])


def _usage(param: Any) -> str:
    name = param.metavar or str(param.name).upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def _option(param: Any, annotation: Any) -> tuple[str, str, str]:
    takes = "" if param.is_flag else f" {param.metavar or _value(annotation)}"
    shown = param.show_default if isinstance(param.show_default, str) else param.default
    default = "" if param.is_flag or shown is None or callable(shown) else code(shown)
    variable = f" Environment variable: {code(param.envvar)}." if param.envvar else ""
    return ", ".join(code(name + takes) for name in param.opts), default, prose(param.help or "") + variable


def _value(annotation: Any) -> str:
    """What stands after an option: the type in an annotation such as `list[str] | None`."""
    inner = [_value(part) for part in get_args(annotation)]
    return next((word for word in (VALUES.get(annotation), *inner) if word), "")


def _help(text: str) -> Iterator[str]:
    r"""Paragraphs of a help text; after \b come lines that are shown as they are, most of them commands."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\x08)", text.strip()):
        lines = [line.strip() for line in paragraph.replace("\x08", "").strip().splitlines()]
        if all(re.match(r"(python|torchrun|srun) ", line) for line in lines):
            yield "```bash\n" + "\n".join(lines) + "\n```"
        else:
            yield prose(" ".join(lines))
