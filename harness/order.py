"""Which samples a training step sees, and where each of their solves starts.

Both are pure functions of (seed, step) and independent of the number of ranks: a rank takes its `share`, a slice of the
global batch. Only the states of a pool need a checkpoint.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.data import Sample, sample_order


class Order(Protocol):
    """What the training loop asks, on one rank."""

    def samples(self, step: int) -> list[Sample]:
        """This rank's share of the global batch of a step."""

    def start(self, step: int, initial: Tensor) -> Tensor:
        """Where this rank's solves of a step start, given the map's initial states."""

    def keep(self, step: int, states: Tensor) -> None:
        """Take note of the states that a step ended with."""

    def states(self) -> dict[int, Tensor]:
        """What a checkpoint has to hold."""

    def load(self, states: dict[int, Tensor]) -> None:
        """Take this rank's part out of all ranks' states."""


@dataclass(frozen=True)
class Epochs:
    """The plain order: an epoch visits each picture at most once, and every solve starts at the initial state."""

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

    def start(self, step: int, initial: Tensor) -> Tensor:
        """The initial state."""
        return initial

    def keep(self, step: int, states: Tensor) -> None:
        """Nothing to note."""

    def states(self) -> dict[int, Tensor]:
        """Nothing to save."""
        return {}

    def load(self, states: dict[int, Tensor]) -> None:
        """Nothing to load."""


class PoolOrder:
    """A persistent pool of states: a step continues the solves of some samples instead of starting new ones.

    A slot of the pool holds one sample and its state for `refresh_every` visits; slots take turns and are staggered. A
    visit takes a few solver steps from the stored state and one gradient there. So the weights are trained at states
    far along the iteration, which keeps a trained fixed point from drifting, and a step needs few evaluations.
    """

    def __init__(
        self, seed: int, train_count: int, batch_size: int, share: slice, size: int, refresh_every: int
    ) -> None:
        self.seed = seed
        self.train_count = train_count
        self.batch_size = batch_size
        self.share = share
        self.size = size
        self.refresh_every = refresh_every
        self._states: dict[int, Tensor] = {}

    def samples(self, step: int) -> list[Sample]:
        """The samples in the slots that a step visits."""
        return [self._sample(slot, self._generation(slot, step)) for slot in self._slots(step)]

    def start(self, step: int, initial: Tensor) -> Tensor:
        """The stored states, or the initial state for a new sample."""
        chosen = [
            x if self._is_new(slot, step) or slot not in self._states else self._states[slot]
            for slot, x in zip(self._slots(step), initial, strict=True)
        ]
        return torch.stack(chosen)

    def keep(self, step: int, states: Tensor) -> None:
        """Store the states; a slot whose state is not finite starts afresh."""
        finite = states.flatten(1).isfinite().all(dim=1).tolist()
        for slot, state, usable in zip(self._slots(step), states, finite, strict=True):
            self._states.pop(slot, None)
            if usable:
                self._states[slot] = state

    def states(self) -> dict[int, Tensor]:
        """Slot to state (channels, height, width)."""
        return self._states

    def load(self, states: dict[int, Tensor]) -> None:
        """Take this rank's slots."""
        share = range(self.batch_size)[self.share]
        self._states = {slot: state for slot, state in states.items() if slot % self.batch_size in share}

    def _slots(self, step: int) -> range:
        first = step * self.batch_size % self.size
        return range(first, first + self.batch_size)[self.share]

    def _is_new(self, slot: int, step: int) -> bool:
        last_visit = step - self.size // self.batch_size
        return last_visit < 0 or self._generation(slot, step) != self._generation(slot, last_visit)

    def _generation(self, slot: int, step: int) -> int:
        visit = step * self.batch_size // self.size
        return (visit + slot) // self.refresh_every

    def _sample(self, slot: int, generation: int) -> Sample:
        epoch, position = divmod(generation * self.size + slot, self.train_count)
        return Sample(int(sample_order(self.seed, epoch, self.train_count)[position]), epoch)
