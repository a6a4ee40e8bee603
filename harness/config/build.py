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


def implementation(spec: Spec) -> Any:
    """Import what a spec names, without calling it.

    Raises:
        ValueError: it cannot be imported, or it is not what its family consists of: a function, a class derived from
            the family's base class, or a class with the methods of the family's protocol.
    """
    target = resolve(spec.import_path)
    if not spec.interface:
        if not inspect.isfunction(target):
            raise ValueError(f"{spec.import_path}: must be a function")
        return target
    interface = resolve(spec.interface)
    if not inspect.isclass(target) or not _implements(target, interface):
        relation = "with the methods of" if _is_protocol(interface) else "derived from"
        raise ValueError(f"{spec.import_path}: must be a class {relation} {spec.interface}")
    return target


def build(spec: Spec, *context: Any, **more: Any) -> Any:
    """Call the spec's target with `context`, the spec's parameters and `more`; nested specs are built first.

    Raises:
        ValueError: the target cannot be imported, is not what its family consists of, or does not accept these
            parameters.
    """
    parameters = {key: build(value) if isinstance(value, Spec) else value for key, value in spec.parameters().items()}
    target = implementation(spec)
    try:
        inspect.signature(target).bind(*context, **parameters, **more)
    except TypeError as error:
        raise ValueError(f"{spec.import_path}: {error}") from None
    return target(*context, **parameters, **more)


def _implements(target: type, interface: type) -> bool:
    """Whether a class derives from the interface or, if the interface is a protocol, has its methods."""
    if not _is_protocol(interface):
        return issubclass(target, interface)
    methods = [name for name in vars(interface) if name == "__call__" or not name.startswith("_")]
    # A class itself is callable too, so its methods are looked up in the classes that it derives from.
    return all(any(callable(vars(base).get(name)) for base in target.__mro__) for name in methods)


def _is_protocol(interface: type) -> bool:
    return getattr(interface, "_is_protocol", False)
