"""Few labels: the same draws for all, nothing chosen, and the count of labels saved."""

import numpy as np
import pandas as pd
import pytest

from plankton_study import labels, probes, splits


def test_probes_from_few_labels(make_study, shared):
    parts = splits.make(shared, "shapes")
    found = labels.few_labels(shared, parts, "pixels + PCA")
    rows = probes.probe(shared, parts, "pixels + PCA").rows["test"]
    most = pd.Series(parts.taxa(parts["train"])).value_counts().max()
    assert list(found) == [count for count in shared.profile.labels.counts if count <= most]
    for each in found.values():
        assert each.shape == (shared.profile.labels.draws, len(rows)) and set(each.flat) <= set(
            parts.classes
        )
    assert not np.array_equal(*found[1][:2]), "two draws of one label a class gave the same probe"


def test_the_least_number_is_asked_even_where_no_class_has_so_many(make_study):
    study = make_study(more="[labels]\ncounts = [500, 1000]\ndraws = 1")
    parts = splits.make(study, "shapes")
    assert list(labels.few_labels(study, parts, "pixels + PCA")) == [500]


def test_labels_of_validation_and_test_images_are_not_used(make_study):
    """With all labels of held-out images shuffled the predictions stay as they are."""
    from dataclasses import replace

    study = make_study()
    parts = splits.make(study, "shapes")
    first = labels.few_labels(study, parts, "pixels + PCA")
    records = parts.collection.records.copy()
    for part in ("validation", "test"):
        records.loc[parts[part], "taxon"] = np.roll(records["taxon"].to_numpy()[parts[part]], 1)
    other = replace(parts, collection=replace(parts.collection, records=records, digest="shuffled"))
    second = labels.few_labels(study, other, "pixels + PCA")
    assert all(np.array_equal(first[count], second[count]) for count in first)


def test_a_curve_is_the_mean_over_draws_with_paired_bootstrap_draws():
    truth = np.array(list("aabb") * 10)
    right, wrong = truth.copy(), np.where(truth == "a", "b", "a")
    found = labels.curve(
        truth, {1: np.array([right, wrong]), 5: np.array([right, right])}, np.arange(40), 60
    )
    assert found.shape == (61, 2) and found.iloc[0].tolist() == [0.5, 1.0]
    assert set(found[1].iloc[1:]) == {0.0, 1.0}  # one draw of labels each, in turn
    assert found[5].eq(1).all()


def test_labels_needed_are_read_between_the_counts():
    curves = pd.DataFrame({1: [0.1, 0.1], 10: [0.3, 0.3], 100: [0.5, 0.2]})
    assert labels.needed(curves, np.array([0.4, 0.3])) == pytest.approx([10**1.5, 10])
    assert np.isinf(labels.needed(curves, np.array([0.6, 0.4]))).all()
