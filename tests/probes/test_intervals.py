"""Intervals: how often they cover the truth, paired differences, and Holm's correction."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.images.splits import make_splits
from plankton_study.probes import intervals, metrics
from plankton_study.probes.intervals import Estimate, MeanWithError, Spread, Units

TAXA = np.array(["a", "b", "c", "d"])


def right_share(truth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return predictions of which about a share is right."""
    return np.where(rng.random(len(truth)) < share, truth, "wrong")


def test_the_bootstrap_keeps_groups_together():
    units = Units.of(np.repeat(np.arange(5), 4))
    by_group = intervals.resample(units, 50).reshape(50, 5, 4)
    assert (by_group == by_group[:, :, :1]).all()
    assert (by_group[:, :, 0].sum(axis=1) == 5).all()


def test_the_first_weights_are_those_of_the_value():
    units = Units.of(np.repeat(np.arange(5), 4))
    weights = intervals.draw_weights(units, 50, seed=3)
    assert weights.shape == (51, 20) and (weights[0] == 1).all()
    assert np.array_equal(weights[1:], intervals.resample(units, 50, seed=3))


def test_centred_draws_have_the_value_as_their_mean():
    centred = intervals.with_centred_draws(0.5, np.array([0.6, 0.8, 1.0]))
    np.testing.assert_allclose(centred, [0.5, 0.3, 0.5, 0.7])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        truth = rng.choice(TAXA, 150)
        predicted = right_share(truth, 0.7, rng)
        estimate = metrics.estimates(truth, predicted, Units.of(np.arange(150)), 300)["accuracy"]
        covered += estimate.low <= 0.7 <= estimate.high
    assert 88 <= covered <= 100


def test_an_interval_is_the_middle_95_percent_of_the_draws():
    estimate = intervals.percentiles(np.append(0.5, np.arange(1001) / 1000), 9)
    assert estimate[:3] == pytest.approx((0.5, 0.025, 0.975))
    assert estimate.n == 9 and estimate.p is None


def test_clustered_intervals_are_wider_when_errors_come_in_days():
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(20), 20)
    truth = rng.choice(TAXA, 400)
    predicted = np.where(rng.random(20)[days] < 0.6, truth, "wrong")
    single = metrics.estimates(truth, predicted, Units.of(np.arange(400)), 500)["accuracy"]
    by_day = metrics.estimates(truth, predicted, Units.of(days), 500)["accuracy"]
    assert by_day.high - by_day.low > 2 * (single.high - single.low)


def test_draws_without_an_answer_do_not_count():
    """A draw that holds none of the judged taxa says nothing about a difference."""
    draws = np.array([0.2, np.nan, 0.3, np.nan, 0.1, 0.4])
    with_gaps = intervals.percentiles(np.append(0.25, draws), 9, is_difference=True)
    without = intervals.percentiles(np.append(0.25, draws[~np.isnan(draws)]), 9, is_difference=True)
    assert with_gaps == without and with_gaps.p == pytest.approx(2 / 5)


@pytest.mark.parametrize("strata", [None, [0, 0, 0, 0], [0, 0, 1, 1]])
def test_a_single_day_gives_no_interval_and_no_p(strata):
    days = np.zeros(4, int) if strata is None or max(strata) == 0 else np.array(strata)
    units = Units.of(days, None if strata is None else np.array(strata))
    truth, right = np.array(list("abab")), np.array(list("abab"))
    delta = metrics.estimates(truth, right, units, 100, minus=np.array(list("baba")))["accuracy"]
    assert delta.value == 1 and np.isnan([delta.low, delta.high, delta.p]).all()
    assert delta.text() == "100.0 (no interval)"


def test_units_of_splits_are_days_or_single_images_within_their_taxon(shared):
    splits = make_splits(shared, "shapes")
    rows = splits["test"]
    assert splits.clustered
    days = intervals.units_of(splits, rows)
    assert np.array_equal(days.groups, splits.groups(rows)) and not days.strata.any()
    ungrouped = replace(splits)
    ungrouped.__dict__["_groups"] = np.arange(len(splits.collection))
    single = intervals.units_of(ungrouped, rows)
    assert len(set(single.groups)) == len(rows)
    taxa = splits.taxa(rows).astype(str)
    assert np.array_equal(single.strata, np.unique(taxa, return_inverse=True)[1])


def test_an_unknown_p_stays_unknown_and_counts_as_a_comparison():
    corrected = intervals.holm([0.01, np.nan, 0.03])
    assert corrected[[0, 2]] == pytest.approx([0.03, 0.06]) and np.isnan(corrected[1])


# --- differences


