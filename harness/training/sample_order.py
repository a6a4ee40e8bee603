"""Which samples a training step uses, and where each of their solves starts.

Samples and random draws are pure functions of (seed, step) and independent of the number of ranks: each rank takes its
`share`, a slice of the global batch. Only the states of a pool need to be checkpointed.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.batches import Sample


class SampleOrder(Protocol):
    """The interface that the training loop uses on each rank."""

    def samples(self, step: int) -> list[Sample]:
        """This rank's share of the global batch at `step`."""

    def start(self, step: int) -> Tensor | None:
        """The states from which this rank's solves continue at `step`; None means no warm start."""

    def draws(self, step: int) -> Tensor:
        """One uniform random number for each of this rank's samples, for randomized backprop methods."""

    def adjoint_start(self, step: int) -> Tensor | None:
        """The adjoint solutions from which this rank's adjoint solves continue at `step`; None means no warm start."""

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Store the states and adjoint solutions with which `step` ended."""

    def states(self) -> dict[int, Tensor]:
        """This rank's part of what a checkpoint must contain."""

    def load(self, states: dict[int, Tensor]) -> None:
        """Restore this rank's part of the checkpointed states of all ranks."""


@dataclass(frozen=True)
class Epochs:
    """The plain order: an epoch visits each picture at most once, and no solve has a warm start."""

    seed: int
    train_count: int
    batch_size: int
    share: slice

    def samples(self, step: int) -> list[Sample]:
        """Consecutive pieces of a permutation; each epoch has its own permutation."""
        epoch, position = divmod(step, self.train_count // self.batch_size)
        order = sample_order(self.seed, epoch, self.train_count)
        first = position * self.batch_size
        return [Sample(int(index), epoch) for index in order[first : first + self.batch_size]][self.share]

    def start(self, step: int) -> None:
        """Always None: no warm start."""

    def adjoint_start(self, step: int) -> None:
        """Always None: no warm start."""

    def draws(self, step: int) -> Tensor:
        """New numbers at each step."""
        return uniform_draws(self.seed, step, self.batch_size)[self.share]

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Do nothing."""

    def states(self) -> dict[int, Tensor]:
        """Nothing: an empty dictionary."""
        return {}

    def load(self, states: dict[int, Tensor]) -> None:
        """Do nothing."""


class PoolOrder:
    """A persistent pool of states: a step continues the solves of some samples instead of starting new ones.

    The pool is a ring of batches that take turns. A batch is solved completely on its first visit, continued for a few
    evaluations on each later visit, and replaced by new samples after `refresh_every` visits; the replacements are
    staggered. Weights are thus trained at states that have had many evaluations, which keeps a trained fixed point from
    drifting, although most steps need only a few. With `keep_adjoint`, the pool also stores adjoint solutions, which
    doubles its memory.
    """

    def __init__(
        self,
        seed: int,
        train_count: int,
        batch_size: int,
        share: slice,
        size: int,
        refresh_every: int,
        keep_adjoint: bool = False,
    ) -> None:
        self.seed = seed
        self.train_count = train_count
        self.batch_size = batch_size
        self.share = share
        self.batches = size // batch_size
        self.refresh_every = refresh_every
        self.keep_adjoint = keep_adjoint
        self._states: dict[int, Tensor] = {}
        """Maps each slot to its state, (1, channels, height, width), or to its state and adjoint solution, (2, ...);
        slot s belongs to batch s // batch_size."""

    def samples(self, step: int) -> list[Sample]:
        """The samples of the batch visited at `step`; picture and noise stay the same until the batch is replaced."""
        first = (self._generation(step) * self.batches + step % self.batches) * self.batch_size
        positions = (divmod(first + k, self.train_count) for k in range(self.batch_size)[self.share])
        return [Sample(int(sample_order(self.seed, e, self.train_count)[p]), e) for e, p in positions]

    def start(self, step: int) -> Tensor | None:
        """The stored states; None if the samples are new or a state was not finite."""
        return self._stored(step, 0)

    def adjoint_start(self, step: int) -> Tensor | None:
        """The stored adjoint solutions; None if the samples are new, or one is missing or was not finite."""
        return self._stored(step, 1)

    def _stored(self, step: int, row: int) -> Tensor | None:
        last_visit = step - self.batches
        is_new = last_visit < 0 or self._generation(step) != self._generation(last_visit)
        slots = self._slots(step)
        if is_new or any(slot not in self._states or len(self._states[slot]) <= row for slot in slots):
            return None
        return torch.stack([self._states[slot][row] for slot in slots])

    def draws(self, step: int) -> Tensor:
        """New numbers at each visit."""
        return uniform_draws(self.seed, step, self.batch_size)[self.share]

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Store the finite states, each with its adjoint solution if that is finite too."""
        kept = torch.stack([states, adjoint] if self.keep_adjoint and adjoint is not None else [states], dim=1)
        finite = kept.flatten(2).isfinite().all(dim=2).tolist()
        for slot, rows, usable in zip(self._slots(step), kept, finite, strict=True):
            self._states.pop(slot, None)
            if usable[0]:
                self._states[slot] = rows if all(usable) else rows[:1]

    def states(self) -> dict[int, Tensor]:
        """The contents of this rank's slots."""
        return self._states

    def load(self, states: dict[int, Tensor]) -> None:
        """Restore this rank's slots."""
        share = range(self.batch_size)[self.share]
        self._states = {slot: state for slot, state in states.items() if slot % self.batch_size in share}

    def _slots(self, step: int) -> range:
        first = step % self.batches * self.batch_size
        return range(first, first + self.batch_size)[self.share]

    def _generation(self, step: int) -> int:
        """How often the batch visited at `step` has been replaced, which happens at different visits for neighbors."""
        visit, batch = divmod(step, self.batches)
        return (visit + batch) // self.refresh_every


def exposure(order: SampleOrder, steps: int) -> tuple[int, int]:
    """How many distinct pictures, and how many draws of noise, a training of this many steps sees."""
    samples = {(sample.index, sample.epoch) for step in range(steps) for sample in order.samples(step)}
    return len({index for index, _ in samples}), len(samples)


def uniform_draws(seed: int, step: int, batch_size: int) -> Tensor:
    """Float64 uniform numbers on [0, 1), one per position in the global batch, for any number of ranks the same."""
    return torch.from_numpy(np.random.default_rng([seed, step]).random(batch_size))


@lru_cache(maxsize=2)
def sample_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The permutation of `count` training pictures for one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
