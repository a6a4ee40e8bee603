"""What one cell of a grid computes: validated, frozen, torch-free, and named by a hash of what changes its result."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness.config.catalog.backprop import BackpropSpec, Jfb, Unrolled
from harness.config.catalog.baselines import BaselineSpec
from harness.config.catalog.data import DataSpec, Pictures
from harness.config.catalog.maps import MapSpec
from harness.config.catalog.metrics import MetricSpec
from harness.config.catalog.networks import DnCNN, NetworkSpec
from harness.config.catalog.optimization import Adam, Cosine, OptimizerSpec, ScheduleSpec
from harness.config.catalog.physics import GaussianBlur, PhysicsSpec
from harness.config.catalog.solvers import Anderson, SolverSpec
from harness.config.errors import ConfigError, explain
from harness.config.spec import Frozen

ACCELERATOR_ONLY = frozenset({"tf32", "bfloat16"})
"""Precisions that a CPU does not have, or only 90 times slower (NUMERICS section 4)."""


class Operations(Frozen):
    """How a cell is run. Nothing here changes a result, so nothing here is part of the cell_id."""

    checkpoint_every: PositiveInt = 50
    """Training steps between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept on disk besides the newest."""
    reconstructions: NonNegativeInt = 4
    """Test pictures whose reconstruction is stored."""
    metrics: tuple[MetricSpec, ...] = ()
    """Metrics of your own, by import path, scored beside those of the catalog: a function of a picture, its truth, both
    of shape (3, height, width), and the range of pixel values, that returns a number."""


class Site(Frozen):
    """What a machine asks of every cell that runs on it. Nothing here changes a result."""

    checkpoint_every: PositiveInt | None = None
    """Training steps between two checkpoints; null leaves it to the cell's own operations."""
    keep_checkpoints: PositiveInt | None = None
    """Checkpoints kept on disk besides the newest; null leaves it to the cell's own operations."""
    stage: Annotated[str, Field(pattern=r"^[/$][\w$./{}-]*$")] | None = None
    """A folder on a disk of the node's own, such as $TMPDIR, to which the decoded pictures are copied before they are
    read; its variables are those of the node. null reads them from the runs directory."""

    def operations(self, cell: "BaseCell") -> Operations:
        """How a cell is run here."""
        own = {"checkpoint_every": self.checkpoint_every, "keep_checkpoints": self.keep_checkpoints}
        return cell.operations.model_copy(update={name: value for name, value in own.items() if value is not None})


ANYWHERE = Site()
"""A machine that asks for nothing."""


class Pretraining(Frozen):
    """How the denoiser that starts every map is trained: Gaussian noise, mean squared error."""

    steps: PositiveInt = 300
    """Training steps."""
    noise_std: PositiveFloat = 0.02
    """Standard deviation of the noise to remove, on pixels in [0, 1]."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Adam, cosine-annealed to zero."""


class Pool(Frozen):
    """A persistent pool of states: a step goes on with the solves of some samples instead of starting new ones.

    Its memory is `size` states, twice that with their adjoint solutions: at 3 x 128 x 128 in float32 each is 192 KiB,
    for DE-ADMM twice as large.
    """

    size: PositiveInt = 32
    """Samples whose state is kept, over all ranks; a multiple of global_batch_size."""
    max_steps: PositiveInt = 5
    """Most evaluations of T when a known batch is visited again; a new one is solved in full."""
    relaxation: float | None = Field(1.5, gt=0, le=2)
    """A visit takes max_steps steps s + relaxation (T(s) - s), whatever the cell's solver is: training has to see where
    the map's own iteration goes, and with more than 1 it sees an oscillation before the map itself has one. null goes
    on with the cell's solver up to its tolerance; Anderson's hides eigenvalues below -1, for it converges there."""
    refresh_every: PositiveInt = 12
    """Visits of one batch before new samples take its place."""
    adjoint: bool = True
    """Keep the adjoint solution with each state: `implicit` goes on from it, but for `gmres` and `cg-normal`."""


class Evaluation(Frozen):
    """How pictures are reconstructed for scores: far more exactly than in training, so that a score is that of a fixed
    point and not of a solver that stopped early."""

    tol: PositiveFloat = 1e-5
    """Relative residual at which a sample stops."""
    max_steps: PositiveInt = 200
    """Most evaluations of T for one reconstruction."""


class Fidelity(Frozen):
    """Each backprop method's gradient against a converged one in float64, before, during and after training."""

    every: PositiveInt | None = None
    """Training steps between two measurements; null measures before and after training only."""
    pictures: PositiveInt = 2
    """Validation pictures in the batch; the reference alone takes hundreds of evaluations of T on them."""


