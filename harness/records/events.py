"""The events that a cell writes, one JSON line each, and how its attempts merge into one record (torch-free).

Numbers that are not finite are written as the constants Infinity, -Infinity and NaN, which Python's json reads.

Each attempt appends to its own file and says from which checkpoint it resumed, so a killed or a zombie attempt can
neither lose nor repeat a step: `merge` keeps what earlier attempts wrote up to that checkpoint. `step` is the number of
completed training steps: the event of the first step has step 1.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.config.errors import ConfigError
from harness.records.damage import damage

FIRST_STEPS = 5
"""Steps that are not timed at the start of every attempt, but never more than half of the attempt's steps."""


class Event(BaseModel):
    """One line of a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    time: float
    """When the line was written, seconds since the epoch."""


class Start(Event):
    """The first line of an attempt."""

    event: Literal["start"] = "start"
    resumed_from: int
    """Step of the checkpoint from which the attempt resumed; 0 if it started from scratch."""
    environment: dict[str, Any]
    """Git commit and dirty flag, package versions, device, host, threads."""


class Step(Event):
    """One training step over all ranks."""

    event: Literal["step"] = "step"
    step: int
    loss: float
    """The cell's loss, mse or rmse, over the global batch."""
    penalty: float = 0.0
    """What the Jacobian penalty adds to the loss; 0 without one."""
    learning_rate: float
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    nfe: float
    """Forward evaluations of T per sample, mean over the global batch."""
    nfe_imbalance: float
    """Evaluations run by the busiest rank, divided by the mean over all ranks."""
    residual: float
    """Largest relative residual in the global batch."""
    diverged: list[int]
    """Indices of the pictures whose forward or adjoint solve diverged."""
    adjoint_nfe: float
    """Products with the Jacobian per sample, mean over the global batch; 0 without an adjoint solve."""
    adjoint_residual: float
    """Largest relative residual of the adjoint solve; 0 without one."""
    unconverged: float = 0.0
    """Share of the global batch whose forward solve ended at its maximum number of steps, above its tolerance."""
    adjoint_unconverged: float | None = None
    """The same share of the adjoint solves; null without an adjoint solve that has a tolerance to meet."""
    evaluations: tuple[int, ...] = ()
    """Forward evaluations of T of each sample, in the order of the global batch: the first rank's samples come first.
    Empty in records from before this field."""
    products: tuple[int, ...] = ()
    """Products with the Jacobian of each sample's adjoint solve, in the same order; empty without one."""
    seconds: dict[str, list[float]]
    """Seconds of each phase on each rank. On every rank, the phases add up to the wall time of the whole step."""
    updated: bool = True
    """False if the gradient was not finite and the weights were left unchanged."""

    @property
    def duration(self) -> float:
        """Wall time of the step in seconds, from end to end on its slowest rank."""
        return max(map(sum, zip(*self.seconds.values(), strict=True)))


class Round(Event):
    """One step of every method of a timing cell, taken one after the other on the same batch and the same ranks."""

    event: Literal["round"] = "round"
    step: int
    """Number of the round. Those before the first recorded one were not timed."""
    steps: dict[str, Step]
    """The steps by method, in the order in which they were taken, which is random."""


class Evaluation(Event):
    """The model, or a baseline, on one split."""

    event: Literal["evaluation"] = "evaluation"
    step: int
    split: Literal["validation", "test", "full"]
    """`full`: more test pictures, scored after the cell finished."""
    indices: list[int]
    """The pictures, in the order of the lists below."""
    scores: dict[str, list[float]]
    """Scores by metric: psnr, ssim, legacy_psnr and a user's own metrics."""
    nfe: list[float]
    """Evaluations of T."""
    residual: list[float]
    """Relative residual |T(x) - x| / |T(x)| at the end of the solve; 0 for a method that solves nothing."""
    unit_residual: list[float] = []
    """The residual of the undamped map per unit of its step size, which can be compared across maps."""
    unconverged: list[int] = []
    """Indices of the pictures whose solve ended at its maximum number of steps, above its tolerance."""
    diverged: list[int] = []
    """Indices of the pictures whose solve diverged."""

    def mean(self, metric: str) -> float:
        """The mean score of a metric over the pictures."""
        return fmean(self.scores[metric])


