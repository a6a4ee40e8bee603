"""How a choice is declared: a frozen, validated spec, picked by name from its family (torch-free).

A choice is written in YAML by name (`backprop: jfb`) or by name and parameters
(`backprop: {name: implicit, solver: gmres}`). A name with a colon (`mypackage.mymodule:MyMap`) is a user's own class,
which goes through the same mechanism.
"""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """Immutable, and a misspelt key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        """Refuse a misspelt key and list the valid ones."""
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
    """One choice of one family. A family is a direct subclass of `Spec`; its choices subclass the family."""

    default_name: ClassVar[str] = ""
    target: ClassVar[str] = ""
    location_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where something lies on this machine; they change no result and no cell_id."""

    name: str

    @property
    def import_path(self) -> str:
        """`module:attribute` of the implementation."""
        return self.target

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of the implementation."""
        return {key: value for key, value in self if key != "name"}

    @classmethod
    def choices(cls) -> dict[str, type[Self]]:
        """The family's choices by name."""
        return {spec.__pydantic_fields__["name"].default: spec for spec in cls.__subclasses__()}

    @model_validator(mode="wrap")
    @classmethod
    def _pick(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        """Turn a name, or a mapping with a name, into the choice of this family."""
        if isinstance(value, Spec):
            return value
        is_family = Spec in cls.__bases__ and cls is not Imported
        if not is_family:
            return handler(value)
        fields = {"name": value} if isinstance(value, str) else value
        if not isinstance(fields, dict):
            raise PydanticCustomError(
                "choice", "must be a name or a mapping with a name, not {value}", {"value": value}
            )
        name = fields.get("name", cls.default_name)
        if isinstance(name, str) and ":" in name:
            return Imported.model_validate(fields)
        if name not in cls.choices():
            allowed = ", ".join(sorted(cls.choices()))
            raise PydanticCustomError(
                "choice", "{name} is not one of {allowed}", {"name": repr(name), "allowed": allowed}
            )
        return cls.choices()[name].model_validate({**fields, "name": name})


class Imported(Spec):
    """A user's own class, named by import path; its parameters are handed to it as they are."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=r"^[\w.]+:\w+$")

    @property
    def import_path(self) -> str:
        """The name itself."""
        return self.name
