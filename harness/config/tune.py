"""A search for the fields that suit a method best: which values are tried, and with which seeds (torch-free)."""

import itertools
import math
import random
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from harness.config.spec import Frozen

COMPARED = frozenset(
    {"kind", "seed", "world_size", "precision", "data", "operations", "global_batch_size", "model", "backprop",
     "physics", "network", "evaluation", "steps", "pretraining", "fidelity", "tune"}
)  # fmt: skip
"""Fields that say what is compared, or on what. Their parameters may be tuned only if they are in `PARAMETERS`."""
PARAMETERS = frozenset({"model", "backprop"})
"""Choices of which the parameters may be tuned (model.damping), but not the choice itself."""


MOST_COMBINATIONS = 50_000
"""Combinations of the values of all axes."""


class Tune(Frozen):
    """A search on the validation pictures, with the same trials for every method.

    Each trial is a whole training with one value of every axis and a tuning seed. The values of the trial with the
    highest validation PSNR after training, averaged over the tuning seeds, are those that the cell is trained with.
    """

    axes: dict[str, tuple[int | float, ...]]
    """The fields to tune, dotted, each with the values to try: {optimizer.lr: [1e-4, 3e-4, 1e-3]}. If the best value is
    the first or the last, the report asks for a longer axis."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (1000,)
    """Tuning seeds; none may be a seed of the grid."""
    trials: Annotated[int, Field(ge=2)] | None = None
    """Number of combinations to try, drawn at random, the same for every method; null tries every combination."""

    @model_validator(mode="after")
    def _is_a_search(self) -> Self:
        for axis, values in self.axes.items():
            head, _, parameter = axis.partition(".")
            if head in COMPARED and not (head in PARAMETERS and parameter not in ("", "name")):
                raise PydanticCustomError(
                    "choice",
                    "axes: {axis} is part of what is compared and cannot be tuned; fields such as optimizer.lr, "
                    "gradient_clip, warm_up, model.damping and solver.tol can",
                    {"axis": axis},
                )
            if len(set(values)) < len(values):
                raise PydanticCustomError("choice", "axes: {axis} lists a value twice", {"axis": axis})
        combinations = math.prod(map(len, self.axes.values()))
        if combinations > MOST_COMBINATIONS:
            raise PydanticCustomError(
                "choice",
                "axes: {count} combinations are too many; at most {most} are drawn from",
                {"count": f"{combinations:,}", "most": f"{MOST_COMBINATIONS:,}"},
            )
        if combinations < max(2, self.trials or 0):
            raise PydanticCustomError(
                "choice",
                "axes: {wanted} trials are needed, but there are only {count} combinations",
                {"wanted": max(2, self.trials or 0), "count": combinations},
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("choice", "seeds: a seed is listed twice", {})
        return self

    def points(self) -> list[dict[str, int | float]]:
        """The combinations to try, each a value for every axis."""
        every = [
            dict(zip(self.axes, values, strict=True))
            for values in itertools.product(*(sorted(values) for values in self.axes.values()))
        ]
        return every if self.trials is None else random.Random(0).sample(every, self.trials)