class Search(Event):
    """A search on the validation split for the free parameter of a baseline, or for a tuned field of a training."""

    event: Literal["search"] = "search"
    parameter: str
    candidates: list[float]
    psnr: list[float]
    """Mean standard PSNR of each candidate on the validation split. Where several fields are tuned together, it is that
    of the best trial with this candidate."""
    chosen: float
    interior: bool
    """Whether the chosen candidate is neither the first nor the last."""
    trials: int = 0
    """Trainings behind the search, tuning seeds included; 0 for a baseline, which is not trained."""


class Cost(BaseModel):
    """The cost of one gradient on a fixed batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_allocated_bytes: int
    """Peak allocation during the gradient, minus what was allocated before it."""
    saved_bytes: int
    """Bytes held for the backward pass after the forward pass, excluding parameters."""
    flops: int
    """Floating-point operations of one rank's gradient (matrix products and convolutions)."""
    seconds: float
    """Median time of one gradient."""
    seconds_spread: float
    """Interquartile range of that time over the repeats."""
    exposed_communication: float
    """Median backward time under DDP minus that without synchronization, in seconds."""
    gradient_bytes: int
    """Number of bytes that the ranks reduce."""
    peak_requested_bytes: int = 0
    """Peak of the bytes that tensors requested, weights included; this and what follows is 0 without a CUDA device."""
    peak_active_bytes: int = 0
    """Peak of the allocator's blocks in use."""
    peak_reserved_bytes: int = 0
    """Peak of what the allocator held of the device's memory."""
    outside_bytes: int = 0
    """Memory of the device in use outside the allocator: its context, libraries, and other processes."""
    allocation_retries: int = 0
    """How often the allocator had to empty its cache and try again, since the process started."""


class Probe(Event, Cost):
    """The cost of one gradient, measured outside the training loop; each number is that of the worst rank."""

    event: Literal["probe"] = "probe"
    step: int


class Contraction(Event):
    """How contractive the map is at its final states on some validation pictures, and where longer iteration leads."""

    event: Literal["contraction"] = "contraction"
    step: int
    indices: list[int]
    """The pictures, in the order of the lists below."""
    norm: list[float]
    """|J|, the largest singular value of the map's Jacobian."""
    spectral_radius: list[float]
    """Modulus of the dominant eigenvalue of J."""
    dominant_eigenvalue: list[float]
    """Real part of that eigenvalue, with its sign."""
    dominant_imaginary: list[float]
    """Modulus of its imaginary part; 0 if the eigenvalue is real."""
    eigenvalue_residual: list[float]
    """|J^T v - mu v| / |mu| for that eigenvalue mu: how accurately it is known."""
    psnr_at: dict[int, float] = {}
    """Mean standard PSNR of the plainly iterated state, by number of evaluations of T."""
    residual_at: dict[int, float] = {}
    """Largest relative residual, by number of evaluations of T."""
    denoiser_bound: float | None = None
    """Certified upper bound of the Lipschitz constant of the denoiser D, and so of DE-HQS's undamped T = prox(D); null
    for a network that does not contract by construction."""
    psnr_moved: list[float] = []
    """Change in dB of each scored PSNR if the solve continues to a hundredth of the tolerance, after training only."""