class BaseCell(Frozen):
    """What every kind of cell has."""

    kind: str
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the sample order and the training noise."""
    world_size: PositiveInt = 1
    """Number of ranks (processes) that share the global batch."""
    precision: Literal["float32", "float64", "tf32", "bfloat16"] = "float32"
    """Floating-point type of weights, states and measurements; with tf32 and bfloat16, on GPUs only, they stay float32
    and the network alone computes in the shorter type."""
    data: DataSpec = Pictures()
    """Where pictures come from."""
    operations: Operations = Operations()
    """How the cell is run; changes no result."""

    @property
    def label(self) -> str:
        """The readable part of the cell_id."""
        raise NotImplementedError

    @property
    def needs(self) -> "PretrainCell | None":
        """The cell that must be finished before this one starts."""
        return None

    @cached_property
    def cell_id(self) -> str:
        """Readable label and a hash of every field that changes a result."""
        identity = self.model_dump(
            mode="json",
            serialize_as_any=True,
            exclude={"operations": True, "data": set(self.data.location_fields)},
        )
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{self.label}-{digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """The whole cell, as `parse_cell` reads it."""
        return self.model_dump(mode="json", serialize_as_any=True)


class BatchedCell(BaseCell):
    """A cell that trains on batches."""

    global_batch_size: PositiveInt = 8
    """Samples in one step over all ranks."""

    def denoiser(self, network: NetworkSpec, physics: PhysicsSpec, pretraining: Pretraining) -> "PretrainCell":
        """The pretraining that this cell needs: one for each network, data, value range, noise level and seed.

        It scores no test picture, so that it serves whatever number of them is scored later.
        """
        return PretrainCell(
            seed=self.seed,
            world_size=self.world_size,
            precision=self.precision,
            data=self.data.model_copy(update={"test_images": None}),
            operations=self.operations,
            global_batch_size=self.global_batch_size,
            network=network,
            value_range=physics.value_range,
            pretraining=pretraining,
        )

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.global_batch_size % self.world_size:
            raise PydanticCustomError(
                "choice",
                "global_batch_size {batch} is not divisible by world_size {world}",
                {"batch": self.global_batch_size, "world": self.world_size},
            )
        return self


class PretrainCell(BatchedCell):
    """Trains the denoiser D(x) = x - N(x) that every map of a grid starts from."""

    kind: Literal["pretrain"] = "pretrain"
    network: NetworkSpec = DnCNN()
    """The residual network N."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Pixel values of black and white."""
    pretraining: Pretraining = Pretraining()
    """How it is trained."""

    @property
    def label(self) -> str:
        """Network and seed."""
        return f"pretrain_{_slug(self.network.name)}_s{self.seed}"


