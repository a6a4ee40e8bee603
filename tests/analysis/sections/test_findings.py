from collections.abc import Callable
from unittest import mock

import pytest

from analysis.reading.load import load
from analysis.sections import comparisons
from analysis.sections.findings import Finding, findings
from harness.config.cells import BaselineCell, Cell, PretrainCell, TrainCell
from launch.planning.runs_folder import Runs
from tests.analysis.synthetic import Fake, make

ANY = (BaselineCell, PretrainCell, TrainCell)
SMALL = ("model=de-grad,de-hqs", "steps=4", "pretraining.steps=1", "seed=0,1,2")


def found(runs: Runs, *overrides: str, change: Callable[[Cell, Fake], None] = lambda cell, fake: None) -> list[Finding]:
    data = load(make(runs, *SMALL, *overrides, change=change), "demo")
    with mock.patch.object(comparisons, "ONE_PHOTOGRAPH", set()):  # as if the pictures were independent
        return findings(data)


def of(kind: type | tuple[type, ...], **changes: object) -> Callable[[Cell, Fake], None]:
    def change(cell: Cell, fake: Fake) -> None:
        for name, value in changes.items() if isinstance(cell, kind) else ():
            setattr(fake, name, value)

    return change


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """What a grid says in which all went well."""
    return found(Runs(tmp_path_factory.mktemp("runs")))


def marks(findings: list[Finding], text: str) -> list[str]:
    return [finding.mark for finding in findings if finding.text.startswith(text)]


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("yes", "All 20 cells are finished."),
        ("yes", "4 of 4 trained methods end above their own step 0"),
        ("yes", "4 of 4 trained methods beat Tikhonov."),
        ("mixed", "2 of 4 trained methods beat total variation ("),
        ("yes", "The best jfb method beats total variation."),
        ("note", "implicit is better than jfb in 2 of 2 pairs."),
        ("yes", "No trained method's solve diverged on a test picture."),
        ("yes", "Every test solve of every trained method reaches the solver's tolerance."),
        ("yes", "3 of 3 denoisers are better after pretraining than before."),
        ("yes", "3 of 3 searches end inside the values tried."),
        ("yes", "All finished cells come from one clean commit, aaaaaaaaaaaa."),
    ],
)
def test_sentence_says_yes(plain: list[Finding], mark: str, text: str) -> None:
    assert marks(plain, text) == [mark]


@pytest.mark.parametrize(
    ("change", "mark", "text"),
    [
        (of(TrainCell, state="failed"), "warning", "5 of 11 cells are finished; this report lacks the others (6"),
        (of(TrainCell, psnr=31.0), "no", "0 of 2 trained methods end above their own step 0"),
        (of(TrainCell, psnr=20.0), "no", "0 of 2 trained methods beat Tikhonov (2 worse)."),
        (of(TrainCell, psnr=33.0), "no", "The best jfb method does not beat total variation."),
        (of(TrainCell, psnr=34.0), "note", "The best jfb method is equivalent to total variation."),
        (of(TrainCell, psnr=33.0), "note", "implicit is better than jfb in 0 of 1 pairs (1 equivalent)."),
        (of(TrainCell, diverged=[30]), "warning", "Some solves diverged on test pictures."),
        (of(TrainCell, residual=1e-3), "warning", "Some test solves end above the solver's tolerance"),
        (of(PretrainCell, psnr=20.0), "no", "0 of 3 denoisers are better after pretraining"),
        (of(BaselineCell, interior=False), "warning", "2 of 2 searches end at an edge"),
        (of(TrainCell, environment={}), "warning", "The finished cells come from 2 versions of the code"),
        (of(ANY, environment={"git_commit": "b" * 40, "git_dirty": True}), "warning",
         "All finished cells come from bbbbbbbbbbbb (dirty)"),
        (of(ANY, environment={}), "warning", "It is unknown which commit the finished cells come from."),
        (of(TrainCell, environment={"device": "cuda:0"}), "warning", "Finished cells ran on cpu and cuda"),
    ],
)  # fmt: skip
def test_sentence_says_no(runs: Runs, change: Callable[[Cell, Fake], None], mark: str, text: str) -> None:
    sentences = found(runs, "model=de-hqs", "baselines=tikhonov,total-variation", change=change)
    assert marks(sentences, text) == [mark]


def test_details_give_difference_and_uncertainty(runs: Runs) -> None:
    (finding,) = [
        finding for finding in found(runs) if "beat total variation" in finding.text and finding.mark == "mixed"
    ]
    assert "Above: de-hqs jfb (+0.70 dB [+0.4" in finding.detail
    assert "Undecided: de-grad jfb (+0.00 dB [-0.2" in finding.detail


def test_twins_are_compared(plain: list[Finding]) -> None:
    (finding,) = [finding for finding in plain if "same fixed points" in finding.text]
    assert finding.detail.startswith("de-grad over de-hqs as trained here: -0.70 dB [-0.7")


@pytest.mark.parametrize("missing", [BaselineCell, TrainCell])
def test_what_is_missing_is_not_judged(runs: Runs, missing: type) -> None:
    sentences = found(runs, "model=de-hqs", change=of(missing, state="planned"))
    assert {finding.mark for finding in sentences if "total variation" in finding.text} == {"note"}