def test_paired_differences_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 400)
    first = right_share(truth, 0.6, rng)
    second = np.where(rng.random(400) < 0.1, "wrong", first)
    delta = metrics.estimates(truth, first, Units.of(np.arange(400)), 500, minus=second)["accuracy"]
    unpaired = metrics.estimates(truth, first, Units.of(np.arange(400)), 500)["accuracy"]
    assert delta.low > 0 and delta.high - delta.low < unpaired.high - unpaired.low
    value, low, high = (100 * number for number in delta[:3])
    assert delta.text() == f"+{value:.1f} [{low:.1f}, {high:.1f}]"


def test_p_is_small_for_a_clear_difference_and_not_for_none():
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 300)
    good, bad = right_share(truth, 0.8, rng), right_share(truth, 0.5, rng)
    images = Units.of(np.arange(300))
    for first, second in ((good, bad), (bad, good)):
        delta = metrics.estimates(truth, first, images, 400, minus=second)
        assert delta["accuracy"].p == pytest.approx(2 / 401) and delta["macro_f1"].p < 0.01
    assert metrics.estimates(truth, good, images, 400, minus=good)["accuracy"].p == 1
    assert metrics.estimates(truth, good, images, 400)["accuracy"].p is None


def test_p_is_about_uniform_between_equals():
    rng, p_values = np.random.default_rng(1), []
    images = Units.of(np.arange(120))
    for _ in range(150):
        truth = rng.choice(TAXA, 120)
        first, second = right_share(truth, 0.7, rng), right_share(truth, 0.7, rng)
        delta = metrics.estimates(truth, first, images, 200, minus=second)
        p_values.append(delta["accuracy"].p)
    assert np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.35 < np.mean(np.array(p_values) < 0.5) < 0.65


@pytest.fixture(scope="module")
def quick_holm():
    """Hide all objects from the garbage collector, which the library calls in each correction."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_holm_corrects_as_worked_by_hand(quick_holm):
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06 and 0.04, and the last
    # is raised to the one before it
    corrected = intervals.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert intervals.holm([0.6]) == pytest.approx([0.6]) and intervals.holm([]).size == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_never_lowers_and_keeps_the_order(quick_holm, p_values, random):
    corrected = intervals.holm(p_values)
    assert (corrected >= np.array(p_values)).all() and (corrected <= 1).all()
    bonferroni = min(1.0, len(p_values) * min(p_values))
    assert min(corrected) == pytest.approx(bonferroni)  # of the smallest
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    mixed = random.sample(range(len(p_values)), len(p_values))
    assert intervals.holm(np.array(p_values)[mixed]) == pytest.approx(corrected[mixed])


# --- texts


@pytest.mark.parametrize("between_trainings", [0.001, 0.01, 0.05])
def test_the_mean_of_seeds_covers_the_truth_with_both_kinds_of_variation(between_trainings):
    rng = np.random.default_rng(0)
    between_images, trials = 0.02, 2000
    reach = 1.96 * between_images
    covered = 0
    for shared in rng.normal(0, between_images, trials):  # all seeds have the same test images
        values = shared + rng.normal(0, between_trainings, 3)
        mean = intervals.mean_of_seeds(values, values - reach, values + reach)
        covered += mean.low <= 0 <= mean.high
    assert 0.91 <= covered / trials <= 0.98  # Welch's correction is a little too narrow


def test_one_seed_keeps_its_interval_and_none_stays_none():
    alone = intervals.mean_of_seeds(np.array([0.4]), np.array([0.3]), np.array([0.45]))
    assert (alone.value, alone.low, alone.high) == (0.4, 0.3, 0.45)
    unknown = np.full(3, np.nan)
    mean = intervals.mean_of_seeds(np.array([0.4, 0.5, 0.6]), unknown, unknown)
    assert mean.value == pytest.approx(0.5) and np.isnan(mean.low)


def test_values_are_written_with_their_interval_and_a_true_minus_sign():
    assert Estimate(0.521, 0.503, 0.539, 9).text() == "52.1 [50.3, 53.9]"
    assert Estimate(-0.021, -0.039, 0.003, 9, 0.2).text() == "−2.1 [−3.9, 0.3]"
    assert Estimate(0.021, -0.003, 0.039, 9, 0.2).text() == "+2.1 [−0.3, 3.9]"
    assert str(MeanWithError(0.61, 0.027)) == "61.0 ± 2.7"
    assert str(Spread(0.42, 0.417, 0.425, 3)) == "42.0 (41.7 to 42.5)"


def test_a_spread_is_mean_least_and_most():
    assert intervals.spread_of([0.3, 0.1, 0.2]) == pytest.approx((0.2, 0.1, 0.3, 3))
    assert intervals.spread_of([0.3]).text() == "30.0 (one seed)"
