"""Which samples a training step sees, and where each of their solves starts.

Both are pure functions of (seed, step) and independent of the number of ranks: a rank takes its `share`, a slice of the
global batch. Only the states of a pool need a checkpoint.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.batches import Sample


class Order(Protocol):
    """What the training loop asks, on one rank."""

    def samples(self, step: int) -> list[Sample]:
        """This rank's share of the global batch of a step."""

    def start(self, step: int) -> Tensor | None:
        """The states that this rank's solves of a step go on from; None starts them afresh."""

    def draws(self, step: int) -> Tensor:
        """One uniform number for each of this rank's samples, for backprop methods that are random."""

    def adjoint_start(self, step: int) -> Tensor | None:
        """The adjoint solutions that this rank's adjoint solves of a step go on from; None starts them afresh."""

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Take note of the states and adjoint solutions that a step ended with."""

    def states(self) -> dict[int, Tensor]:
        """What a checkpoint has to hold."""

    def load(self, states: dict[int, Tensor]) -> None:
        """Take this rank's part out of all ranks' states."""


@dataclass(frozen=True)
class Epochs:
    """The plain order: an epoch visits each picture at most once, and every solve starts afresh."""

    seed: int
    train_count: int
    batch_size: int
    share: slice

    def samples(self, step: int) -> list[Sample]:
        """Consecutive pieces of a permutation, one permutation an epoch."""
        epoch, position = divmod(step, self.train_count // self.batch_size)
        order = sample_order(self.seed, epoch, self.train_count)
        first = position * self.batch_size
        return [Sample(int(index), epoch) for index in order[first : first + self.batch_size]][self.share]

    def start(self, step: int) -> None:
        """Afresh."""

    def adjoint_start(self, step: int) -> None:
        """Afresh."""

    def draws(self, step: int) -> Tensor:
        """Anew at each step."""
        return uniform_draws(self.seed, step, self.batch_size)[self.share]

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Nothing to note."""

    def states(self) -> dict[int, Tensor]:
        """Nothing to save."""
        return {}

    def load(self, states: dict[int, Tensor]) -> None:
        """Nothing to load."""


class PoolOrder:
    """A persistent pool of states: a step goes on with the solves of some samples instead of starting new ones.

    The pool is a ring of batches that take turns. A batch is solved in full on its first visit, continued for a few
    evaluations on each later one, and after `refresh_every` visits gives way to new samples; batches are staggered. So
    the weights are trained at states that have seen many evaluations, which keeps a trained fixed point from drifting,
    and most steps need few. With `keep_adjoint` it holds the adjoint solutions too, in as much memory again.
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
        """Slot to (1, channels, height, width), the state, or (2, ...), the state and the adjoint solution; slot s
        belongs to batch s // batch_size."""

    def samples(self, step: int) -> list[Sample]:
        """The samples of the batch that a step visits: picture and noise stay the same between two refreshes."""
        first = (self._generation(step) * self.batches + step % self.batches) * self.batch_size
        positions = (divmod(first + k, self.train_count) for k in range(self.batch_size)[self.share])
        return [Sample(int(sample_order(self.seed, e, self.train_count)[p]), e) for e, p in positions]

    def start(self, step: int) -> Tensor | None:
        """The stored states; None for new samples, and where a state was not finite."""
        return self._stored(step, 0)

    def adjoint_start(self, step: int) -> Tensor | None:
        """The stored adjoint solutions; None for new samples, and where one is missing or was not finite."""
        return self._stored(step, 1)

    def _stored(self, step: int, row: int) -> Tensor | None:
        last_visit = step - self.batches
        is_new = last_visit < 0 or self._generation(step) != self._generation(last_visit)
        slots = self._slots(step)
        if is_new or any(slot not in self._states or len(self._states[slot]) <= row for slot in slots):
            return None
        return torch.stack([self._states[slot][row] for slot in slots])

    def draws(self, step: int) -> Tensor:
        """Anew at each visit."""
        return uniform_draws(self.seed, step, self.batch_size)[self.share]

    def keep(self, step: int, states: Tensor, adjoint: Tensor | None = None) -> None:
        """Store the states that are finite, and with them their adjoint solutions that are."""
        kept = torch.stack([states, adjoint] if self.keep_adjoint and adjoint is not None else [states], dim=1)
        finite = kept.flatten(2).isfinite().all(dim=2).tolist()
        for slot, rows, usable in zip(self._slots(step), kept, finite, strict=True):
            self._states.pop(slot, None)
            if usable[0]:
                self._states[slot] = rows if all(usable) else rows[:1]

    def states(self) -> dict[int, Tensor]:
        """This rank's slots, with all that is kept in them."""
        return self._states

    def load(self, states: dict[int, Tensor]) -> None:
        """Take this rank's slots."""
        share = range(self.batch_size)[self.share]
        self._states = {slot: state for slot, state in states.items() if slot % self.batch_size in share}

    def _slots(self, step: int) -> range:
        first = step % self.batches * self.batch_size
        return range(first, first + self.batch_size)[self.share]

    def _generation(self, step: int) -> int:
        """How often the batch visited at this step has been refreshed; neighbours are refreshed at different visits."""
        visit, batch = divmod(step, self.batches)
        return (visit + batch) // self.refresh_every


def uniform_draws(seed: int, step: int, batch_size: int) -> Tensor:
    """One uniform number on [0, 1) for each place in a global batch, in float64; the same for any number of ranks."""
    return torch.from_numpy(np.random.default_rng([seed, step]).random(batch_size))


@lru_cache(maxsize=2)
def sample_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of the training pictures for one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
