"""Weights out of finished cells."""

import torch
from torch import Tensor

from harness import checkpoint
from harness.config import PretrainCell
from harness.folder import CellFolder


def denoiser_weights(folder: CellFolder, needed: PretrainCell) -> dict[str, Tensor]:
    """The network weights of the pretraining cell that the cell in `folder` needs.

    Raises:
        ValueError: that cell has not finished.
    """
    pretrained = CellFolder(folder.path.parent / needed.cell_id)
    loaded = checkpoint.load_newest(pretrained.checkpoints, torch.device("cpu"))
    if pretrained.status().state != "finished" or loaded is None:
        raise ValueError(f"{folder.cell_id} needs {needed.cell_id}, which is not finished")
    weights: dict[str, Tensor] = loaded[1]["model"]
    return {name.removeprefix("network."): tensor for name, tensor in weights.items()}
