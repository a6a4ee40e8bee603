"""Times to target, from records of known values to the rendered cell, and performance profiles by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from analysis.reading.load import GridData, load
from analysis.rendering.latex import to_latex
from analysis.rendering.tables import to_csv, to_markdown
from analysis.sections.time_to_target import contests, profile, section, time_frame, time_table, workloads
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

GRID = ("model=de-hqs", "steps=100", "pretraining.steps=1", "global_batch_size=12", "pool=null")
SEEDS = "seed=0,1,2"
Turn = Callable[[TrainCell, Fake], None]


def made(runs: Runs, *overrides: str, turn: Turn = lambda cell, fake: None) -> GridData:
    def change(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            turn(cell, fake)

    return load(make(runs, *GRID, *overrides, change=change), "demo")


def rendered(data: GridData) -> dict[str, dict[str, str]]:
    """Method to the texts of its row, by column."""
    table = time_table(data)
    return {
        row[0].text: {c.key: place.text for c, place in zip(table.columns, row, strict=True)} for row in table.rows()
    }


def scores(**psnr: float | list[float]) -> Turn:
    """The final PSNR of each backprop method, for all seeds or one for each; all start at 30 dB."""

    def turn(cell: TrainCell, fake: Fake) -> None:
        final = psnr[cell.backprop.name]
        fake.psnr, fake.start_psnr = final[cell.seed] if isinstance(final, list) else final, 30.0

    return turn


def seconds(data: GridData, backprop: str, until: int) -> dict[int, float]:
    """Seed to the seconds of the first steps, as they were recorded."""
    cells = data.trained[data.trained["backprop"] == backprop]
    found = data.steps[data.steps["step"] <= until].groupby("cell_id")["seconds_total"].sum()
    return {int(seed): float(found[cell_id]) for cell_id, seed in zip(cells["cell_id"], cells["seed"], strict=True)}


def test_times_are_shown_in_their_units(runs: Runs) -> None:
    # Validations at steps 50 and 100. The target is what jfb has at its end; implicit has it at half of its steps.
    data = made(runs, SEEDS, turn=scores(jfb=32.0, implicit=34.0))
    rows, frame = rendered(data), time_frame(data).set_index("label")
    jfb, implicit = rows["de-hqs jfb"], rows["de-hqs implicit"]
    assert jfb["target"] == implicit["target"] == "32.00"
    assert jfb["reached"] == implicit["reached"] == "3 of 3"
    assert (jfb["step"], implicit["step"]) == ("100", "50")
    # Each step: 12 pictures, 20 evaluations without a graph and one with it; implicit takes 18 products more.
    assert (jfb["evaluations"], implicit["evaluations"]) == ("25,200", "23,400")
    assert implicit["seconds"] == f"{np.median([*seconds(data, 'implicit', 50).values()]):.1f}"
    assert frame.loc["de-hqs jfb", "seconds"] == np.median([*seconds(data, "jfb", 100).values()])
    assert (jfb["over_jfb"], jfb["over_jfb_verdict"]) == ("\N{EN DASH}", "\N{EN DASH}")


def test_the_ratio_is_paired_by_seed(runs: Runs) -> None:
    """The second seed runs on a machine that is ten times slower, for both methods; the ratio hardly notices."""

    def slower(cell: TrainCell, fake: Fake) -> None:
        scores(jfb=32.0 + 1e-3 * cell.seed, implicit=32.0 + 1e-3 * cell.seed)(cell, fake)
        fake.seconds = (3.0 if cell.seed == 1 else 0.3) * (1 + 0.1 * cell.seed)

    data = made(runs, SEEDS, turn=slower)
    row = rendered(data)["de-hqs implicit"]
    ours, theirs = seconds(data, "implicit", 100), seconds(data, "jfb", 100)
    logs = [math.log(ours[seed] / theirs[seed]) for seed in ours]
    half = stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / math.sqrt(3)
    low, high = np.exp(np.mean(logs) - half), np.exp(np.mean(logs) + half)
    assert row["over_jfb"] == f"{np.exp(np.mean(logs)):.2f} [{low:.2f}, {high:.2f}]"


def test_a_planted_factor_is_found_and_no_factor_is_not(runs: Runs) -> None:
    def doubled(cell: TrainCell, fake: Fake) -> None:
        own = 1e-3 if cell.backprop.name == "unrolled" else 0.0
        fake.psnr, fake.start_psnr = 32.0 + own + 1e-4 * cell.seed, 30.0
        fake.seconds = 2.065 if cell.backprop.name == "neumann" else 1.0

    frame = time_frame(made(runs, "backprop=jfb,neumann,unrolled", "seed=0,1,2,3", turn=doubled)).set_index("label")
    neumann, unrolled = frame.loc["de-hqs neumann"], frame.loc["du-hqs unrolled"]
    assert neumann["over_jfb"] == pytest.approx(2.0, rel=0.02)
    assert neumann["over_jfb_low"] < neumann["over_jfb"] < neumann["over_jfb_high"] < 2.1
    assert (neumann["over_jfb_verdict"], unrolled["over_jfb_verdict"]) == ("slower", "equal")


def test_the_target_is_what_more_than_half_of_the_methods_reach_in_every_seed(runs: Runs) -> None:
    three = scores(jfb=[33.0, 32.5, 34.0], implicit=[33.5, 33.4, 33.3], neumann=[29.0, 40.0, 40.0])
    data = made(runs, SEEDS, "backprop=jfb,implicit,neumann", turn=three)
    # In every seed, jfb reaches 32.5, implicit 33.3, and neumann 30 only, where it starts; so 32.5 is reached by two.
    (contest,) = contests(data)
    assert contest.target == pytest.approx(32.5)
    assert rendered(data)["de-hqs neumann"]["reached"] == "2 of 3"


def test_test_pictures_do_not_set_the_target(runs: Runs) -> None:
    data = made(runs, SEEDS, turn=scores(jfb=32.0, implicit=34.0))
    data.evaluations.loc[data.evaluations["split"] == "test", "psnr"] += 5
    assert contests(data)[0].target == pytest.approx(32.0)


def test_runs_that_miss_the_target_are_infinite_and_give_a_bound_at_most(runs: Runs) -> None:
    turn = scores(jfb=33.0, implicit=33.5, neumann=[33.2, 32.0, 32.0])
    data = made(runs, SEEDS, "backprop=jfb,implicit,neumann", turn=turn)
    row, frame = rendered(data)["de-hqs neumann"], time_frame(data).set_index("label")
    assert row["reached"] == "1 of 3"
    assert (row["step"], row["evaluations"]) == ("> 100", "> 25,200")
    spent, jfb = seconds(data, "neumann", 100), seconds(data, "jfb", 100)
    assert row["seconds"] == f"> {min(spent[1], spent[2]):.1f}"
    assert frame.loc["de-hqs neumann", "seconds"] == math.inf, "nothing that looks like a time in the CSV file"
    bound = math.exp(np.mean([math.log(spent[seed] / jfb[seed]) for seed in spent]))
    assert (row["over_jfb"], row["over_jfb_verdict"]) == (f"> {bound:.2f}", "undecided")
    assert "> 100" in to_markdown(time_table(data))
    assert "$>$ 100" in to_latex(time_table(data))
    assert ",inf,100.0,inf," in to_csv(time_table(data))


def test_a_reference_that_misses_bounds_the_ratio_from_above(runs: Runs) -> None:
    turn = scores(jfb=[33.2, 32.0, 33.2], implicit=33.5, neumann=33.0)
    rows = rendered(made(runs, SEEDS, "backprop=jfb,implicit,neumann", turn=turn))
    assert rows["de-hqs implicit"]["over_jfb"].startswith("< ")


def test_if_both_miss_in_some_seed_the_ratio_is_unknown(runs: Runs) -> None:
    turn = scores(jfb=[33.2, 32.0, 33.2], implicit=[33.5, 33.5, 32.0], neumann=33.0, unrolled=33.0, truncated=33.0)
    data = made(runs, SEEDS, "backprop=jfb,implicit,neumann,unrolled,truncated", turn=turn)
    row = rendered(data)["de-hqs implicit"]
    assert (row["target"], row["reached"]) == ("33.00", "2 of 3")
    assert (row["over_jfb"], row["over_jfb_verdict"]) == ("\N{EN DASH}", "undecided")


def test_a_target_that_nobody_had_to_train_for_is_undecided(runs: Runs) -> None:
    made_section = section(made(runs, SEEDS, turn=scores(jfb=[32.0, 29.0, 32.0], implicit=34.0)))
    assert not made_section.has_rows
    assert not made_section.figures
    assert made_section.without_rows == (
        "Undecided for de-hqs jfb, de-hqs implicit: before training some run is at 30.00 dB already, "
        "and too few methods reach more in every seed."
    )


def test_runs_without_a_finite_score_are_undecided(runs: Runs) -> None:
    data = made(runs, SEEDS)
    data.evaluations["psnr"] = math.nan
    assert "have a seed without a finite validation PSNR" in section(data).without_rows


def test_one_seed_is_undecided_and_has_no_ratio_and_no_profile(runs: Runs) -> None:
    data = made(runs, "seed=0", turn=scores(jfb=32.0, implicit=34.0))
    row, shown = rendered(data)["de-hqs implicit"], section(data)
    assert (row["reached"], row["over_jfb"], row["over_jfb_verdict"]) == ("1 of 1", "\N{EN DASH}", "undecided")
    assert shown.figures == ()
    assert shown.table is not None
    assert shown.table.notes[-1].startswith("Undecided which method is faster: times of one seed")


def test_one_method_is_undecided(runs: Runs) -> None:
    shown = section(made(runs, SEEDS, "backprop=jfb"))
    assert (shown.has_rows, shown.figures) == (False, ())
    assert shown.without_rows == (
        "Undecided for de-hqs jfb: a target is set by several methods, and this map and task has one."
    )


def test_without_a_trained_method_there_is_no_section(runs: Runs) -> None:
    def planned(cell: TrainCell, fake: Fake) -> None:
        fake.state = "planned"

    assert not section(made(runs, SEEDS, turn=planned)).is_shown


def test_the_profile_of_two_methods_on_three_workloads_by_hand(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(runs, SEEDS, turn=scores(jfb=32.0, implicit=[34.0, 32.0, 32.5]))
    frame = workloads(data)
    assert sorted(frame["problem"]) == ["0, 0", "0, 0", "0, 1", "0, 1", "0, 2", "0, 2"]
    ours, half = seconds(data, "implicit", 100), seconds(data, "implicit", 50)
    times = frame.set_index(["method", "seed"])["time"]
    assert times["implicit"].to_dict() == pytest.approx({0: half[0], 1: ours[1], 2: ours[2]})
    assert times["jfb"].to_dict() == pytest.approx(seconds(data, "jfb", 100))
    drawn: list[dict[str, list[list[float]]]] = []
    monkeypatch.setattr(
        "analysis.sections.time_to_target.render",
        lambda name, title, caption, canvas: drawn.append(
            {str(line.get_label()): [list(values) for values in line.get_data()] for line in canvas.axes[0].lines}
        ),
    )
    profile(data)
    # Implicit takes over twice the time of jfb for a step, so jfb is the fastest on all three.
    factors = sorted([half[0] / times["jfb", 0], ours[1] / times["jfb", 1], ours[2] / times["jfb", 2]])
    assert factors[0] > 1
    across = [1, *factors, 1.1 * factors[-1]]
    for method, solved in {"implicit": [0, 1 / 3, 2 / 3, 1, 1], "jfb": [1, 1, 1, 1, 1]}.items():
        assert drawn[0][method][0] == pytest.approx(across)
        assert drawn[0][method][1] == pytest.approx(solved)


def test_a_method_has_one_line_for_all_maps_and_tasks(runs: Runs) -> None:
    turn = scores(jfb=32.0, implicit=34.0)
    data = made(runs, SEEDS, "model=de-hqs,de-prox", "physics.kernel_std=2.236,1.0", turn=turn)
    assert len(contests(data)) == 4
    frame = workloads(data)
    assert set(frame["method"]) == {"jfb", "implicit"}
    assert frame["problem"].nunique() == 12


def test_workloads_that_a_method_did_not_run_do_not_count_against_it(runs: Runs) -> None:
    def unfinished(cell: TrainCell, fake: Fake) -> None:
        scores(jfb=32.0, implicit=34.0, neumann=33.0)(cell, fake)
        model, backprop = cell.model.name, cell.backprop.name
        if (model, backprop) == ("de-prox", "neumann") or (model, backprop, cell.seed) == ("de-hqs", "jfb", 1):
            fake.state = "failed"

    data = made(runs, SEEDS, "model=de-hqs,de-prox", "backprop=jfb,implicit,neumann", turn=unfinished)
    frame = workloads(data)
    assert set(frame["method"]) == {"jfb", "implicit"}
    assert set(frame["problem"]) == {"0, 0", "0, 2", "1, 0", "1, 1", "1, 2"}
    (figure,) = section(data).figures
    assert figure.caption.endswith("Left out: not run on every map and task: neumann.")
