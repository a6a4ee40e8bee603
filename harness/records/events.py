"""What a cell writes down, one JSON line per event, and how the attempts at a cell become one record (torch-free).

Numbers that are not finite stand as they are, as the JSON constants Infinity, -Infinity and NaN.

Each attempt appends to a file of its own and says which checkpoint it resumed from, so a killed or a zombie attempt
can neither lose nor repeat a step: `merge` keeps, of earlier attempts, what they wrote up to that checkpoint.
A step is counted in completed training steps: the event of the first step has step 1.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Event(BaseModel):
    """One line of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    time: float
    """Seconds since the epoch at which it was written."""


class Start(Event):
    """The first line of an attempt."""

    event: Literal["start"] = "start"
    resumed_from: int
    """Step of the checkpoint it resumed from; 0 starts afresh."""
    environment: dict[str, Any]
    """Git commit and dirty flag, package versions, device, host, threads."""


class Step(Event):
    """One training step over all ranks."""

    event: Literal["step"] = "step"
    step: int
    loss: float
    """The cell's loss, mse or rmse, over the global batch."""
    penalty: float = 0.0
    """What the Jacobian penalty adds to it; 0 without one."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    nfe: float
    """Forward evaluations of T per sample, mean over the global batch."""
    nfe_imbalance: float
    """Evaluations run by the busiest rank over the mean of all ranks."""
    residual: float
    """Largest relative residual of the batch."""
    diverged: list[int]
    """Indices of the pictures whose forward or adjoint solve diverged."""
    adjoint_nfe: float
    """Products with the Jacobian per sample, mean over the global batch; 0 without an adjoint solve."""
    adjoint_residual: float
    """Largest relative residual of the adjoint solve; 0 without one."""
    unconverged: float = 0.0
    """Share of the global batch whose forward solve ended at its largest number of steps, above its tolerance."""
    adjoint_unconverged: float | None = None
    """The same share of the adjoint solves; null without an adjoint solve that has a tolerance to meet."""
    seconds: dict[str, list[float]]
    """Phase to its seconds on each rank. On every rank the phases add up to the wall time of the whole step."""
    updated: bool = True
    """False where the gradient was not finite and the weights were left alone."""

    @property
    def duration(self) -> float:
        """Wall time of the step in seconds, from end to end on its slowest rank."""
        return max(map(sum, zip(*self.seconds.values(), strict=True)))


class Evaluation(Event):
    """The model, or a baseline, on one split."""

    event: Literal["evaluation"] = "evaluation"
    step: int
    split: Literal["validation", "test", "full"]
    """`full`: more test pictures, scored after the cell was finished."""
    indices: list[int]
    """The pictures, in the order of the lists below."""
    scores: dict[str, list[float]]
    """Metric to its scores: psnr, ssim and legacy_psnr, and a user's own metrics."""
    nfe: list[float]
    """Evaluations of T."""
    residual: list[float]
    """Relative residual |T(x) - x| / |T(x)| at the end of the solve; 0 for a method that solves nothing."""
    unit_residual: list[float] = []
    """The residual of the undamped map per unit of its step size, which can be compared across maps."""
    unconverged: list[int] = []
    """Indices of the pictures whose solve ended at its largest number of steps, above its tolerance."""
    diverged: list[int] = []
    """Indices of the pictures whose solve diverged."""

    def mean(self, metric: str) -> float:
        """The mean score of a metric over the pictures."""
        return fmean(self.scores[metric])


class Search(Event):
    """A baseline's search for its free parameter on the validation split."""

    event: Literal["search"] = "search"
    parameter: str
    candidates: list[float]
    psnr: list[float]
    """Mean standard PSNR on the validation split of each candidate."""
    chosen: float
    interior: bool
    """The chosen candidate is neither the first nor the last."""


class Cost(BaseModel):
    """What one gradient on a fixed batch costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_allocated_bytes: int
    """Peak during the gradient over what was allocated before it."""
    saved_bytes: int
    """Held for the backward pass after the forward pass, parameters excluded."""
    flops: int
    """Floating-point operations of one rank's gradient (matrix products and convolutions)."""
    seconds: float
    """Median time of one gradient."""
    seconds_spread: float
    """Third less first quartile of the repeats."""
    exposed_communication: float
    """Median backward time under DDP less that without synchronisation, in seconds."""
    gradient_bytes: int
    """Bytes that the ranks reduce."""


class Probe(Event, Cost):
    """The cost of one gradient, measured outside the training loop; of each figure the worst rank counts."""

    event: Literal["probe"] = "probe"
    step: int


class Contraction(Event):
    """How contractive the map is where it ends on some validation pictures, and where it goes far past that."""

    event: Literal["contraction"] = "contraction"
    step: int
    indices: list[int]
    """The pictures, in the order of the lists below."""
    norm: list[float]
    """|J|, the largest singular value of the map's Jacobian."""
    spectral_radius: list[float]
    """Modulus of the dominant eigenvalue of J."""
    dominant_eigenvalue: list[float]
    """Its real part, which has its sign where it is real."""
    dominant_imaginary: list[float]
    """Modulus of its imaginary part; 0 where it is real."""
    eigenvalue_residual: list[float]
    """|J^T v - mu v| / |mu| of that eigenvalue mu: how well it is known."""
    psnr_at: dict[int, float] = {}
    """Mean standard PSNR of the plainly iterated state after so many evaluations of T."""
    residual_at: dict[int, float] = {}
    """Largest relative residual there."""


