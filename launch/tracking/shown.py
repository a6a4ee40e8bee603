"""How the cells of a grid are named where they are shown together: by what varies within the grid."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.config.cells import Cell
from harness.records.cell_folder import CellFolder, CellStatus
from launch.planning import methods


@dataclass(frozen=True)
class Shown:
    """The names of a grid's cells, by cell_id, and what varies among them."""

    kinds: dict[str, str]
    """The kind of each cell: train, baseline, pretrain, or trial for a training by which another one was tuned."""
    labels: dict[str, str]
    """The name of each cell's method, as in the report."""
    run_names: dict[str, str]
    """The same, followed by the seed if there are several."""
    varying: list[str]
    """The fields in which trainings differ besides model, backprop and seed, as `--where` writes them."""
    several_seeds: bool


def read_shown(statuses: Mapping[CellFolder, CellStatus]) -> Shown:
    """Read and name the cells of a grid; a cell that cannot be read keeps its id."""
    cells: dict[str, Cell] = {}
    for folder in statuses:
        try:
            cells[folder.cell_id] = folder.cell()
        except (OSError, ValueError):
            continue
    cut = {folder.cell_id: status.adjoint_cut for folder, status in statuses.items()}
    return shown(cells, {cell_id: share for cell_id, share in cut.items() if share is not None})


def shown(cells: Mapping[str, Cell], cut: Mapping[str, float]) -> Shown:
    """Name cells; `cut` holds the share of each cell's adjoint solves that ended at their limit."""
    shares = methods.over_seeds(cut, cells)
    trials = methods.trials_of(cells)
    named = {cell_id: cell for cell_id, cell in cells.items() if cell_id not in trials}
    tried = {cell_id: cell for cell_id, cell in cells.items() if cell_id in trials}
    labels = {cell_id: name.label for cell_id, name in methods.names(named, shares).items()}
    labels |= {cell_id: f"trial {name.label}" for cell_id, name in methods.names(tried, shares).items()}
    kinds = {cell_id: "trial" if cell_id in trials else cell.kind for cell_id, cell in cells.items()}
    seeds = {kind: {cells[cell_id].seed for cell_id in cells if kinds[cell_id] == kind} for kind in kinds.values()}
    run_names = {
        cell_id: f"{labels[cell_id]} s{cell.seed}" if len(seeds[kinds[cell_id]]) > 1 else labels[cell_id]
        for cell_id, cell in cells.items()
    }
    return Shown(kinds, labels, run_names, methods.varying(named.values()), len(seeds.get("train", ())) > 1)
