import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.inference import (
    Contrast,
    TimeToTarget,
    bootstrap_ratio,
    holm,
    paired_contrast,
    performance_profile,
    seeds_needed,
    time_to_target,
    with_holm,
)

DRAWS = 500
REALISTIC = 0.12
"""Spread in dB over seeds of a paired difference."""
EVENTS = ("better", "worse")


def grid(random, gap=0.0, seed_spread=REALISTIC, seeds=5, pictures=200, picture_spread=0.3, rest=0.3):
    """(seeds, pictures) of differences in dB."""
    by_seed = random.normal(0, seed_spread, (seeds, 1))
    by_picture = random.normal(0, picture_spread, (1, pictures))
    return gap + by_seed + by_picture + random.normal(0, rest, (seeds, pictures))


def contrast(differences, clusters=None, **options):
    """Of two methods that differ by these, on a level that they share."""
    base = np.random.default_rng(99).normal(30, 3, differences.shape)
    return paired_contrast(base + differences, base, clusters, **options)


def share(wanted, draws=DRAWS, clusters=None, **truth):
    """How often the verdict on planted grids is one of those wanted."""
    random = np.random.default_rng(3)
    return sum(contrast(grid(random, **truth), clusters).verdict in wanted for _ in range(draws)) / draws


# Contrasts: what is planted is found, and nothing else.


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_spread", [0.07, 0.12, 0.2])
def test_a_null_gap_is_called_a_difference_in_at_most_one_of_twenty(seeds, seed_spread):
    rate = share(EVENTS, seeds=seeds, seed_spread=seed_spread)
    assert rate <= 0.05, f"{seeds} seeds, spread {seed_spread}: {rate:.3f}"


@pytest.mark.parametrize("truth", [{"picture_spread": 2.0, "pictures": 28}, {"seed_spread": 0.0}, {"rest": 2.0}])
def test_a_null_gap_is_no_difference_whatever_varies_most(truth):
    rate = share(EVENTS, **truth)
    assert rate <= 0.05, f"{truth}: {rate:.3f}"


@pytest.mark.parametrize(("gap", "power"), [(0.3, 0.9), (0.2, 0.65), (-0.3, 0.9)])
def test_a_planted_gap_is_found_with_its_sign(gap, power):
    found = share(("better",) if gap > 0 else ("worse",), gap=gap)
    assert found >= power, f"gap {gap}: {found:.3f}"


def test_intervals_cover_the_planted_gap():
    random = np.random.default_rng(4)
    found = [contrast(grid(random, gap=0.3)) for _ in range(DRAWS)]
    coverage = sum(each.low <= 0.3 <= each.high for each in found) / DRAWS
    assert 0.95 <= coverage <= 0.995, f"{coverage:.3f}"


def test_close_methods_are_equivalent_and_distant_ones_are_not():
    close, distant = {"seed_spread": 0.02, "gap": 0.0}, {"seed_spread": 0.02, "gap": 0.1}
    assert share(("equivalent",), **close) >= 0.9
    assert share(("equivalent",), **distant) <= 0.05, "a gap as large as the margin is not equivalence"


def test_a_higher_level_makes_a_wider_interval():
    differences = grid(np.random.default_rng(0))
    widths = [found.high - found.low for found in (contrast(differences, level=level) for level in (0.8, 0.95, 0.99))]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


# Contrasts: closed forms.


@pytest.mark.parametrize("pictures", [1, 50])
@given(gaps=st.lists(st.floats(-3, 3), min_size=2, max_size=8).filter(lambda gaps: np.ptp(gaps) > 1e-3))
@settings(max_examples=30, deadline=None)
def test_where_pictures_do_not_vary_it_is_the_t_test_over_seeds(pictures, gaps):
    differences = np.repeat(np.array(gaps)[:, None], pictures, axis=1)
    found = paired_contrast(differences, np.zeros_like(differences))
    reference = stats.ttest_1samp(gaps, 0)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert found.p_value == pytest.approx(reference.pvalue, abs=1e-6)


def test_where_seeds_do_not_vary_the_error_is_that_over_pictures():
    differences = np.repeat(np.random.default_rng(0).normal(0.2, 1, (1, 40)), 5, axis=0)
    found = contrast(differences)
    assert (found.seed_error, found.picture_error) == pytest.approx((0, stats.sem(differences[0])), abs=1e-9)


def test_swapping_the_methods_turns_the_contrast_over():
    ours, theirs = np.random.default_rng(0).normal([[[0.4]], [[0]]], 0.1, (2, 5, 30))
    one, other = paired_contrast(ours, theirs), paired_contrast(theirs, ours)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))
    assert (one.verdict, other.verdict) == ("better", "worse")
    assert one.p_value == pytest.approx(other.p_value)


