"""Cluster profiles: where jobs run and with what limits, from slurm_templates/*.yaml or a user's own file."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

import slurm_templates
from harness.config.errors import ConfigError, explain
from harness.config.settings import Site
from launch.planning.yaml_text import read_yaml

# glibc returns large blocks to the kernel on every free, and the busy-waiting threads of one rank starve the others.
# Both slow a CPU rank down by a factor that depends on what else is running (docs/numerics.md, section 10).
CPU_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_WAIT_POLICY": "passive",
}
TEMPLATES = Path(slurm_templates.__path__[0])

# These values become part of an sbatch script, so no character with a meaning to the shell is allowed.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:+-]*$")]
# A constraint may also combine features: a100|h100, [rack1|rack2], gpu&nvlink, node*2.
Features = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:&|*()\[\]-]+$")]
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _require_text(value: object) -> object:
    """Refuse anything but text without showing it, because it may be a secret."""
    if not isinstance(value, str | SecretStr):
        raise PydanticCustomError("choice", "must be text; put it in quotes")
    return value


# Hidden wherever a profile is printed or written as JSON.
Value = Annotated[SecretStr, BeforeValidator(_require_text)]


class Limits(Site):
    """The fields that all profiles share."""

    timeout_min: PositiveFloat = 24 * 60
    """Time limit of a job in minutes; a cell that needs more checkpoints before it and continues in the same job."""
    signal_delay_s: PositiveInt = 60
    """How many seconds before the time limit a job is asked to checkpoint."""

    @model_validator(mode="after")
    def _signal_comes_before_limit(self) -> Self:
        if self.signal_delay_s >= self.timeout_min * 60:
            raise PydanticCustomError(
                "choice",
                "signal_delay_s {delay} is not shorter than timeout_min {limit}",
                {"delay": self.signal_delay_s, "limit": self.timeout_min},
            )
        return self


class Local(Limits):
    """This machine, without a scheduler."""

    executor: Literal["local", "debug"] = "local"
    """local: submitit's local executor, one process per rank; debug: one rank in this process, for a debugger."""
    ranks: NonNegativeInt = 0
    """Ranks that may run at once, with equal shares of the processors; 0 means one rank per processor."""
    gpus: bool = False
    """Whether each rank gets its own GPU; ranks is then the number of GPUs to use. false computes on the CPU."""

    @property
    def wants_gpu(self) -> bool:
        """What the profile says: a missing GPU is an error, and a GPU is not used without being asked for."""
        return self.gpus

    @model_validator(mode="after")
    def _gpus_are_counted(self) -> Self:
        if self.gpus and not self.ranks:
            raise PydanticCustomError("choice", "ranks 0 does not say how many GPUs this machine has (gpus is true)")
        return self


class Slurm(Limits):
    """A Slurm cluster, or one partition of it."""

    executor: Literal["slurm"]
    """slurm: job arrays, submitted with sbatch."""
    partition: Name | None = None
    """Partition; null uses the cluster's default."""
    account: Name | None = None
    """Account to charge."""
    qos: Name | None = None
    """Quality of service."""
    constraint: Features | None = None
    """Features that a node must have."""
    exclude: list[NodeName] = []
    """Nodes to avoid."""
    exclusive: bool = False
    """Whether jobs get whole nodes."""
    gpu: Name | None = None
    """Generic resource of one rank under the site's name for it, such as gpu or gpu:a100; null runs on CPUs."""
    ranks_per_node: PositiveInt = 1
    """Maximum number of ranks on one node; with GPUs, the number of GPUs of a node."""
    cpus: PositiveInt = 4
    """Processors per rank; also the threads, of torch on a CPU and, as OMP_NUM_THREADS, of every library."""
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MG]$")] = "16G"
    """Main memory per rank, with its unit: 16G, 500M."""
    cells_per_job: PositiveInt = 1
    """Cells with the same world_size that share a job, one after the other; for cells shorter than the queue."""
    cells_at_once: PositiveInt = 1
    """Single-rank cells that a job runs side by side, each with its own GPU, processors and memory."""
    throttle: PositiveInt = 50
    """Maximum number of jobs of one array that run at once."""
    array_size: PositiveInt = 1000
    """Maximum number of jobs in one array; at most the site's MaxArraySize (scontrol show config)."""
    retries: NonNegativeInt = 2
    """How many times a job is restarted after one of its processes died or its node failed."""
    setup: list[str] = []
    """Shell commands that run first, on the first node, such as module load cuda/12.4."""
    environment: dict[Variable, Value] = {}
    """Environment variables of every rank. Their values may be secret: they are stored in one file, for this user only,
    and never shown."""
    srun_args: list[str] = []
    """Additional arguments of srun, such as --container-image=FILE."""
    python: list[str] = []
    """Command that starts Python on a node, such as [apptainer, exec, --nv, image.sif, python]; [] uses this Python."""

    @property
    def wants_gpu(self) -> bool:
        """What the profile says: a missing GPU is an error, and a GPU is not used without being asked for."""
        return self.gpu is not None


Profile = Local | Slurm
_KINDS: dict[str, type[Profile]] = {"local": Local, "debug": Local, "slurm": Slurm}


def read_profile(source: str) -> Profile:
    """Read a profile, given the name of a template or the path of a YAML file.

    Raises:
        ConfigError: the profile does not exist or is not valid; the message is one line.
    """
    path = Path(source) if source.endswith((".yaml", ".yml")) else TEMPLATES / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(template.stem for template in TEMPLATES.glob("*.yaml")))
        raise ConfigError(f"--cluster: {source!r} is neither a .yaml file nor one of {names}")
    content = read_yaml(path, "--cluster")
    got = content.get("executor") if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(got, str) or got not in _KINDS:
        raise ConfigError(f"--cluster {source}: executor: must be one of {', '.join(_KINDS)} (got {got!r})")
    try:
        return _KINDS[got].model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"--cluster {source}: {explain(error)}") from None