class GradientError(BaseModel):
    """One method's gradient g against the exact one e, all parameters as one vector."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    cosine: float
    relative_error: float
    """|g - e| / |e|."""
    norm_ratio: float
    """|g| / |e|."""
    evaluations: int
    """Forward passes through T, the batch counted as one."""
    products: int
    """Backward passes through T, the last one, to the parameters, included."""


class Fidelity(Event):
    """Each backprop method's gradient on a fixed batch against the exact one, converged in float64."""

    event: Literal["fidelity"] = "fidelity"
    step: int
    status: Literal["measured", "no converged reference"]
    indices: list[int]
    """The validation pictures of the batch."""
    left_out: list[int] = []
    """Those of them whose forward or adjoint solve did not converge: they have no part in any gradient."""
    forward_residual: float
    """Of the reference; the largest of the pictures compared."""
    adjoint_residual: float | None
    """Null where the reference's forward solve did not converge."""
    methods: dict[str, GradientError]
    """The gradient of the whole batch; empty without a converged reference."""
    pictures: dict[str, list[GradientError]] = {}
    """The gradient of each compared picture's own loss: `indices` without `left_out`, in their order."""
    dominant_eigenvalue: list[float] = []
    """Of each compared picture, at the reference's fixed point: real part of the map's eigenvalue of largest modulus.
    Above 1 the fixed point repels plain iteration."""
    spectral_radius: list[float] = []
    """Its modulus."""


class Longer(Event):
    """Where plain iteration of a trained map goes on test pictures, measured after the cell was finished."""

    event: Literal["longer"] = "longer"
    step: int
    indices: list[int]
    """The pictures, in the order of the lists below."""
    psnr_at: dict[int, list[float]]
    """Standard PSNR after so many evaluations of T: the training depth, and ten times that."""
    residual_at: dict[int, list[float]]


class Exposure(Event):
    """What a whole training saw: a condition of every comparison."""

    event: Literal["exposure"] = "exposure"
    step: int
    distinct_pictures: int
    """Training pictures that were seen at least once, or of which a crop was."""
    noise_draws: int
    """Distinct pairs of a picture and a draw of noise. A pool visits each of them many times."""


class Checkpoint(Event):
    """Everything above this line is durable."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int


class End(Event):
    """The cell is finished."""

    event: Literal["end"] = "end"
    seconds: float
    """Wall time of this attempt."""


AnyEvent = Start | Step | Evaluation | Search | Probe | Contraction | Fidelity | Longer | Exposure | Checkpoint | End
_ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


def parse_lines(lines: Iterable[str]) -> list[AnyEvent]:
    """The events of one attempt. A last line cut off by a power failure is no event."""
    complete = [line for line in lines if line.endswith("\n")]
    return [_ADAPTER.validate_json(line) for line in complete]


def merge(attempts: Sequence[Sequence[AnyEvent]]) -> list[AnyEvent]:
    """One record of all attempts, oldest first: each event of the finished history once."""
    merged: list[AnyEvent] = []
    for attempt in attempts:
        if not attempt:
            continue
        start = attempt[0]
        assert isinstance(start, Start)
        merged = [*_up_to_checkpoint(merged, start.resumed_from), *attempt]
    return merged


def durable(events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """The part of a merged record that no later attempt will recompute."""
    if events and isinstance(events[-1], End):
        return list(events)
    checkpoints = [event.step for event in events if isinstance(event, Checkpoint)]
    return _up_to_checkpoint(events, checkpoints[-1]) if checkpoints else []


def _up_to_checkpoint(events: Sequence[AnyEvent], step: int) -> list[AnyEvent]:
    for position, event in enumerate(events):
        if isinstance(event, Checkpoint) and event.step == step:
            return list(events[: position + 1])
    if step == 0 or not events:
        return []
    # The attempt died between the checkpoint and its line here, which would have been the last.
    return [*events, Checkpoint(time=events[-1].time, step=step)]


CUT_SHARE = 0.05
"""A method more of whose adjoint solves than this end at their limit is not what its name says: it is called cut."""


def adjoint_cut_share(events: Iterable[AnyEvent]) -> float | None:
    """The share of all adjoint solves of a training that ended at their limit; None where none had a tolerance."""
    steps = (event for event in events if isinstance(event, Step))
    shares = [step.adjoint_unconverged for step in steps if step.adjoint_unconverged is not None]
    return fmean(shares) if shares else None


def honest_name(method: str, share: float | None) -> str:
    """The name of a backprop method, with ", cut" behind it if too many of its adjoint solves were."""
    return f"{method}, cut" if share is not None and share > CUT_SHARE else method
