"""Builds the object that a spec names. This happens only inside a job, because the targets import torch."""

import importlib
import inspect
from typing import Any

from harness.config.spec import Spec


def resolve(import_path: str) -> Any:
    """Import the module of `module:attribute` and return the attribute.

    Raises:
        ValueError: the module or the attribute does not exist.
    """
    module, _, attribute = import_path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{import_path}: cannot be imported ({error})") from error


def build(spec: Spec, *context: Any, **more: Any) -> Any:
    """Call the spec's target with `context`, the spec's parameters and `more`; nested specs are built first.

    Raises:
        ValueError: the target cannot be imported or does not accept these parameters.
    """
    parameters = {key: build(value) if isinstance(value, Spec) else value for key, value in spec.parameters().items()}
    target = resolve(spec.import_path)
    try:
        inspect.signature(target).bind(*context, **parameters, **more)
    except TypeError as error:
        raise ValueError(f"{spec.import_path}: {error}") from None
    return target(*context, **parameters, **more)
