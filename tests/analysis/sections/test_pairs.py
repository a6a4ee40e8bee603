"""Which cells a method is held against."""

import pandas as pd
import pytest

from analysis.sections.comparisons import trained_by_jfb

COLUMNS = ["method", "backprop", "family", "tuned_family"]


@pytest.mark.parametrize(
    ("jfb", "partner"),
    [
        ([("a", "jfb", "lr=1", "any lr")], ["a"]),
        ([("a", "jfb", "lr=2", "any lr")], ["a"]),
        ([("a", "jfb", "lr=1", "any lr"), ("b", "jfb", "lr=2", "any lr")], ["a"]),
        ([("a", "jfb", "lr=2", "any lr"), ("b", "jfb", "lr=3", "any lr")], []),
        ([("a", "jfb", "lr=2, large", "any lr, large")], []),
    ],
    ids=["the same settings", "another learning rate", "the same before another", "two others", "another size"],
)
def test_a_method_is_held_against_jfb_of_the_same_settings(jfb: list[tuple[str, ...]], partner: list[str]) -> None:
    frame = pd.DataFrame([*jfb, ("c", "implicit", "lr=1", "any lr")], columns=COLUMNS)
    assert list(trained_by_jfb(frame, frame.iloc[-1])["method"]) == partner
