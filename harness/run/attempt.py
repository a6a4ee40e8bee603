"""One attempt to run a cell, on one rank: its record, its status, and the scoring shared by all kinds of cells."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import IO, Literal

import torch
from PIL import Image
from torch import Tensor

from harness.config.catalog.metrics import MetricSpec
from harness.data.batches import Loader, to_pixels
from harness.measure.scores import Reconstruct, Scores, evaluate, merged
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.events import AnyEvent, End, Evaluation, Start, Step
from harness.run.distributed import RankPosition, gather_values

EVALUATION_BATCH = 8
"""Number of pictures that a rank reconstructs at a time. In batches of 16, each picture (128 x 128, 24 channels) took
1.4 times as long if glibc returned every layer's memory to the system, as it does outside the launcher's environment;
inside it, batches of 1 to 16 are equally fast."""
STATUS_EVERY_SECONDS = 0.5

Split = Literal["validation", "test"]


@dataclass
class Attempt:
    """The context of an attempt and what it writes. Only rank 0 has a record file, so only rank 0 writes."""

    folder: CellFolder
    position: RankPosition
    device: torch.device
    loader: Loader
    metrics: Sequence[MetricSpec]
    """The metrics by which pictures are scored."""
    stop: Callable[[], str]
    """Returns the reason to checkpoint and exit early, or ""; the reason may appear on any rank at any time."""
    status: CellStatus
    record: IO[str] | None
    environment: dict[str, object]
    adjoint_shares: list[float] = field(default_factory=list)
    """For each step of this attempt with a solved adjoint, the share of solves that ended at their limit."""

    def start(self, resumed_from: int) -> None:
        """Record the start of the attempt."""
        self.write(Start(time=time.time(), resumed_from=resumed_from, environment=self.environment))

    def end(self, seconds: float) -> None:
        """Record the end of a finished cell."""
        self.write(End(time=time.time(), seconds=seconds))

    def write(self, event: AnyEvent) -> None:
        """Append an event to the record."""
        if self.record is not None:
            self.record.write(event.model_dump_json() + "\n")
            self.record.flush()

    def secure(self) -> None:
        """Flush the record to disk, so that it survives the loss of this node."""
        if self.record is not None:
            os.fsync(self.record.fileno())

    def report(self, **changes: object) -> None:
        """Update the status; updates of the step alone are written at most twice a second."""
        now = time.time()
        only_progress = changes.keys() == {"step", "adjoint_cut"} and now - self.status.updated < STATUS_EVERY_SECONDS
        updated = self.status.updated if only_progress else now
        self.status = self.status.model_copy(update={**changes, "updated": updated})
        if self.record is not None and not only_progress:
            self.folder.write_status(self.status)

    def report_step(self, step: Step) -> None:
        """Update the status after a training step."""
        if step.adjoint_unconverged is not None:
            self.adjoint_shares.append(step.adjoint_unconverged)
        self.report(step=step.step, adjoint_cut=fmean(self.adjoint_shares) if self.adjoint_shares else None)

    def evaluate(self, reconstruct: Reconstruct, split: Split, step: int, keep: int = 0) -> None:
        """Score one split, divided among the ranks without padding; record it and store the first `keep` pictures.

        A split without pictures is not recorded.
        """
        pictures = list(self.loader.dataset.validation if split == "validation" else self.loader.dataset.test)
        if not pictures:
            return
        mine = pictures[self.position.rank :: self.position.world_size]

        def store(index: int, image: Tensor, truth: Tensor) -> None:
            if index in pictures[:keep]:
                self._store_picture(f"{index:06d}-output", image)
                self._store_picture(f"{index:06d}-truth", truth)

        found = evaluate(reconstruct, self.loader, mine, EVALUATION_BATCH, self.metrics, store)
        scores = merged([Scores(**part) for part in gather_values(asdict(found), self.device)])
        self.write(Evaluation.model_validate({"time": time.time(), "step": step, "split": split, **asdict(scores)}))

    def _store_picture(self, name: str, picture: Tensor) -> None:
        self.folder.reconstructions.mkdir(exist_ok=True)
        pixels = to_pixels(picture, self.loader.value_range)
        Image.fromarray(pixels).save(self.folder.reconstructions / f"{name}.png")