def test_text():
    found = Contrast(0.123, 0.03, 0.211, 0.01, 5, 200, "better", 200, 0.05, 0.02, 0.95)
    assert str(found) == "+0.12 [+0.03, +0.21]"


# Contrasts: clusters.

ONE_PHOTOGRAPH = np.array([0] * 28 + list(range(1, 29)))
"""28 patches of one photograph among 28 other photographs."""


def clustered(random, labels, spread=1.0):
    """Differences that patches of one photograph share."""
    by_photograph = random.normal(0, spread, labels.max() + 1)[labels]
    return grid(random, pictures=len(labels)) + by_photograph


def test_patches_of_one_photograph_widen_the_interval():
    random = np.random.default_rng(0)
    pairs = [(contrast(d), contrast(d, ONE_PHOTOGRAPH)) for d in (clustered(random, ONE_PHOTOGRAPH) for _ in range(50))]
    widths = [(alone.high - alone.low, together.high - together.low) for alone, together in pairs]
    assert np.median([together / alone for alone, together in widths]) > 1.5


@pytest.mark.parametrize("labels", [ONE_PHOTOGRAPH, np.repeat(np.arange(7), 28)], ids=["one-of-28", "7-of-28"])
def test_clustered_null_gaps_are_no_difference_and_would_be_if_patches_were_pictures(labels):
    random = np.random.default_rng(1)
    grids = [clustered(random, labels) for _ in range(DRAWS)]
    rate, naive = (np.mean([contrast(d, which).verdict in EVENTS for d in grids]) for which in (labels, None))
    assert rate <= 0.05, f"{rate:.3f}"
    assert naive > 0.1, f"the planted clusters are too weak to tell: {naive:.3f}"


def test_clusters_of_one_picture_change_nothing_and_labels_may_be_text():
    differences = grid(np.random.default_rng(0), pictures=6)
    assert contrast(differences, list("fedcba")) == contrast(differences)


def test_clusters_of_one_size_count_as_that_many_pictures():
    differences = grid(np.random.default_rng(0), pictures=60)
    by_photograph = differences.reshape(5, 20, 3).mean(axis=2)
    found, reference = contrast(differences, np.repeat(np.arange(20), 3)), contrast(by_photograph)
    assert (found.groups, found.low, found.high) == pytest.approx((20, reference.low, reference.high))
    assert (found.pictures, reference.pictures) == (60, 20)


def test_one_photograph_alone_decides_nothing():
    found = contrast(grid(np.random.default_rng(0), gap=3, pictures=28), np.zeros(28))
    assert (found.low, found.high, found.verdict, found.p_value) == (-math.inf, math.inf, "undecided", 1)


# Contrasts: edges.


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 200), (0, 200), (1, 1), (0, 0), (5, 0)])
def test_without_two_seeds_or_a_picture_there_is_no_interval(shape):
    found = paired_contrast(np.ones(shape), np.zeros(shape))
    assert (found.low, found.high, found.verdict, found.p_value) == (-math.inf, math.inf, "undecided", 1)
    assert (found.seeds, found.pictures) == shape
    assert found.mean == 1 if all(shape) else math.isnan(found.mean)


def test_identical_scores_are_equivalent():
    scores = np.random.default_rng(0).normal(30, 3, (5, 20))
    found = paired_contrast(scores, scores)
    assert (found.mean, found.low, found.high, found.p_value, found.verdict) == (0, 0, 0, 1, "equivalent")


def test_a_difference_told_apart_from_zero_within_the_margin_is_equivalent():
    differences = 0.05 + grid(np.random.default_rng(0), seed_spread=0.001, picture_spread=0.01, rest=0.01)
    assert contrast(differences).p_value < 1e-3
    assert (contrast(differences).verdict, contrast(differences, margin=0.04).verdict) == ("equivalent", "better")


@pytest.mark.parametrize("margin", [0.9, 1.1])
def test_equivalence_is_two_one_sided_tests(margin):
    gaps = np.array([-1.0, 0.1, 0.7, 0.9, -0.7])
    edge = stats.t.ppf(0.95, 4) * stats.sem(gaps) + abs(gaps.mean())
    found = paired_contrast(gaps[:, None], np.zeros((5, 1)), margin=margin * edge)
    assert found.verdict == ("equivalent" if margin > 1 else "undecided")


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_diverged_run_loses_and_the_other_side_wins(bad):
    good = np.random.default_rng(0).normal(30, 3, (5, 20))
    diverged = good.copy()
    diverged[2, 3] = bad
    lost, won, both = (paired_contrast(*pair) for pair in ((diverged, good), (good, diverged), (diverged, diverged)))
    assert (lost.mean, lost.low, lost.high, lost.p_value, lost.verdict) == (*[-math.inf] * 3, 0, "worse")
    assert (won.mean, won.low, won.high, won.p_value, won.verdict) == (*[math.inf] * 3, 0, "better")
    assert math.isnan(both.mean)
    assert (both.verdict, both.p_value) == ("undecided", 1)
    assert np.isnan(diverged[2, 3]) == np.isnan(bad), "the caller's scores stay as they are"


