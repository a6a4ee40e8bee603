"""The model of a step on the records of a grid: known errors are shown, and the figure says that it is a model."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from analysis.inference.step_model import Link, Work, predict
from analysis.reading.load import GridData, load
from analysis.rendering import figures
from analysis.sections import extrapolation, scaling_model
from analysis.sections.scaling_points import link_of, measured
from harness.records.collectives import AllReduce, Sweep
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import make

LINK = Link(latency=1e-3, bandwidth=1e9)
WORK = Work(step=0.004, evaluation=0.001, sample=0.0005, product=1.7)
STUDY = (
    "steps=20", "pretraining.steps=1", "pool=null", "model=de-hqs,de-prox", "baselines=[]",
    "backprop=jfb,implicit,{name: unrolled, steps: 10}", "world_size=1,2", "global_batch_size=4,8",
)  # fmt: skip
TIMES = tuple(AllReduce(ranks=2, bytes=size, seconds=LINK.all_reduce(2, size)) for size in (10**3, 10**5, 10**7))


def planted(runs: Runs, slower: float = 1.0, counts: tuple[int, int] = (20, 20)) -> GridData:
    """A study whose counts alternate within a step, and whose steps take what LINK and WORK say, or `slower`."""
    Sweep(device="cpu", backend="gloo", host="node1", processors=2, times=TIMES).write(runs.root)
    data = load(make(runs, *STUDY), "demo")
    trained = data.trained.set_index("cell_id")[["global_batch_size", "backprop"]].to_dict("index")
    cells = [trained.get(cell_id, {"global_batch_size": 0, "backprop": ""}) for cell_id in data.steps["cell_id"]]
    unrolled = [cell["backprop"] == "unrolled" for cell in cells]
    batches = [cell["global_batch_size"] for cell in cells]
    data.steps["evaluations"] = [
        (10,) * batch if plain else counts * (batch // 2) for batch, plain in zip(batches, unrolled, strict=True)
    ]
    solved = [12 * (cell["backprop"] == "implicit") for cell in cells]
    data.steps["products"] = [(count,) * batch if count else () for count, batch in zip(solved, batches, strict=True)]
    measured.cache_clear()
    for one in measured(data):
        seconds = predict(one.as_recorded, WORK, LINK) * (slower if one.ranks > 1 else 1)
        ours = data.cells["label"].str.startswith(one.label) & (data.cells["world_size"] == one.ranks)
        ours &= data.cells["global_batch_size"] == one.ranks * one.batch
        data.steps.loc[data.steps["cell_id"].isin(data.cells.index[ours]), "seconds_total"] = seconds
    measured.cache_clear()
    return data


def errors(data: GridData) -> pd.DataFrame:
    return scaling_model.error_table(data).frame.set_index("held_out")


def test_a_model_that_is_true_has_no_error(runs: Runs) -> None:
    data = planted(runs)
    assert vars(link_of(data)) == pytest.approx(vars(LINK))
    found = errors(data)
    assert list(found.index) == ["2 ranks", "map de-hqs", "map de-prox", "method jfb", "method implicit",
                                 "method unrolled"]  # fmt: skip
    assert list(found["cells"]) == [12, 12, 12, 8, 8, 8]
    known = found.drop(["method jfb", "method unrolled"])  # without either, a product has no price of its own
    assert known["seconds_error"].abs().max() < 0.01
    assert found["evaluations_error"].abs().max() == found["products_error"].abs().max() == 0


def test_errors_have_the_sign_of_predicted_minus_measured(runs: Runs) -> None:
    """If two ranks take 1.25 times as long as the model says, it predicts 20 % too little."""
    found = errors(planted(runs, slower=1.25)).loc["2 ranks"]
    assert found["seconds_error"] == pytest.approx(-0.2, abs=0.01)
    assert found["seconds_error_low"] == pytest.approx(-0.2, abs=0.01)


def test_counts_of_the_slowest_sample_are_expected_maxima(runs: Runs) -> None:
    """Half of the samples take 30: of 4 draws, one does in 15 of 16 cases, while each step really had one."""
    found = errors(planted(runs, counts=(20, 30))).loc["2 ranks"]
    expected = (30 - 10 / 16 + 1) / (30 + 1) - 1
    assert found["evaluations_error_low"] == pytest.approx(expected)
    assert expected < found["evaluations_error"] < found["evaluations_error_high"] == 0


def test_the_figure_is_visibly_a_model(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        extrapolation, "render", lambda *given: drawn.append(given) or figures.Figure(*given[:3], 1, b"", b"")
    )
    extrapolation.extrapolation(planted(runs, counts=(20, 30)))
    [(_, title, caption, canvas)] = drawn
    assert title == "A model up to 1,024 ranks"
    for said in ("Everything dashed is a model", "force a global batch of 4,096", "1,024 cells in parallel", "NCCL"):
        assert said in caption
    legend = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert legend == ["model: NVLink and InfiniBand", "model: 100 Gb/s cloud Ethernet", "measured here"]
    for axes in (axes for axes in canvas.axes if axes.axison):
        bands = [line for line in axes.lines if len(line.get_xdata()) > 2]
        assert [line.get_linestyle() for line in bands] == ["--"] * 4
        assert all(line.get_xdata()[-1] == 1024 for line in bands)
        slow, fast, slower, less_fast = (line.get_ydata()[-1] for line in bands)
        assert slower < slow < fast <= 1
        assert less_fast < fast
    plt.close("all")


def test_records_without_counts_have_no_model(runs: Runs) -> None:
    assert not scaling_model.section(load(make(runs, *STUDY[:4], "world_size=1,2"), "demo")).is_shown