class TrainCell(BatchedCell):
    """Trains one model by one backprop method under one schedule."""

    kind: Literal["train"] = "train"
    model: MapSpec
    """The map T(x; d)."""
    backprop: BackpropSpec = Jfb()
    """How the gradient passes the fixed point."""
    schedule: ScheduleSpec = Cosine()
    """Learning rate against step."""
    physics: PhysicsSpec = GaussianBlur()
    """The forward operator."""
    network: NetworkSpec = DnCNN()
    """The residual network N."""
    solver: SolverSpec = Anderson()
    """Solver of the forward fixed point."""
    optimizer: OptimizerSpec = Adam()
    """Optimiser and learning rate."""
    jacobian_penalty: PositiveFloat | None = None
    """Weight in the loss of the mean square singular value of T's Jacobian at s* (Bai et al. 2021); null: none."""
    compile: bool = False
    """Whether torch.compile compiles T. Fused operations may round otherwise, and a solve passes that on, so it is part
    of the cell_id. Measured on one CPU core only (`make bench`): T .8 to .9 of its time, T and back 1.0, `implicit` 1.2
    to 1.5, after some 20 s of compiling."""
    evaluation: Evaluation | None = Evaluation()
    """Tolerance and length of the solves behind scores, by the cell's own solver; null takes the training's. Methods of
    a fixed number of steps are scored by these."""
    pool: Pool | None = Pool()
    """Persistent states; null solves from the start in every training step."""
    loss: Literal["mse", "rmse"] = "mse"
    """Mean square error, as in the paper, or the mean over pictures of each one's root mean square error. Scores are
    means of decibels: a picture already at 42 dB counts in them as much as one at 28 dB, but not in the mean square, so
    that with mixed pictures training on `mse` may trade it away."""
    steps: PositiveInt = 100
    """Training steps."""
    warm_up: NonNegativeInt = 40
    """First training steps, whose gradient is JFB's with every backprop method that looks for a fixed point. A denoiser
    plugged in is slightly expansive (spectral radius 1.01 to 1.05 on photographs) and JFB makes it contractive. Where
    it is not, the exact gradient drives it further off: without these steps `implicit` lost 3 dB in its first 50."""
    gradient_clip: PositiveFloat | None = 1e-4
    """Largest norm of the whole gradient; null does not clip. The default is the usual norm of JFB's gradient on pixels
    in [0, 1] with `mse`, which is some thirty times as large with `rmse`; the exact one is ten times as large as JFB's
    and has a heavy tail, which Adam alone takes for larger steps."""
    evaluate_every: PositiveInt = 50
    """Training steps between two evaluations on the validation split."""
    pretraining: Pretraining = Pretraining()
    """How the denoiser was trained before."""
    fidelity: Fidelity | None = None
    """Measurement of gradients against the exact one; null leaves out this long computation."""

    @model_validator(mode="after")
    def _pool_divides(self) -> Self:
        if self.pool is not None and self.pool.size % self.global_batch_size:
            raise PydanticCustomError(
                "choice",
                "pool.size {size} is not a multiple of global_batch_size {batch}",
                {"size": self.pool.size, "batch": self.global_batch_size},
            )
        return self

    @model_validator(mode="after")
    def _solver_suits_backprop(self) -> Self:
        allowed = self.backprop.forward_solvers
        if allowed and self.solver.name not in allowed:
            raise PydanticCustomError(
                "choice",
                "backprop {backprop} needs solver {allowed}, not {solver}",
                {"backprop": self.backprop.name, "allowed": " or ".join(sorted(allowed)), "solver": self.solver.name},
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.active_warm_up >= self.steps and not isinstance(self.backprop, Jfb):
            raise PydanticCustomError(
                "choice",
                "warm_up {warm_up} leaves none of {steps} steps to backprop {backprop}",
                {"warm_up": self.warm_up, "steps": self.steps, "backprop": self.backprop.name},
            )
        return self

    @model_validator(mode="after")
    def _feed_forward_takes_one_step(self) -> Self:
        if not self.iterates and self.backprop != Unrolled(steps=1):
            raise PydanticCustomError(
                "choice",
                "model {model} has no fixed point: it needs backprop unrolled with steps 1, not {backprop}",
                {"model": self.model.name, "backprop": self.backprop.name},
            )
        return self

    @property
    def iterates(self) -> bool:
        """Whether the model is a map to iterate."""
        return self.model.iterated

    @property
    def active_pool(self) -> Pool | None:
        """The pool, unless the backprop method has to start at the initial state."""
        return self.pool if self.backprop.finds_fixed_point else None

    @property
    def active_warm_up(self) -> int:
        """Steps of warm-up, unless the backprop method looks for no fixed point."""
        return self.warm_up if self.backprop.finds_fixed_point else 0

    @property
    def depth(self) -> int:
        """Most evaluations of T behind a reconstruction."""
        return self.backprop.fixed_steps or self.solver.max_steps

    @property
    def label(self) -> str:
        """Model, backprop method, schedule and seed."""
        return "_".join([_slug(self.model.name), _slug(self.backprop.name), _slug(self.schedule.name), f"s{self.seed}"])

    @cached_property
    def needs(self) -> PretrainCell | None:
        """The denoiser that the map starts from."""
        if not self.iterates:
            return None
        return self.denoiser(self.network, self.physics, self.pretraining)


class BaselineCell(BatchedCell):
    """Scores a method without training for the task, its free parameters tuned on the validation split."""

    kind: Literal["baseline"] = "baseline"
    baseline: BaselineSpec
    """The method."""
    physics: PhysicsSpec = GaussianBlur()
    """The forward operator."""
    network: NetworkSpec | None = None
    """The network of the pretrained denoiser, for methods that plug one in; this and `pretraining` name it."""
    pretraining: Pretraining | None = None
    """How that denoiser was trained."""

    @property
    def label(self) -> str:
        """The method, and the seed of its denoiser."""
        return _slug(self.baseline.name) + (f"_s{self.seed}" if self.needs else "")

    @property
    def needs(self) -> PretrainCell | None:
        """The denoiser that is plugged in."""
        if self.network is None or self.pretraining is None:
            return None
        return self.denoiser(self.network, self.physics, self.pretraining)


Cell = PretrainCell | TrainCell | BaselineCell


_ADAPTER: TypeAdapter[Cell] = TypeAdapter(Annotated[Cell, Field(discriminator="kind")])


def parse_cell(fields: dict[str, Any]) -> Cell:
    """Validate one cell.

    Raises:
        ConfigError: one line naming the field, the bad value and what is allowed.
    """
    try:
        return _ADAPTER.validate_python({"kind": "train", **fields})
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _slug(name: str) -> str:
    """A name that can stand in a file name."""
    return name.replace(":", ".").rpartition(".")[2] if ":" in name else name