@pytest.mark.parametrize(
    ("ours", "theirs", "clusters"),
    [((5, 3), (5, 1), None), ((5, 3), (4, 3), None), ((5,), (5,), None), ((5, 3), (5, 3), [1, 2])],
)
def test_what_is_not_paired_is_refused(ours, theirs, clusters):
    with pytest.raises(ValueError, match=r"paired|pictures"):
        paired_contrast(np.zeros(ours), np.zeros(theirs), clusters)


# Seeds needed.


@pytest.mark.parametrize("half_width", [0.07, 0.1, 0.2])
def test_seeds_needed_are_the_fewest_that_suffice(half_width):
    gaps = np.array([-0.2, 0.1, 0.15, -0.05])
    needed = seeds_needed(paired_contrast(gaps[:, None], np.zeros((4, 1))), half_width)

    def half(seeds):
        return stats.t.ppf(0.975, seeds - 1) * gaps.std(ddof=1) / math.sqrt(seeds)

    assert half(needed) <= half_width < half(needed - 1)


def test_seeds_needed_tell_the_width_of_a_grid_of_as_many():
    random = np.random.default_rng(0)
    needed = [seeds_needed(contrast(grid(random, seeds=5))) for _ in range(50)]
    seeds = int(np.median(needed))
    halves = [(found.high - found.low) / 2 for found in (contrast(grid(random, seeds=seeds)) for _ in range(50))]
    assert np.median(halves) == pytest.approx(0.1, rel=0.15)


def test_no_number_of_seeds_makes_up_for_too_few_pictures():
    assert seeds_needed(contrast(grid(np.random.default_rng(0), pictures=10, picture_spread=1))) is None
    assert seeds_needed(contrast(grid(np.random.default_rng(0), seeds=1))) is None


# Families.


