"""Loads models from the directories of finished cells, wherever they are."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from harness.config.cells import PretrainCell, TrainCell
from harness.config.errors import ConfigError
from harness.config.trust import require_trust
from harness.models.build_model import build_equilibrium
from harness.models.equilibrium import Equilibrium
from harness.models.precision import DTYPES
from harness.records.cell_folder import CellFolder
from harness.run import checkpoint


def denoiser_weights(folder: CellFolder, needed: PretrainCell) -> dict[str, Tensor]:
    """The network weights of the pretraining cell that the cell in `folder` needs.

    Raises:
        ValueError: the pretraining cell has not finished.
    """
    pretrained = folder.sibling(needed.cell_id)
    loaded = checkpoint.load_newest(pretrained.checkpoints)
    if pretrained.status().state != "finished" or loaded is None:
        raise ValueError(f"{folder.cell_id} needs {needed.cell_id}, which is not finished")
    weights: dict[str, Tensor] = loaded[1]["model"]
    return {name.removeprefix("network."): tensor for name, tensor in weights.items()}


def trained_model(path: Path, trusted: Collection[str] = ()) -> tuple[TrainCell, Equilibrium]:
    """A trained cell and its model, from cell.json and the weights in `path`, which may be a copy of the directory.

    `trusted` are the packages whose classes the cell may name.

    Raises:
        ConfigError: something is missing or unreadable, or the cell names a class of another package; the message is
            one line.
    """
    folder = CellFolder(path)
    if not (path / "cell.json").is_file():
        raise ConfigError(f"cell: {path} is not the directory of a cell (no cell.json)")
    try:
        cell = folder.cell()
    except ConfigError as error:
        raise ConfigError(f"cell: {error}") from None
    if not isinstance(cell, TrainCell):
        raise ConfigError(f"cell: {path} is a {cell.kind} cell; only a train cell has a model")
    require_trust(cell, trusted)
    try:
        loaded = checkpoint.load_newest(folder.weights) or checkpoint.load_newest(folder.checkpoints)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cell: {error}") from None
    if loaded is None:
        raise ConfigError(f"cell: {path} has no trained weights that are whole")
    try:
        model = build_equilibrium(cell)[0].to(DTYPES[cell.precision])
        model.load_state_dict(loaded[1]["model"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cell: {path} cannot be built ({str(error).splitlines()[0]})") from None
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise ConfigError(f"cell: {path} has trained weights that are not finite numbers")
    return cell, model
