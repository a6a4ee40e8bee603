"""The definition of one cell of a grid: validated, frozen, torch-free, and named by a hash of what affects it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness.config.catalog.backprop import BackpropSpec, Jfb, Unrolled
from harness.config.catalog.baselines import BaselineSpec
from harness.config.catalog.data import DataSpec, Pictures
from harness.config.catalog.maps import MapSpec
from harness.config.catalog.networks import DnCNN, NetworkSpec
from harness.config.catalog.optimization import Adam, Cosine, Fixed, OptimizerSpec, ScheduleSpec
from harness.config.catalog.physics import GaussianBlur, PhysicsSpec
from harness.config.catalog.solvers import Anderson, SolverSpec
from harness.config.dotted import flatten, with_fields
from harness.config.errors import ConfigError, explain
from harness.config.settings import MOST_STEPS, Evaluation, Fidelity, Operations, Pool, Pretraining
from harness.config.spec import Frozen
from harness.config.tune import Tune

ACCELERATOR_ONLY = frozenset({"tf32", "bfloat16"})
"""Precisions that CPUs lack or run 90 times slower (docs/numerics.md, section 10)."""
SETTLING_ROUNDS = 5
"""Rounds of a timing cell, after its warm-up, that are not timed."""


class BaseCell(Frozen, ABC):
    """The fields of every kind of cell."""

    kind: str
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the sample order and the training noise."""
    world_size: PositiveInt = 1
    """Number of ranks (processes) that share the global batch."""
    precision: Literal["float32", "float64", "tf32", "bfloat16"] = "float32"
    """Floating-point type of weights, states and measurements. With tf32 and bfloat16, which require a GPU, these stay
    in float32 and only the network computes in the shorter type."""
    data: DataSpec = Pictures()
    """Where the pictures come from."""
    operations: Operations = Operations()
    """How the cell is run; affects no result."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The readable part of the cell_id."""

    @property
    def needs(self) -> "PretrainCell | None":
        """The denoiser that this cell starts from, if any."""
        return None

    @property
    def prerequisites(self) -> "tuple[Cell, ...]":
        """The cells that must finish before this one starts."""
        return (self.needs,) if self.needs else ()

    def identity(self) -> dict[str, Any]:
        """Every field that affects a result."""
        return self.model_dump(
            mode="json",
            serialize_as_any=True,
            exclude={"operations": True, "data": set(self.data.location_fields)},
        )

    @cached_property
    def cell_id(self) -> str:
        """The readable label and a hash of every field that affects a result."""
        identity = self.identity()
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{self.label}-{digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """The whole cell, in the form that `parse_cell` reads."""
        return self.model_dump(mode="json", serialize_as_any=True)


class BatchedCell(BaseCell):
    """A cell that processes batches."""

    global_batch_size: PositiveInt = 8
    """Number of samples per step, over all ranks."""

    def denoiser(self, network: NetworkSpec, physics: PhysicsSpec, pretraining: Pretraining) -> "PretrainCell":
        """The pretraining that this cell needs: one for each network, data set, value range, noise level and seed.

        It scores no test pictures, so cells that score different numbers of them share it.
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
    """How the denoiser is trained."""

    @property
    def label(self) -> str:
        """Network and seed."""
        return f"pretrain_{_slug(self.network.name)}_s{self.seed}"


class ModelCell(BatchedCell):
    """A cell that computes gradients of a model."""

    model: MapSpec
    """The map T(x; d)."""
    physics: PhysicsSpec = GaussianBlur()
    """The forward operator."""
    network: NetworkSpec = DnCNN()
    """The residual network N."""
    solver: SolverSpec = Anderson()
    """Solver of the forward fixed point."""
    jacobian_penalty: PositiveFloat | None = None
    """Weight in the loss of the mean squared singular value of T's Jacobian at s* (Bai et al. 2021); null omits it."""
    compile: bool = False
    """Whether to compile T with torch.compile. Fused operations may round differently and a solve propagates that, so
    this field is part of the cell_id. Times relative to no compilation, measured only on one CPU core (`make bench`):
    T .8 to .9, T with its backward pass 1.0, `implicit` 1.2 to 1.5, after about 20 s of compilation."""
    pool: Pool | None = Pool()
    """Persistent states; null starts every solve from the initial state."""
    loss: Literal["mse", "rmse"] = "mse"
    """Mean squared error, as in the paper, or the mean over pictures of each one's root mean squared error. Scores are
    means of decibels: a picture already at 42 dB counts in them as much as one at 28 dB, but hardly counts in the mean
    squared error, so training on mixed pictures with `mse` may sacrifice it."""
    warm_up: NonNegativeInt = 40
    """Number of initial training steps that use JFB's gradient, with every backprop method that finds a fixed point. A
    map with a plugged-in denoiser is slightly expansive (spectral radius 1.01 to 1.05 on photographs), and JFB makes it
    contractive. The exact gradient drives an expansive map further off: without these steps, `implicit` lost 3 dB in
    its first 50 steps."""
    gradient_clip: PositiveFloat | None = 1e-4
    """Maximum norm of the whole gradient; null disables clipping. The default is the typical norm of JFB's gradient for
    pixels in [0, 1] with `mse`; with `rmse` that norm is about thirty times as large. The exact gradient is ten times
    as large as JFB's and heavy-tailed, and without clipping Adam turns its tail into larger steps."""
    pretraining: Pretraining = Pretraining()
    """How the denoiser was pretrained."""

    @model_validator(mode="after")
    def _pool_divides(self) -> Self:
        if self.pool is not None and self.pool.size % self.global_batch_size:
            raise PydanticCustomError(
                "choice",
                "pool.size {size} is not a multiple of global_batch_size {batch}",
                {"size": self.pool.size, "batch": self.global_batch_size},
            )
        return self

    @property
    def iterates(self) -> bool:
        """Whether the model is a map that is iterated."""
        return self.model.iterated

    @cached_property
    def needs(self) -> PretrainCell | None:
        """The denoiser that the map starts from."""
        if not self.iterates:
            return None
        return self.denoiser(self.network, self.physics, self.pretraining)


class TrainCell(ModelCell):
    """Trains one model with one backprop method and one learning-rate schedule."""

    kind: Literal["train"] = "train"
    backprop: BackpropSpec = Jfb()
    """How the gradient is propagated through the fixed point."""
    schedule: ScheduleSpec = Cosine()
    """Learning rate as a function of the step."""
    optimizer: OptimizerSpec = Adam()
    """Optimizer and learning rate."""
    evaluation: Evaluation | None = Evaluation()
    """Tolerance and length of the solves for scores, which use the cell's own solver; null uses those of training.
    Methods with a fixed number of steps are scored after that number."""
    steps: int = Field(100, gt=0, le=MOST_STEPS)
    """Training steps."""
    evaluate_every: PositiveInt = 50
    """Training steps between two evaluations on the validation split."""
    fidelity: Fidelity | None = None
    """Comparison of gradients with the exact one; null skips this long computation."""
    tune: Tune | None = None
    """The search that decides some of the fields above. A grid gives it to all of its training cells, by its own block
    `tune`; null trains with the fields as they are."""

    @model_validator(mode="after")
    def _tunes_with_other_seeds(self) -> Self:
        if self.tune is not None and self.seed in self.tune.seeds:
            raise PydanticCustomError("choice", "tune.seeds: {seed} is also a seed of the grid", {"seed": self.seed})
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
    def active_pool(self) -> Pool | None:
        """The pool; None if the backprop method has to start at the initial state."""
        return self.pool if self.backprop.finds_fixed_point else None

    @property
    def active_warm_up(self) -> int:
        """Number of warm-up steps; 0 if the backprop method does not look for a fixed point."""
        return self.warm_up if self.backprop.finds_fixed_point else 0

    @property
    def depth(self) -> int:
        """Maximum evaluations of T per reconstruction."""
        return self.backprop.fixed_steps or self.solver.max_steps

    @property
    def label(self) -> str:
        """Model, backprop method, schedule, whether it is tuned, and seed."""
        choices = [_slug(choice.name) for choice in (self.model, self.backprop, self.schedule)]
        return "_".join([*choices, *(["tuned"] if self.tune else []), f"s{self.seed}"])

    def identity(self) -> dict[str, Any]:
        """Every field that affects a result. Fields that are tuned do not count: they follow from the search."""
        identity = super().identity()
        if self.tune is None:
            del identity["tune"]
            return identity
        return with_fields(identity, dict.fromkeys(self.tune.axes))

    @property
    def prerequisites(self) -> "tuple[Cell, ...]":
        """The denoiser, and every trial of the search."""
        return (*super().prerequisites, *self.trials)

    @cached_property
    def trials(self) -> "tuple[TrainCell, ...]":
        """The trainings from which the tuned fields are chosen: every combination, with every tuning seed.

        Raises:
            ConfigError: an axis is no field of this cell, or a value is not allowed.
        """
        if self.tune is None:
            return ()
        return tuple(self.trial(point, seed) for point in self.tune.points() for seed in self.tune.seeds)

    def trial(self, point: Mapping[str, Any], seed: int) -> "TrainCell":
        """The training with one combination of values and one tuning seed; it never sees a test picture.

        Raises:
            ConfigError: see `trials`.
        """
        try:
            point = {**point, "seed": seed, "tune": None, "data.test_images": 0}
            trial = parse_cell(with_fields(self.to_json(), point))
        except ConfigError as error:
            raise ConfigError(f"tune.axes: {error}") from None
        assert isinstance(trial, TrainCell)
        return trial

    def with_tuned(self, values: Mapping[str, float]) -> "TrainCell":
        """This cell with its tuned fields set, under the same cell_id."""
        tuned = parse_cell(with_fields(self.to_json(), values))
        assert isinstance(tuned, TrainCell)
        return tuned


class TimedMethod(Frozen):
    """One of the methods that a timing cell compares."""

    backprop: BackpropSpec
    """How the gradient is propagated through the fixed point."""
    optimizer: OptimizerSpec = Adam()
    """Optimizer and learning rate, which decide where the weights go and so how long later solves take."""


class TimingCell(ModelCell):
    """Times several backprop methods that take turns, step by step, on the same ranks and the same batches.

    Each method trains a model of its own, at a constant learning rate. All models start from the same weights.
    """

    kind: Literal["timing"] = "timing"
    methods: tuple[TimedMethod, ...]
    """The methods that are compared, at least two."""
    steps: int = Field(ge=2)
    """Timed rounds. In each round, every method takes one step."""

    @model_validator(mode="after")
    def _methods_differ(self) -> Self:
        listed = [method.backprop.name for method in self.methods]
        if len({method.backprop for method in self.methods}) < max(2, len(listed)):
            raise PydanticCustomError(
                "choice",
                "methods: at least two backprop methods, each once, are compared (got {listed})",
                {"listed": ", ".join(listed) or "none"},
            )
        return self

    @model_validator(mode="after")
    def _methods_can_train(self) -> Self:
        try:
            assert self.trainings
        except ValidationError as error:
            raise PydanticCustomError("choice", "methods: {problem}", {"problem": explain(error)}) from None
        return self

    @property
    def untimed(self) -> int:
        """Rounds before the timed ones: the warm-up and the first solve of every batch of the pool, and a few more."""
        batches = self.pool.size // self.global_batch_size if self.pool else 0
        return max(self.warm_up, batches) + SETTLING_ROUNDS

    @property
    def rounds(self) -> int:
        """All rounds, timed or not."""
        return self.untimed + self.steps

    @cached_property
    def trainings(self) -> dict[str, TrainCell]:
        """The training of each method, by the method's name."""
        shared = {name: getattr(self, name) for name in ModelCell.model_fields if name != "kind"}
        shared |= {"schedule": Fixed(), "steps": self.rounds}
        named = zip(self._names, self.methods, strict=True)
        return {
            name: TrainCell(**shared, backprop=method.backprop, optimizer=method.optimizer) for name, method in named
        }

    @property
    def label(self) -> str:
        """The model and the seed."""
        return f"timing_{_slug(self.model.name)}_s{self.seed}"

    @property
    def _names(self) -> list[str]:
        """The name of each method; if several have the same, it is followed by the parameters in which they differ."""
        specs = (method.backprop.model_dump(mode="json", serialize_as_any=True) for method in self.methods)
        flat = [dict(flatten(spec)) for spec in specs]
        return [_distinct_name(one, [other for other in flat if other["name"] == one["name"]]) for one in flat]


TIMED_ALIKE = frozenset(ModelCell.model_fields) - {"kind", "seed", "operations", "warm_up", "gradient_clip"}
"""The fields in which training cells must agree to be compared by one timing cell. The others change no step's cost."""


class BaselineCell(BatchedCell):
    """Scores a method that is not trained for the task; its free parameters are tuned on the validation split."""

    kind: Literal["baseline"] = "baseline"
    baseline: BaselineSpec
    """The method."""
    physics: PhysicsSpec = GaussianBlur()
    """The forward operator."""
    network: NetworkSpec | None = None
    """The network of the denoiser, for methods that use one; with `pretraining`, it identifies the denoiser."""
    pretraining: Pretraining | None = None
    """How that denoiser was trained."""

    @property
    def label(self) -> str:
        """The method, and the seed of its denoiser if it has one."""
        return _slug(self.baseline.name) + (f"_s{self.seed}" if self.needs else "")

    @property
    def needs(self) -> PretrainCell | None:
        """The denoiser that the method uses, if any."""
        if self.network is None or self.pretraining is None:
            return None
        return self.denoiser(self.network, self.physics, self.pretraining)


Cell = PretrainCell | TrainCell | TimingCell | BaselineCell


_ADAPTER: TypeAdapter[Cell] = TypeAdapter(Annotated[Cell, Field(discriminator="kind")])


def parse_cell(fields: dict[str, Any]) -> Cell:
    """Validate the fields of one cell; without a kind, it is a training cell.

    Raises:
        ConfigError: in one line, the field, the bad value and what is allowed.
    """
    try:
        return _ADAPTER.validate_python({"kind": "train", **fields})
    except ValidationError as error:
        raise ConfigError(explain(error, skip=1)) from None


def in_order(cell: Cell) -> Iterator[Cell]:
    """The cell, after everything that has to finish before it."""
    for needed in cell.prerequisites:
        yield from in_order(needed)
    yield cell


def _slug(name: str) -> str:
    """The name as a part of a file name: for an import path, only the attribute."""
    return name.replace(":", ".").rpartition(".")[2] if ":" in name else name


def _distinct_name(method: Mapping[str, Any], namesakes: Sequence[Mapping[str, Any]]) -> str:
    """The method's name and those of its flat parameters in which some namesake differs."""
    differing = [key for key in method if any(other.get(key) != method[key] for other in namesakes)]
    return " ".join([str(method["name"]), *(f"{key}={method[key]}" for key in differing)])
