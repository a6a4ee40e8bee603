"""Cluster profiles: where jobs run and with what limits, from slurm_templates/*.yaml or a user's own file."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

import slurm_templates
from harness.config.cells import Site
from harness.config.errors import ConfigError, explain

# glibc returns large blocks to the kernel on every free, and busy-waiting threads of one rank starve the other; both
# slow a CPU rank down by a factor that depends on what else runs (NUMERICS section 4).
CPU_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "OMP_WAIT_POLICY": "passive",
}
TEMPLATES = Path(slurm_templates.__path__[0])

# What stands in an sbatch line. No character that a shell would act on passes.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:+-]*$")]
# A constraint may also combine features: a100|h100, [rack1|rack2], gpu&nvlink, node*2.
Features = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:&|*()\[\]-]+$")]
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Limits(Site):
    """What every profile has, and all that a cell is told of it."""

    timeout_min: PositiveFloat = 24 * 60
    """Time limit of a job in minutes; a cell that needs longer checkpoints before and goes on in the same job."""
    signal_delay_s: PositiveInt = 60
    """How long before the limit a job is told to checkpoint, in seconds."""

    @model_validator(mode="after")
    def _told_in_time(self) -> Self:
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
    """local: submitit's local executor, one process a rank; debug: in this process, one rank, for a debugger."""
    ranks: NonNegativeInt = 0
    """Ranks that may run at once, with equal shares of the processors; 0 takes the number of processors."""
    gpus: bool = False
    """One GPU for each rank; ranks is then the number of GPUs to use."""

    @model_validator(mode="after")
    def _gpus_are_counted(self) -> Self:
        if self.gpus and not self.ranks:
            raise PydanticCustomError("choice", "ranks 0 does not say how many GPUs this machine has (gpus is true)")
        return self


class Slurm(Limits):
    """A Slurm cluster, or one partition of it."""

    executor: Literal["slurm"]
    """slurm: job arrays, sent by sbatch."""
    partition: Name | None = None
    """Partition; null takes the cluster's default."""
    account: Name | None = None
    """Account to charge."""
    qos: Name | None = None
    """Quality of service."""
    constraint: Features | None = None
    """Features a node must have."""
    exclude: list[NodeName] = []
    """Nodes to stay away from."""
    exclusive: bool = False
    """Whole nodes only."""
    gpu: Name | None = None
    """Generic resource of one rank as the site calls it, such as gpu or gpu:a100; null runs on CPUs."""
    ranks_per_node: PositiveInt = 1
    """Most ranks on one node; with GPUs, how many of them a node has."""
    cpus: PositiveInt = 4
    """Processors of one rank, and so many threads: of torch on a CPU, and by OMP_NUM_THREADS of every library."""
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MG]$")] = "16G"
    """Main memory of one rank, with its unit: 16G, 500M."""
    cells_per_job: PositiveInt = 1
    """Cells of one shape that share an allocation, one after the other; for cells shorter than the queue."""
    cells_at_once: PositiveInt = 1
    """Cells of one rank that a job runs side by side, each with a GPU, processors and memory of its own."""
    throttle: PositiveInt = 50
    """Jobs of one array that may run at once."""
    array_size: PositiveInt = 1000
    """Most jobs in one array; at most the site's MaxArraySize (scontrol show config)."""
    retries: NonNegativeInt = 2
    """How often a job whose process died or whose node failed it is started again."""
    setup: list[str] = []
    """Lines of shell that run first on the first node, such as module load cuda/12.4."""
    environment: dict[Variable, str] = {}
    """Variables for every rank."""
    srun_args: list[str] = []
    """More arguments of srun, such as --container-image=FILE."""
    python: list[str] = []
    """Words that start Python on a node, such as [apptainer, exec, --nv, image.sif, python]; [] takes this Python."""


Profile = Local | Slurm
_KINDS: dict[str, type[Profile]] = {"local": Local, "debug": Local, "slurm": Slurm}


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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"--cluster: {source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or content.get("executor") not in _KINDS:
        got = content.get("executor") if isinstance(content, dict) else content
        raise ConfigError(f"--cluster {source}: executor: must be one of {', '.join(_KINDS)} (got {got!r})")
    try:
        return _KINDS[content["executor"]].model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"--cluster {source}: {explain(error)}") from None
