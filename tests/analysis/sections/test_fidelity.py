import math

import pytest

from analysis.reading.load import load
from analysis.rendering import tables
from analysis.sections.fidelity import (
    contraction_frame,
    contraction_table,
    fidelity_against_cost,
    fidelity_against_eigenvalue,
    gradient_frame,
    gradient_section,
    gradient_table,
)
from analysis.sections.findings import findings
from harness.config.cells import Cell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("model=de-hqs,de-grad", "steps=10", "pretraining.steps=4", "backprop=jfb")


def said(runs: Runs) -> str:
    data = load(runs, "demo")
    found = findings(data)
    return "\n".join(f"{finding.mark}: {finding.text} {finding.detail}" for finding in found)


def test_every_gradient_has_a_row_at_every_measured_step(runs: Runs) -> None:
    data = load(make(runs, *SMALL), "demo")
    frame = gradient_frame(data)
    assert len(frame) == 2 * 2 * 4
    last = frame[(frame["label"] == "de-hqs jfb") & (frame["step"] == 10)].set_index("gradient")
    assert last.loc["neumann", "relative_error"] == 0.1
    assert last.loc["neumann", "products"] == 6
    assert math.isnan(last.loc["unrolled", "relative_error"])
    assert fidelity_against_cost(frame) is not None
    text = tables.to_markdown(gradient_table(data))
    assert "| de-hqs jfb | 10 | neumann | 0.9900 | 1.0e-1 | 0.800 | 2 | 6 | measured | 1 of 2 |" in text
    assert "implicit-tight is the closest" in said(runs)


def test_errors_of_pictures_are_drawn_against_their_eigenvalues(runs: Runs) -> None:
    data = load(make(runs, *SMALL), "demo")
    rows = data.picture_gradients
    assert len(rows) == 2 * 2 * 4, "models, steps and gradients, of the one picture that is not left out"
    assert set(rows["picture"]) == {20}
    assert [figure.name for figure in gradient_section(data).figures] == ["fidelity-cost", "fidelity-eigenvalue"]
    assert fidelity_against_eigenvalue(rows[:0]) is None


def test_without_a_converged_reference_there_is_a_status_and_no_number(runs: Runs) -> None:
    def unreachable(cell: Cell, fake: Fake) -> None:
        fake.fidelity = cell.label.startswith("de-grad")

    data = load(make(runs, *SMALL, change=unreachable), "demo")
    frame = gradient_frame(data)
    rows = frame[frame["label"] == "de-hqs jfb"]
    assert list(rows["status"]) == ["no converged reference"] * 2
    assert list(rows["pictures"]) == ["0 of 2"] * 2, "whether the forward or the adjoint solve did not converge"
    assert rows["relative_error"].isna().all()
    text = tables.to_markdown(gradient_table(data))
    nothing = tables.NOTHING
    assert f"| de-hqs jfb | 0 | {nothing} | {nothing} | {nothing} |" in text
    assert "warning: 2 of 4 measurements of gradients have no converged reference." in said(runs)


def test_contraction_shows_the_worst_picture_with_its_sign_and_the_drift(runs: Runs) -> None:
    def oscillate(cell: Cell, fake: Fake) -> None:
        if cell.label.startswith("de-hqs"):
            fake.eigenvalue, fake.drift = -1.17, -24.1

    data = load(make(runs, *SMALL, change=oscillate), "demo")
    frame = contraction_frame(data).set_index("label")
    bad, good = frame.loc["de-hqs jfb"], frame.loc["de-grad jfb"]
    assert bad["dominant_eigenvalue"] == -1.17
    assert bad["spectral_radius"] == 1.17
    assert bad["norm"] == 1.1
    assert round(bad["drift"], 6) == -24.1
    assert math.isinf(bad["residual_10k"])
    assert good["spectral_radius"] == 0.97
    assert good["drift"] == 0
    assert "-1.170" in tables.to_markdown(contraction_table(data))
    words = said(runs)
    assert "mixed: 1 of 2 trained methods have a map whose measured spectral radius is below 1." in words
    assert "mixed: 1 of 2 trained methods keep their PSNR, to 0.1 dB, at ten times the training depth." in words


@pytest.mark.parametrize(
    ("eigenvalue", "residual", "mark", "ending"),
    [
        (-0.97, 0.02, "yes: 1 of 1", "below 1. de"),
        (-0.97, 0.04, "mixed: 0 of 1", "below 1; 1 undecided within the residual. de"),
        (1.03, 0.04, "mixed: 0 of 1", "below 1; 1 undecided within the residual. de"),
        (1.03, 0.02, "no: 0 of 1", "below 1. de"),
    ],
)
def test_radius_is_on_a_side_of_1_only_where_its_residual_lets_it(
    runs: Runs, eigenvalue: float, residual: float, mark: str, ending: str
) -> None:
    def measured(cell: Cell, fake: Fake) -> None:
        fake.eigenvalue, fake.eigenvalue_residual = eigenvalue, residual

    words = said(make(runs, *SMALL, "model=de-hqs", change=measured))
    assert f"{mark} trained methods have a map whose measured spectral radius is {ending}" in words
    assert ("de-hqs jfb 0.970 with |J| 1.10 (undecided within the residual)." in words) == (
        (eigenvalue, residual) == (-0.97, 0.04)
    )


def test_records_without_these_measurements_have_empty_tables(runs: Runs) -> None:
    def fail(cell: Cell, fake: Fake) -> None:
        fake.state = "failed"

    data = load(make(runs, *SMALL, change=fail), "demo")
    assert contraction_frame(data).empty
    assert gradient_frame(data).empty
    assert fidelity_against_cost(gradient_frame(data)) is None
    assert gradient_section(data).figures == ()
    assert "spectral radius" not in said(runs)
