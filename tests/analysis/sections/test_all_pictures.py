"""The table of all test pictures."""

import pytest

from analysis.reading.load import load
from analysis.rendering import tables
from analysis.rendering.tables import Table
from analysis.sections.all_pictures import final_frame, final_table
from harness.records.events import Evaluation, Longer
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import make

PICTURES = list(range(30, 50))
"""More than the grid's own 8 test pictures."""
SMALL = ("steps=4", "pretraining.steps=1", "baselines=tikhonov", "model=feed-forward,de-hqs",
         "backprop={name: unrolled, steps: 1}")  # fmt: skip


SCORES = ("psnr", "ssim", "legacy_psnr")


def scored(runs: Runs) -> Table:
    """The table where `python -m harness score` has scored every cell that it can."""
    same = [1.0] * len(PICTURES)
    full = Evaluation(time=3.0, step=4, split="full", indices=PICTURES,
                      scores=dict.fromkeys(SCORES, same), nfe=same, residual=[0.1] * len(PICTURES))  # fmt: skip
    for folder in make(runs, *SMALL).cells_of("demo"):
        if folder.cell().kind != "pretrain":
            folder.write_scores([full])
    data = load(runs, "demo")
    return final_table(data)


def test_caption_counts_the_pictures_that_the_rows_were_scored_on(runs: Runs) -> None:
    table = scored(runs)
    assert "px, 20 test pictures;" in table.caption


def test_only_what_is_iterated_has_a_residual(runs: Runs) -> None:
    table = scored(runs)
    (column,) = [column for column in table.columns if column.key == "residual_median"]
    shown = dict(zip(table.frame["label"], [place.text for place in table.column(column)], strict=True))
    assert shown == {"tikhonov": tables.NOTHING, "dncnn feed-forward": tables.NOTHING, "du-hqs unrolled": "1.0e-1"}


def test_longer_iteration_is_paired_with_the_solve_of_the_same_pictures(runs: Runs) -> None:
    psnr = [30.0 + number for number in range(len(PICTURES))]
    same = [1.0] * len(PICTURES)
    full = Evaluation(
        time=3.0,
        step=4,
        split="full",
        indices=PICTURES,
        scores={**dict.fromkeys(SCORES, same), "psnr": psnr},
        nfe=same,
        residual=same,
    )
    far = {5: [20.0, 20.0], 50: [psnr[0] + 0.3, psnr[1] + 0.1]}
    longer = Longer(time=3.0, step=4, indices=PICTURES[:2], psnr_at=far, residual_at=far)
    for folder in make(runs, *SMALL).cells_of("demo"):
        if folder.cell_id.startswith("de-hqs"):
            folder.write_scores([full, longer])
    (row,) = final_frame(load(runs, "demo")).to_dict("records")
    assert (row["longer_over_solve"], row["longer_over_solve_error"]) == pytest.approx((0.2, 0.1))
    assert (row["depth"], row["longer_change"], row["longer_pictures"]) == pytest.approx((5, 10.7, 2))
