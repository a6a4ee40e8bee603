"""The groups of settings within a cell: how it is run, and the parts of its training and scoring (torch-free)."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from harness.config.catalog.metrics import MetricSpec
from harness.config.spec import Frozen

MOST_STEPS = 10**7
"""Training steps of a cell; a larger number is taken for a mistake."""


class Operations(Frozen):
    """How a cell is run. None of these fields affects a result, so none is part of the cell_id."""

    checkpoint_every: PositiveInt = 50
    """Training steps between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept on disk besides the newest."""
    reconstructions: NonNegativeInt = 4
    """Number of test pictures whose reconstructions are stored."""
    metrics: tuple[MetricSpec, ...] = ()
    """Your own metrics, by import path, in addition to those of the catalog. A metric is a function that takes a
    picture and its ground truth, both of shape (3, height, width), and the pixel range; it returns a number."""


class Site(Frozen):
    """Settings that a machine imposes on every cell that runs on it. None of them affects a result."""

    checkpoint_every: PositiveInt | None = None
    """Training steps between two checkpoints; null uses the cell's own value."""
    keep_checkpoints: PositiveInt | None = None
    """Checkpoints kept on disk besides the newest; null uses the cell's own value."""
    stage: Annotated[str, Field(pattern=r"^[/$][\w$./{}-]*$")] | None = None
    """A folder on a local disk of the node, such as $TMPDIR, to which the decoded pictures are copied before they are
    read; variables are expanded on the node. null reads the pictures from the runs directory."""

    @property
    def wants_gpu(self) -> bool | None:
        """Whether each rank must have a GPU; None takes one where there is one."""
        return None

    def applied_to(self, operations: Operations) -> Operations:
        """A cell's operations with the settings of this site."""
        own = {"checkpoint_every": self.checkpoint_every, "keep_checkpoints": self.keep_checkpoints}
        return operations.model_copy(update={name: value for name, value in own.items() if value is not None})


ANYWHERE = Site()
"""A site that imposes nothing."""


class Pretraining(Frozen):
    """How the denoiser from which every map starts is trained: on Gaussian noise, with the mean squared error."""

    steps: int = Field(300, gt=0, le=MOST_STEPS)
    """Training steps."""
    noise_std: PositiveFloat = 0.02
    """Standard deviation of the noise to be removed, for pixels in [0, 1]."""
    lr: PositiveFloat = 2e-3
    """Initial learning rate of Adam, annealed to zero along a cosine."""


class Pool(Frozen):
    """A persistent pool of states: a step continues the solves of some samples instead of starting new ones.

    It stores `size` states, and as many adjoint solutions if these are kept. At 3 x 128 x 128 in float32, each of them
    takes 192 KiB; for DE-ADMM, twice that.
    """

    size: PositiveInt = 32
    """Number of samples whose states are kept, over all ranks; a multiple of global_batch_size."""
    max_steps: PositiveInt = 5
    """Maximum evaluations of T when a batch is visited again; its first visit is a complete solve."""
    relaxation: float | None = Field(1.5, gt=0, le=2)
    """A visit takes max_steps steps s <- s + relaxation (T(s) - s), whatever the cell's solver is: training has to see
    where the map's own iteration leads, and a value above 1 shows an oscillation before the map itself has one. null
    continues with the cell's solver up to its tolerance; Anderson acceleration then hides eigenvalues below -1, because
    it converges in spite of them."""
    refresh_every: PositiveInt = 12
    """Number of visits to a batch before new samples replace it."""
    adjoint: bool = True
    """Keep the adjoint solution with each state, so that `implicit` continues from it."""


class Evaluation(Frozen):
    """How pictures are reconstructed for scores.

    The solves are far more accurate than in training, so a score is that of a fixed point and not of a solver that
    stopped early.
    """

    tol: PositiveFloat = 1e-5
    """Relative residual at which a sample stops."""
    max_steps: PositiveInt = 200
    """Maximum evaluations of T per reconstruction."""


class Fidelity(Frozen):
    """Comparison of each backprop method's gradient with a converged one in float64, at several points of training."""

    every: PositiveInt | None = None
    """Training steps between two measurements; null measures only before and after training."""
    pictures: PositiveInt = 2
    """Number of validation pictures in the batch; the reference alone takes hundreds of evaluations of T on them."""
