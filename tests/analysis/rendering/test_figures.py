import math
from typing import Any

import pytest

from analysis.reading.load import load
from analysis.rendering import figures, pictures
from analysis.sections import SECTIONS, budgets, cost, curves, fidelity, paper, scaling, searches
from harness.config.cells import Cell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

SMALL = ("model=de-hqs", "steps=6", "pretraining.steps=1")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Canvases by name, caught before they are rendered, which takes most of the time."""
    caught: dict[str, Any] = {}

    def render(name: str, title: str, caption: str, canvas: Any) -> figures.Figure:
        caught[name] = canvas
        return figures.Figure(name, title, caption, 1.0, b"", b"")

    for module in (pictures, budgets, cost, curves, fidelity, paper, scaling, searches):
        monkeypatch.setattr(module, "render", render)
    return caught


def draw(runs: Runs) -> None:
    for make_section in SECTIONS:
        make_section(load(runs, "demo"))


def legend(canvas: Any) -> list[str]:
    return [text.get_text() for text in canvas.legends[0].get_texts()]


def test_axes_and_lines_are_named(runs: Runs, drawn: dict[str, Any]) -> None:
    draw(make(runs, *SMALL, "model=de-hqs,de-grad,de-prox"))
    assert set(drawn) == {"cost-quality", "phases", "loss", "validation", "searches", "pictures", "fidelity-cost",
                          "fidelity-eigenvalue", "figure-1", "table-1", "budgets"}  # fmt: skip
    assert legend(drawn["validation"]) == ["jfb", "implicit", "total-variation", "tikhonov"]
    assert [axes.get_title() for axes in drawn["loss"].axes if axes.axison] == ["de-hqs", "de-grad", "de-prox"]
    assert drawn["cost-quality"].axes[0].get_ylabel() == "Test PSNR (dB)"
    bars = drawn["phases"].axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()][:2] == ["de-hqs jfb", "de-hqs implicit"]


def test_columns_of_pictures_are_in_the_papers_order_with_their_psnr(runs: Runs, drawn: dict[str, Any]) -> None:
    draw(make(runs, *SMALL))
    texts = [text.get_text() for text in drawn["pictures"].axes[0].texts]
    headings = [text for text in texts if not text[0].isdigit()]
    assert headings == [
        "ground truth", "measurement", "direct inverse", "gradient descent", "total variation",
        "de-hqs\njfb", "de-hqs\nimplicit",
    ]  # fmt: skip
    assert len(texts) == len(headings) + 2 * (len(headings) - 1)


def test_the_papers_figure_and_table_show_the_best_de_grad_by_jfb(runs: Runs, drawn: dict[str, Any]) -> None:
    def second_is_better(cell: Cell, fake: Fake) -> None:
        fake.psnr += isinstance(cell, TrainCell) and cell.schedule.name == "fixed"

    made = make(runs, *SMALL, "model=de-hqs,de-grad", "schedule=cosine,fixed", change=second_is_better)
    captions = {figure.name: figure.caption for figure in paper.paper_figures(load(made, "demo"))}
    assert list(captions) == ["figure-1", "table-1"]
    assert all("de-grad jfb fixed" in caption for caption in captions.values())
    texts = [text.get_text() for text in drawn["table-1"].axes[0].texts]
    titles = [text for text in texts if not text[0].isdigit()]
    assert titles == ["ground truth", "noisy blurred image", "direct inverse", "gradient descent", "jfb"]
    assert len(texts) - len(titles) == 2 * 4, "a PSNR under each picture but the truth"
    assert len(drawn["figure-1"].axes[0].lines[0].get_xdata()) == 6


@pytest.mark.parametrize(
    ("losses", "said"),
    [("mse", "Training loss (MSE)"), ("rmse", "Training loss (RMSE)"), ("mse,rmse", "Training loss")],
)
def test_loss_is_called_what_the_cells_say(runs: Runs, drawn: dict[str, Any], losses: str, said: str) -> None:
    data = load(make(runs, *SMALL, "model=de-grad", f"loss={losses}"), "demo")
    curves.loss_curves(data)
    assert drawn["loss"].axes[0].get_ylabel() == said
    paper.paper_figures(data)
    axes = drawn["figure-1"].axes[0]
    assert axes.get_xlabel() == "Training samples processed"
    assert axes.get_ylabel() in (["Training loss (MSE)", "Training loss (RMSE)"] if "," in losses else [said])


def test_without_de_grad_by_jfb_the_paper_has_nothing_to_show(runs: Runs, drawn: dict[str, Any]) -> None:
    assert paper.paper_figures(load(make(runs, *SMALL), "demo")) == []


def test_picture_that_a_method_has_not_kept_stays_white(runs: Runs, drawn: dict[str, Any]) -> None:
    make(runs, *SMALL)
    next((runs.root / "cells").glob("de-hqs_implicit*/reconstructions/000031-output.png")).unlink()
    draw(runs)
    mosaic = drawn["pictures"].axes[0].images[0].get_array()
    tiles = mosaic.reshape(2, mosaic.shape[0] // 2, 7, mosaic.shape[1] // 7, 3).min(axis=(1, 3, 4))
    assert (tiles == 255).nonzero() == (1, 6)


def test_many_methods_go_on_in_another_figure_behind_the_same_baselines(runs: Runs, drawn: dict[str, Any]) -> None:
    draw(make(runs, *SMALL, "optimizer.lr=0.1,0.01,0.001,0.0001,0.00001"))
    shown = [[text.get_text() for text in drawn[name].axes[0].texts] for name in ("pictures", "pictures-2")]
    assert all("measurement" in texts for texts in shown)
    trained = [text for texts in shown for text in texts if text.startswith("de-hqs")]
    assert len(trained) == len(set(trained)) == 10


def test_unfinished_cells_have_curves_and_are_named(runs: Runs, drawn: dict[str, Any]) -> None:
    def fail(cell: Cell, fake: Fake) -> None:
        if isinstance(cell, TrainCell):
            fake.state = "failed"

    data = load(make(runs, *SMALL, change=fail), "demo")
    figure = curves.loss_curves(data)
    assert figure is not None
    assert "Unfinished: de-hqs_jfb" in figure.caption
    assert cost.cost_against_quality(data) is None
    assert cost.phase_breakdown(cost.cost_frame(data)) is None


def test_loss_that_is_not_finite_is_left_out(runs: Runs, drawn: dict[str, Any]) -> None:
    data = load(make(runs, *SMALL), "demo")
    data.steps.loc[data.steps["step"] == 3, "loss"] = math.nan
    data.steps.loc[data.steps["step"] == 4, "loss"] = math.inf
    curves.loss_curves(data)
    assert all(math.isfinite(y) for line in drawn["loss"].axes[0].lines for y in line.get_ydata())


def test_nothing_started_draws_nothing(runs: Runs, drawn: dict[str, Any]) -> None:
    def wait(cell: Cell, fake: Fake) -> None:
        fake.state = "planned"

    draw(make(runs, *SMALL, change=wait))
    assert drawn == {}
