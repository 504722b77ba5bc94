"""Few labels: the same draws for all, nothing chosen, and the count of labels saved."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from plankton_study.images.splits import make_splits
from plankton_study.probes.intervals import Units
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions.few_labels import (
    curve_estimates,
    labels_needed,
    labels_saved_table,
    probe_few_labels,
    score_curve,
)


def test_probes_from_few_labels(shared):
    splits = make_splits(shared, "shapes")
    named = probe_few_labels(shared, splits, "pixels + PCA")
    rows = probe_encoder(shared, splits, "pixels + PCA").rows["test"]
    most = pd.Series(splits.taxa(splits["train"])).value_counts().max()
    assert list(named) == [count for count in shared.profile.labels.counts if count <= most]
    for of_draws in named.values():
        assert of_draws.shape == (shared.profile.labels.draws, len(rows))
        assert set(of_draws.flat) <= set(splits.classes)
    assert not np.array_equal(*named[1][:2]), "two draws of one label a class gave the same probe"


def test_the_least_number_is_probed_even_where_no_class_has_so_many(make_study):
    study = make_study(more="[labels]\ncounts = [500, 1000]\ndraws = 1")
    splits = make_splits(study, "shapes")
    assert list(probe_few_labels(study, splits, "pixels + PCA")) == [500]


def test_labels_of_validation_and_test_images_are_not_used(make_study):
    """With all labels of held-out images shuffled the predictions stay as they are."""
    study = make_study()
    splits = make_splits(study, "shapes")
    named = probe_few_labels(study, splits, "pixels + PCA")
    records = splits.collection.records.copy()
    for part in ("validation", "test"):
        taxa = records["taxon"].to_numpy()[splits[part]]
        records.loc[splits[part], "taxon"] = np.roll(taxa, 1)
    collection = replace(splits.collection, records=records, digest="shuffled")
    with_shuffled = probe_few_labels(study, replace(splits, collection=collection), "pixels + PCA")
    assert all(np.array_equal(named[count], with_shuffled[count]) for count in named)


def test_a_curve_is_the_mean_over_draws_with_paired_bootstrap_draws():
    truth = np.array(list("aabb") * 10)
    right, wrong = truth.copy(), np.where(truth == "a", "b", "a")
    named = {1: np.array([right, wrong]), 5: np.array([right, right])}
    curve = score_curve(truth, named, Units.of(np.arange(40)), 60)
    assert curve.shape == (61, 2) and curve.iloc[0].tolist() == [0.5, 1.0]
    assert set(curve[1].iloc[1:]) == {0.0, 1.0}  # one draw of labels each, in turn
    assert curve[5].eq(1).all()
    estimates = curve_estimates(curve, 40)
    assert estimates[1][:4] == (0.5, 0, 1, 40) and estimates[5][:4] == (1, 1, 1, 40)


def test_labels_needed_are_read_between_the_counts():
    curve = pd.DataFrame({1: [0.1, 0.1], 10: [0.3, 0.3], 100: [0.5, 0.2]})
    assert labels_needed(curve, np.array([0.4, 0.3])) == pytest.approx([10**1.5, 10])
    assert labels_needed(curve, np.array([0.1, 0.05])) == pytest.approx([1, 1])
    assert np.isinf(labels_needed(curve, np.array([0.6, 0.4]))).all()


# --- labels saved


def steady_curve(*scores: float) -> pd.DataFrame:
    """Return a curve whose 39 draws all are its value."""
    return pd.DataFrame(40 * [scores], columns=[1, 10, 100])


def test_labels_saved_are_counted_from_what_diffusion_reaches():
    curves = {
        "diffusion": steady_curve(0.2, 0.5, 0.8),
        "ten times": steady_curve(0.1, 0.2, 0.5),
        "a tenth": steady_curve(0.5, 0.6, 0.7),
        "never": steady_curve(0.1, 0.2, 0.3),
    }
    table = labels_saved_table(curves, 10, 77)
    difference = "diffusion minus it at 10 labels (points)"
    assert table.columns.tolist() == [
        "encoder",
        "labels needed",
        "ratio to diffusion",
        "ratio, low",
        "ratio, high",
        difference,
    ]
    assert table["encoder"].tolist() == list(curves)
    assert table["labels needed"].tolist() == pytest.approx([10, 100, 1, np.inf])
    for column in ("ratio to diffusion", "ratio, low", "ratio, high"):
        assert table[column].tolist() == pytest.approx([1, 10, 0.1, np.inf])
    assert table[difference][0] is None
    gains = table[difference][1:].tolist()
    assert [gain.value for gain in gains] == pytest.approx([0.3, -0.1, 0.3])
    assert all(gain.n == 77 and gain.p == pytest.approx(2 / 40) for gain in gains)


def test_the_interval_of_labels_saved_may_end_in_infinity():
    diffusion = steady_curve(0.2, 0.5, 0.8)
    other = steady_curve(0.1, 0.2, 0.5)
    other.loc[30:, 100] = 0.4  # in ten of the draws the level is not reached
    other.loc[1:10, 10] = 0.5  # and in ten it is reached at once
    line = labels_saved_table({"diffusion": diffusion, "other": other}, 10, 77).loc[1]
    assert line["ratio to diffusion"] == pytest.approx(10)
    assert line["ratio, low"] == pytest.approx(1) and np.isinf(line["ratio, high"])
