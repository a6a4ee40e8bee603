"""Cluster profiles: where jobs run and with what limits, from slurm_templates/*.yaml or a user's own file."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import NonNegativeInt, PositiveFloat, ValidationError

from harness.config import ConfigError, explain
from harness.spec import Frozen

TEMPLATES = Path(__file__).resolve().parent.parent / "slurm_templates"


class Profile(Frozen):
    """Where jobs run."""

    executor: Literal["local", "debug"] = "local"
    """local: submitit's local executor, one process a rank; debug: in this process, one rank, for a debugger."""
    timeout_min: PositiveFloat = 24 * 60
    """Time limit of a job in minutes; it checkpoints before."""
    signal_delay_s: PositiveFloat = 60
    """How long before the limit a job is told to checkpoint, in seconds."""
    ranks: NonNegativeInt = 0
    """Ranks that may run at once; 0 takes the number of processors."""
    gpus: bool = False
    """One GPU for each rank."""


def read_profile(source: str) -> Profile:
    """A profile by the name of a template or by the path of a YAML file.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    path = Path(source) if source.endswith((".yaml", ".yml")) else TEMPLATES / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(template.stem for template in TEMPLATES.glob("*.yaml")))
        raise ConfigError(f"--cluster: {source!r} is neither a .yaml file nor one of {names}")
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"--cluster: {source} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ConfigError(f"--cluster {source}: {explain(error)}") from None