class GradientError(BaseModel):
    """One method's gradient g compared with the exact gradient e, each as one vector over all parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    cosine: float
    relative_error: float
    """|g - e| / |e|."""
    norm_ratio: float
    """|g| / |e|."""
    evaluations: int
    """Number of forward passes through T, counting a batch as one."""
    products: int
    """Number of backward passes through T, including the last one, to the parameters."""


class Fidelity(Event):
    """Each backprop method's gradient on a fixed batch compared with the exact one, converged in float64."""

    event: Literal["fidelity"] = "fidelity"
    step: int
    status: Literal["measured", "no converged reference"]
    indices: list[int]
    """The validation pictures of the batch."""
    left_out: list[int] = []
    """Those of these pictures whose forward or adjoint solve did not converge; no gradient includes them."""
    forward_residual: float
    """Forward residual of the reference: the largest among the pictures compared."""
    adjoint_residual: float | None
    """Adjoint residual of the reference; null if its forward solve did not converge."""
    methods: dict[str, GradientError]
    """Errors of the whole batch's gradient, by method; empty without a converged reference."""
    pictures: dict[str, list[GradientError]] = {}
    """Errors of the gradient of each compared picture's own loss, by method: `indices` without `left_out`, in order."""
    dominant_eigenvalue: list[float] = []
    """Real part of the map's eigenvalue of largest modulus at the reference's fixed point of each compared picture.
    Above 1, the fixed point repels plain iteration."""
    spectral_radius: list[float] = []
    """Modulus of that eigenvalue."""


class Longer(Event):
    """Where plain iteration of a trained map leads on test pictures, measured after the cell finished."""

    event: Literal["longer"] = "longer"
    step: int
    indices: list[int]
    """The pictures, in the order of the lists below."""
    psnr_at: dict[int, list[float]]
    """Standard PSNR by number of evaluations of T: the training depth, and ten times that."""
    residual_at: dict[int, list[float]]
    """Relative residual by number of evaluations of T."""


class Exposure(Event):
    """How much data a whole training saw, which is a condition of every comparison."""

    event: Literal["exposure"] = "exposure"
    step: int
    distinct_pictures: int
    """Number of training pictures that were seen at least once, whole or as a crop."""
    noise_draws: int
    """Number of distinct pairs of a picture and a draw of noise. A pool visits each pair many times."""


class Checkpoint(Event):
    """Everything before this line is durable."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int


class End(Event):
    """The cell is finished."""

    event: Literal["end"] = "end"
    seconds: float
    """Wall time of this attempt."""


AnyEvent = (
    Start | Step | Round | Evaluation | Search | Probe | Contraction | Fidelity | Longer | Exposure | Checkpoint | End
)
_ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


def parse_lines(lines: Iterable[str], path: Path = Path("record.jsonl")) -> list[AnyEvent]:
    """The events of one attempt. A last line that a power failure cut off is ignored.

    Raises:
        ConfigError: a line is not an event; the message has the path, the line and the reason.
    """
    events = []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            try:
                events.append(_ADAPTER.validate_json(line))
            except ValidationError as error:
                raise ConfigError(damage(path, error, number)) from None
    return events


def merge(attempts: Sequence[Sequence[AnyEvent]]) -> list[AnyEvent]:
    """Merge the events of all attempts, oldest first, into one record that has each event of the final history once."""
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
    # The attempt died after it saved the checkpoint and before it wrote this event, which would have been its last.
    return [*events, Checkpoint(time=events[-1].time, step=step)]


CUT_SHARE = 0.05
"""If more than this share of a method's adjoint solves end at their limit, its name is marked as cut."""


def adjoint_cut_share(events: Iterable[AnyEvent]) -> float | None:
    """The share of all adjoint solves of a training that ended at their limit; None if none had a tolerance."""
    steps = (event for event in events if isinstance(event, Step))
    shares = [step.adjoint_unconverged for step in steps if step.adjoint_unconverged is not None]
    return fmean(shares) if shares else None


def honest_name(method: str, share: float | None) -> str:
    """The name of a backprop method, followed by ", cut" if more than CUT_SHARE of its adjoint solves were cut."""
    return f"{method}, cut" if share is not None and share > CUT_SHARE else method
