"""Metrics against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from plankton_study.probes import metrics
from plankton_study.probes.intervals import Units, draw_weights

TAXA = np.array(["a", "b", "c", "d"])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_scores_equal_scikit_learns(n, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice(TAXA[:3], n), rng.choice(TAXA, n)
    scores = {metric: values[0] for metric, values in metrics.scores(truth, predicted).items()}
    present = np.unique(truth)
    macro_f1 = f1_score(truth, predicted, labels=present, average="macro")
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(macro_f1)
    recalls = [np.mean(predicted[truth == taxon] == taxon) for taxon in present]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(present):
        assert np.mean(recalls) == pytest.approx(balanced_accuracy_score(truth, predicted))


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(0, 1000))
def test_a_weight_counts_an_image_that_often(n, seed):
    rng = np.random.default_rng(seed)
    truth, predicted, times = rng.choice(TAXA, n), rng.choice(TAXA, n), rng.integers(1, 4, n)
    weighted = metrics.scores(truth, predicted, times[None].astype(float))
    repeated = metrics.scores(np.repeat(truth, times), np.repeat(predicted, times))
    assert all(weighted[metric][0] == pytest.approx(repeated[metric][0]) for metric in weighted)


def test_a_draw_without_a_taxon_averages_over_the_others():
    truth, predicted = np.array(list("aab")), np.array(list("aba"))
    drawn = metrics.scores(truth, predicted, np.array([[1.0, 1, 0]]))
    without = metrics.scores(truth[:2], predicted[:2])
    assert all(drawn[metric][0] == pytest.approx(without[metric][0]) for metric in without)


def test_judging_some_taxa_keeps_the_mistakes_of_the_others():
    truth = np.array(["a", "a", "a", "b", "b", "c", "c", "c"])
    predicted = np.array(["a", "a", "b", "b", "a", "a", "c", "c"])
    scores = metrics.scores(truth, predicted, taxa=("a", "b"))
    assert scores["accuracy"][0] == pytest.approx(3 / 5)  # of the images that are a or b
    by_taxon = f1_score(truth, predicted, labels=["a", "b", "c"], average=None)
    # the c taken for an a counts
    assert scores["macro_f1"][0] == pytest.approx(by_taxon[:2].mean())
    assert scores["balanced_accuracy"][0] == pytest.approx((2 / 3 + 1 / 2) / 2)
    of_all_taxa = metrics.scores(truth, predicted, taxa=("a", "b", "c"))
    of_all_images = metrics.scores(truth, predicted)
    for metric, values in of_all_taxa.items():
        assert values[0] == pytest.approx(of_all_images[metric][0])


# --- intervals


def test_without_groups_each_draw_judges_the_same_taxa():
    """Single images are resampled within their taxon; so no taxon leaves a draw.

    If taxa with few images left half of the draws, macro-F1 would average over the easy ones, and
    the interval would lie above the value.
    """
    truth = np.array(["common"] * 60 + [f"rare {number}" for number in range(40)])
    predicted = np.where(np.arange(100) < 75, truth, "common")
    taxa = np.unique(truth, return_inverse=True)[1]
    within_taxa = Units.of(np.arange(100), taxa)
    across_taxa = Units.of(np.arange(100))
    weights = draw_weights(within_taxa, 200)
    counts = weights @ (taxa[:, None] == np.arange(taxa.max() + 1))
    assert (counts == counts[0]).all()

    within = metrics.estimates(truth, predicted, within_taxa, 500)["macro_f1"]
    across = metrics.estimates(truth, predicted, across_taxa, 500)["macro_f1"]
    assert within.low <= within.value <= within.high
    assert within.high - within.low < across.high - across.low


def test_the_interval_over_draws_of_labels_is_that_of_their_mean():
    """Of five probes at 50 to 70 %, the mean is known better than each of them."""
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 20_000)
    shares = np.array([0.50, 0.55, 0.60, 0.65, 0.70])
    predicted = np.where(rng.random((5, 20_000)) < shares[:, None], truth, "wrong")
    estimate = metrics.estimates(truth, predicted, Units.of(np.arange(20_000)), 1000)["accuracy"]
    error = (estimate.high - estimate.low) / 2 / 1.96
    assert estimate.value == pytest.approx(0.6, abs=0.01)
    assert error == pytest.approx(shares.std(ddof=1) / 5**0.5, rel=0.15)


def test_predictions_of_several_draws_of_labels_share_the_interval():
    truth = np.random.default_rng(0).choice(TAXA, 300)
    good, bad = truth.copy(), truth.copy()
    good[:30], bad[:150] = "wrong", "wrong"
    units = Units.of(np.arange(300))
    both = metrics.estimates(truth, np.array([good, bad]), units, 400)["accuracy"]
    assert both.value == pytest.approx((0.9 + 0.5) / 2)
    only_good = metrics.estimates(truth, good, units, 400)["accuracy"]
    assert both.high - both.low > 3 * (only_good.high - only_good.low)
    delta = metrics.estimates(truth, np.array([good, bad]), units, 400, minus=np.array([good, bad]))
    assert delta["accuracy"][:3] == (0, 0, 0)
