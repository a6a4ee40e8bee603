"""Chooses the tuned fields of a cell from the validation scores of its trials."""

import math
import time
from statistics import fmean

from harness.config.cells import TrainCell
from harness.records.cell_folder import CellFolder
from harness.records.events import Evaluation, Search


def tuned(folder: CellFolder, cell: TrainCell, write: bool) -> TrainCell:
    """The cell with the values that its trials chose; `write` records the searches in its directory.

    Raises:
        ValueError: a trial is not finished, or all of them diverged.
    """
    if folder.searches():
        return cell
    found = searches(folder, cell)
    if write:
        folder.write_searches(found)
    return cell.with_tuned({search.parameter: search.chosen for search in found})


def searches(folder: CellFolder, cell: TrainCell) -> list[Search]:
    """What the trials found out about each tuned field.

    Raises:
        ValueError: a trial is not finished, or all of them diverged.
    """
    assert cell.tune is not None
    scores = trial_scores(folder, cell)
    chosen, best = max(scores, key=lambda one: one[1])
    if not math.isfinite(best):
        raise ValueError(f"tune: none of the {len(scores)} combinations reached a finite validation PSNR")
    found = []
    for axis in cell.tune.axes:
        candidates = sorted({point[axis] for point, _ in scores})
        found.append(
            Search(
                time=time.time(),
                parameter=axis,
                candidates=candidates,
                psnr=[max(psnr for point, psnr in scores if point[axis] == value) for value in candidates],
                chosen=chosen[axis],
                interior=chosen[axis] not in (candidates[0], candidates[-1]),
                trials=len(cell.trials),
            )
        )
    return found


def trial_scores(folder: CellFolder, cell: TrainCell) -> list[tuple[dict[str, int | float], float]]:
    """Each combination with its validation PSNR after training, in decibels, averaged over the tuning seeds.

    A training that diverged counts as minus infinity.

    Raises:
        ValueError: a trial is not finished.
    """
    assert cell.tune is not None
    return [
        (point, fmean(_validation_psnr(folder, cell.trial(point, seed)) for seed in cell.tune.seeds))
        for point in cell.tune.points()
    ]


def _validation_psnr(folder: CellFolder, trial: TrainCell) -> float:
    trained = folder.sibling(trial.cell_id)
    scored = [one for one in trained.events() if isinstance(one, Evaluation) and one.split == "validation"]
    if trained.status().state != "finished" or not scored:
        raise ValueError(f"tune: the trial {trial.cell_id} is not finished")
    psnr = fmean(scored[-1].scores["psnr"])
    return psnr if math.isfinite(psnr) else -math.inf