def test_holm_by_hand():
    # .01 x 4, .02 x 3, .03 x 2, .04 x 1 never below the one before: as multipletests(method="holm") defines it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.001, 0.8, 0.4]) == pytest.approx([0.003, 0.8, 0.8])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="not all in"):
        holm([0.1, math.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_holm_lies_between_no_correction_and_bonferroni_keeps_the_order_and_ignores_it(p_values, random):
    given_, adjusted = np.array(p_values), holm(p_values)
    assert (given_ <= adjusted).all()
    assert (adjusted <= np.minimum(given_ * len(given_), 1)).all()
    assert (np.diff(adjusted[np.argsort(given_)]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, given_.min() * len(given_)))
    order = random.sample(range(len(p_values)), len(p_values))
    assert sorted(holm(given_[order])) == pytest.approx(sorted(adjusted))
    step_down = [_rejected(given_, alpha) for alpha in (0.05, 0.2)]
    assert [(adjusted <= alpha).sum() for alpha in (0.05, 0.2)] == step_down


def _rejected(p_values, alpha):
    """Holm's own procedure: from the smallest on, until one is not below alpha over those that are left."""
    count = 0
    for p in sorted(p_values):
        if p * (len(p_values) - count) > alpha:
            break
        count += 1
    return count


def planted(p_value, verdict):
    return Contrast(0.3, 0.1, 0.5, p_value, 5, 200, verdict, 200, 0.05, 0.02, 0.95)


def test_with_holm_takes_back_what_many_contrasts_find_by_chance():
    given_ = [planted(0.04, "better"), planted(0.001, "worse"), planted(0.03, "equivalent"), planted(0.5, "undecided")]
    found = with_holm(given_)
    assert [each.verdict for each in found] == ["undecided", "worse", "equivalent", "undecided"]
    assert [each.p_value for each in found] == pytest.approx([0.09, 0.004, 0.09, 0.5])
    assert [(each.mean, each.low, each.high) for each in found] == [(0.3, 0.1, 0.5)] * 4
    assert with_holm([planted(0.04, "better")]) == [planted(0.04, "better")]


def test_twelve_null_contrasts_raise_an_alarm_in_at_most_one_of_twenty_families():
    random = np.random.default_rng(0)
    families = [[contrast(grid(random, pictures=40)) for _ in range(12)] for _ in range(100)]

    def alarms(family):
        return any(each.verdict in EVENTS for each in family)

    assert np.mean([alarms(with_holm(family)) for family in families]) <= 0.05
    assert np.mean([alarms(family) for family in families]) > 0.1, "nothing to correct"


# Times to a target.


def curve(*scores, times=None):
    return pd.Series(scores, index=times or range(0, 10 * len(scores), 10), dtype=float)


def test_the_first_time_at_the_target_and_infinity_where_never():
    found = time_to_target([curve(20, 31, 25, 33), curve(20, 25, 30), curve(20, 29, math.nan), curve()], 30)
    assert found.times == (10, 20, math.inf, math.inf)
    assert found.budgets == (30, 20, 20, 0)
    assert found.verdict == "sometimes"
    assert time_to_target([curve(31, 30, times=[7, 3])], 30).times == (3,), "in order of time, not of rows"
    with pytest.raises(ValueError, match="no curve"):
        time_to_target([], 30)


def test_all_censored_is_never_and_none_is_always():
    never = TimeToTarget((math.inf, math.inf), (50, 80))
    assert (never.verdict, never.median) == ("never", math.inf)
    assert (never.exceeded, never.at_least) == (50, (50, 80))
    always = TimeToTarget((10, 20, 60), (80, 80, 80))
    assert (always.verdict, always.median) == ("always", 20)
    assert (always.exceeded, always.at_least) == (math.inf, (10, 20, 60))


def test_a_seed_that_gave_up_early_does_not_shorten_the_median():
    # Kaplan and Meier would leave it out, as if giving up said nothing, and find 110.
    found = TimeToTarget((110, 120, math.inf), (200, 200, 100))
    assert (found.verdict, found.median, found.at_least) == ("sometimes", 120, (110, 120, 100))


def test_performance_profile_by_hand():
    rows = [("a", "x", 1), ("a", "y", 2), ("b", "x", 6), ("b", "y", 2), ("c", "x", math.inf), ("c", "y", 5)]
    unsolved = [("d", "x", math.inf), ("e", "y", 0), ("e", "x", 4)]
    found = performance_profile(pd.DataFrame(rows + unsolved, columns=["problem", "method", "time"]))
    assert found.index.tolist() == [1, 2, 3]
    assert found["x"].tolist() == pytest.approx([1 / 5, 1 / 5, 2 / 5])
    assert found["y"].tolist() == pytest.approx([3 / 5, 4 / 5, 4 / 5])


def test_the_profile_of_nothing_solved_is_flat_zero():
    found = performance_profile(pd.DataFrame({"problem": ["a"], "method": ["x"], "time": [math.inf]}))
    assert found.to_dict() == {"x": {1.0: 0.0}}


# Ratios.


def rounds(random, count, ratio=1.3, memory=0.5):
    """Two methods' times under one drifting load, each with its own correlated noise."""

    def noise():
        shocks = random.normal(0, math.sqrt(1 - memory**2), count + 30)
        return remembered(shocks, memory)[30:]

    load = 1 + 0.1 * noise()
    return ratio * load * (1 + 0.05 * noise()), load * (1 + 0.05 * noise())


def remembered(shocks, memory):
    state, values = 0.0, np.empty_like(shocks)
    for step, shock in enumerate(shocks):
        values[step] = state = memory * state + shock
    return values


@pytest.mark.parametrize("count", [10, 40])
def test_the_planted_ratio_is_covered_though_rounds_are_correlated(count):
    random = np.random.default_rng(0)
    found = [bootstrap_ratio(*rounds(random, count), draws=400) for _ in range(300)]
    coverage = np.mean([low <= 1.3 <= high for _, low, high in found])
    assert coverage >= 0.9, f"{coverage:.3f}"
    assert np.median([high - low for _, low, high in found]) < 0.3, "covers by saying nothing"


def test_a_load_that_both_share_cancels_and_a_seed_repeats_the_draws():
    load = np.random.default_rng(0).uniform(1, 5, 20)
    assert bootstrap_ratio(3 * load, load) == pytest.approx((3, 3, 3))
    pair = rounds(np.random.default_rng(0), 20)
    assert bootstrap_ratio(*pair) == bootstrap_ratio(*pair) != bootstrap_ratio(*pair, seed=1)


def test_correlated_rounds_widen_the_interval():
    ours, theirs = np.repeat(np.random.default_rng(0).normal(1, 0.05, (2, 8)), 8, axis=1)
    shuffled = np.random.default_rng(1).permutation(64)
    widths = [
        high - low
        for _, low, high in (bootstrap_ratio(ours, theirs), bootstrap_ratio(ours[shuffled], theirs[shuffled]))
    ]
    assert widths[0] > 1.5 * widths[1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rounds(count):
    ratio, low, high = bootstrap_ratio(np.arange(2, 2 + count), np.ones(count))
    assert low < ratio < high
    assert (count == 1) == math.isinf(high)
