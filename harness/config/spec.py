"""How a choice is declared: a frozen, validated spec, picked by name from its family (torch-free).

A choice is written in YAML by name (`backprop: jfb`) or by name and parameters
(`backprop: {name: implicit, solver: gmres}`). A name with a colon (`mypackage.mymodule:MyMap`) is a user's own class,
which goes through the same mechanism: it receives its family's parameters (for a solver, `tol` and `max_steps`) and
its own.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """Base class of all configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        """Reject an unknown key and list the valid ones."""
        if isinstance(value, dict) and cls.model_config["extra"] == "forbid":
            for key in value:
                if key not in cls.__pydantic_fields__:
                    raise PydanticCustomError(
                        "choice",
                        "no field {key}; allowed: {allowed}",
                        {"key": repr(key), "allowed": ", ".join(cls.__pydantic_fields__)},
                    )
        return value


class Spec(Frozen):
    """One choice within a family. A family is a direct subclass of `Spec`; its choices subclass the family."""

    default_name: ClassVar[str] = ""
    """Of a family: the choice that a mapping without a name selects."""
    target: ClassVar[str] = ""
    """Of a choice: `module:attribute` of the implementation."""
    interface: ClassVar[str] = ""
    """Of a family: `module:attribute` of the class that implementations derive from, or of the protocol whose methods
    they have; empty if they are functions."""
    location_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that locate something on this machine; they affect neither the result nor the cell_id."""

    name: str

    @property
    def import_path(self) -> str:
        """`module:attribute` of the implementation."""
        return self.target

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments for the implementation."""
        return {key: value for key, value in self if key != "name"}

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """The family's choices by name."""
        catalog = [spec for spec in cls.__subclasses__() if not issubclass(spec, Imported)]
        return {spec.__pydantic_fields__["name"].default: spec for spec in catalog}

    @model_validator(mode="wrap")
    @classmethod
    def _pick(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        """Turn a name, or a mapping with a name, into the choice that it selects within this family."""
        if isinstance(value, Spec):
            return value
        is_family = Spec in cls.__bases__
        if not is_family:
            return handler(value)
        fields = {"name": value} if isinstance(value, str) else value
        if not isinstance(fields, dict):
            raise PydanticCustomError(
                "choice", "must be a name or a mapping with a name, not {value}", {"value": value}
            )
        name = fields.get("name", cls.default_name)
        if isinstance(name, str) and ":" in name:
            return _imported(cls).model_validate(fields)
        if not isinstance(name, str) or name not in cls.choices():
            allowed = ", ".join(sorted(cls.choices()))
            raise PydanticCustomError(
                "choice", "{name} is not one of {allowed}", {"name": repr(name), "allowed": allowed}
            )
        return cls.choices()[name].model_validate({**fields, "name": name})


class Imported(Spec):
    """A user's own class, named by import path. It receives parameters that its family does not declare unchanged."""

    name: str = Field(pattern=r"^\w+(\.\w+)*:\w+$")

    @model_validator(mode="after")
    def _is_in_a_package(self) -> Self:
        if self.package == "__main__":
            raise PydanticCustomError("choice", "{name} is not in a module of its own", {"name": repr(self.name)})
        return self

    @property
    def import_path(self) -> str:
        """The name itself."""
        return self.name

    @property
    def module(self) -> str:
        """The module that should contain the class."""
        return self.name.partition(":")[0]

    @property
    def package(self) -> str:
        """The top-level package of that module, which `--trust` names."""
        return self.module.partition(".")[0]


@cache
def _imported(family: type[Spec]) -> type[Spec]:
    """The choice of a family that stands for users' own classes."""
    return create_model(f"Imported{family.__name__}", __base__=(Imported, family), __cls_kwargs__={"extra": "allow"})


def imported_specs(part: Frozen, path: str = "") -> Iterator[tuple[str, Imported]]:
    """Yield each user-defined class within `part`, or `part` itself, after its dotted field."""
    if isinstance(part, Imported):
        yield path, part
    for name, value in part:
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, Frozen):
                yield from imported_specs(element, f"{path}.{name}" if path else name)
