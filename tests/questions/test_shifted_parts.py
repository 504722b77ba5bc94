"""Away from home: what a loss is made of, and probes on images of elsewhere."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from plankton_study.images.splits import Splits, make_splits
from plankton_study.probes.intervals import Units
from plankton_study.probes.probe import probe_encoder, read_features
from plankton_study.probes.result import LinearProbe, evaluate
from plankton_study.questions.shift.shifted_parts import (
    Predictions,
    daily_accuracy,
    decompose_loss,
    home_and_away_table,
    predict_elsewhere,
    predictions,
    rename_classes,
    restrict_to_taxa,
    shifted_parts,
)


@pytest.fixture
def splits(shared) -> Splits:
    return make_splits(shared, "shapes")


# --- the same taxa on both sides


def test_home_and_away_are_scored_over_the_same_taxa_on_images_of_these_only(shared, splits):
    """A taxon that is only at home counts neither as an image nor as a wrong answer."""
    (later,) = shifted_parts(shared, {"shapes": splits})
    result = later.comparison.results["diffusion"]
    taxa = later.taxa[:1]
    part = later._replace(taxa=taxa)
    truth = splits.taxa(result.rows["test"]).astype(str)
    assert set(truth) > set(taxa), "home has no other taxa"
    is_kept = np.isin(truth, taxa)
    predicted = result.predicted_taxa("test")
    table = home_and_away_table(shared, [part])
    (line,) = table[table["encoder"] == "diffusion"].to_dict("records")
    home = line["macro-F1, home (%)"]
    expected = f1_score(truth[is_kept], predicted[is_kept], labels=list(taxa), average="macro")
    assert home.value == pytest.approx(expected) and home.n == is_kept.sum()

    days = daily_accuracy(shared, [part])
    at_home = days[(days["encoder"] == "diffusion") & (days["place"] == "home")]
    assert at_home["images"].sum() <= is_kept.sum()
    for side in ("test", "later"):
        counts = pd.Series(splits.taxa(splits[side])).value_counts()
        assert (counts[list(later.taxa)] >= shared.profile.probes.shifted_images).all()


# --- what is the loss made of?


def made_up_predictions(counts: dict[str, int], wrong: dict[str, int]) -> Predictions:
    """Return predictions for some images of each taxon, of which some are named "other"."""
    truth = np.repeat(list(counts), list(counts.values()))
    is_right = np.concatenate(
        [np.arange(count) >= wrong.get(taxon, 0) for taxon, count in counts.items()]
    )
    return Predictions(truth, np.where(is_right, truth, "other"), Units.of(np.arange(len(truth))))


def test_a_change_of_mix_alone_is_called_mix():
    home = made_up_predictions({"easy": 160, "hard": 40}, {"hard": 20})
    away = made_up_predictions({"easy": 40, "hard": 160}, {"hard": 80})
    loss = decompose_loss(home, away, 300)
    assert loss["home"].value == pytest.approx(0.9) and loss["away"].value == pytest.approx(0.6)
    assert loss["mix"].value == pytest.approx(0.3)
    assert loss["appearance"].value == pytest.approx(0)
    assert loss["mix"].low > 0.15 and loss["appearance"].low < 0 < loss["appearance"].high


def test_a_change_of_looks_alone_is_called_appearance():
    home = made_up_predictions({"a": 60, "b": 60}, {"a": 6})
    away = made_up_predictions({"a": 40, "b": 40}, {"a": 24})
    loss = decompose_loss(home, away, 300)
    assert loss["mix"].value == pytest.approx(0)
    assert loss["appearance"].value == pytest.approx(0.25) and loss["appearance"].low > 0


def test_a_taxon_that_only_one_side_has_does_not_count():
    home = made_up_predictions({"a": 50, "b": 50, "gone": 80}, {"gone": 80})
    away = made_up_predictions({"a": 30, "b": 30, "new": 9}, {"new": 9})
    loss = decompose_loss(home, away, 50)
    assert loss["home"].value == pytest.approx(1)
    assert loss["away"].value == pytest.approx(1)
    assert loss["mix"].value == pytest.approx(0)


#: images at home and away, and the share of errors at home and away
taxa_of_both_sides = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=30, deadline=None)
@given(taxa_of_both_sides)
def test_mix_and_appearance_add_up(taxa):
    home_counts = {f"taxon {i}": home for i, (home, _, _, _) in enumerate(taxa)}
    away_counts = {f"taxon {i}": away for i, (_, away, _, _) in enumerate(taxa)}
    home_wrong = {f"taxon {i}": int(share * n) for i, (n, _, share, _) in enumerate(taxa)}
    away_wrong = {f"taxon {i}": int(share * n) for i, (_, n, _, share) in enumerate(taxa)}
    loss = decompose_loss(
        made_up_predictions(home_counts, home_wrong),
        made_up_predictions(away_counts, away_wrong),
        20,
    )
    lost = loss["home"].value - loss["away"].value
    assert loss["mix"].value + loss["appearance"].value == pytest.approx(lost)


# --- probes on images of elsewhere


@pytest.mark.parametrize("name", ["diffusion", "pixels + PCA", "ResNet, labels"])
def test_elsewhere_says_of_known_images_what_the_probe_said(shared, splits, name):
    result = probe_encoder(shared, splits, name)
    rows = result.rows["test"]
    other_collection = replace(splits, collection=replace(splits.collection))
    # the probe's own bank, and a new one
    for away in (splits, other_collection):
        asked, banks = predict_elsewhere(shared, splits, result, away, {"there": rows})
        assert list(asked.rows) == ["there"]
        assert len(asked.features(banks["there"], rows).whole()) == len(rows)
        stored = result.heads["linear"]["test"]
        np.testing.assert_allclose(asked.heads["linear"]["there"], stored, atol=1e-4)
        at_home = evaluate(shared, splits, result, "test")
        assert evaluate(shared, away, asked, "there") == at_home


def test_predictions_are_those_of_the_linear_probe(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    of_test = predictions(splits, result, "test")
    rows = result.rows["test"]
    assert of_test.truth.tolist() == splits.taxa(rows).tolist()
    assert of_test.predicted.tolist() == result.predicted_taxa("test").tolist()
    assert of_test.units.groups.tolist() == splits.groups(rows).tolist()


# --- classes under other names


def test_probabilities_of_one_name_are_added_up(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    coarse = rename_classes(result, {"disc": "round", "bar": "straight", "cross": "straight"})
    before, after = (r.heads["linear"]["test"] for r in (result, coarse))
    assert coarse.classes.tolist() == ["round", "straight"]
    assert coarse.prior.sum() == pytest.approx(1)
    of_discs = before[:, result.classes.tolist().index("disc")]
    np.testing.assert_allclose(after[:, 0], of_discs, atol=1e-6)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-6)


def test_classes_without_a_name_are_no_possible_answer(shared, splits):
    result = probe_encoder(shared, splits, "diffusion")
    renamed = rename_classes(result, {"disc": "disc", "bar": "bar"})
    restricted = restrict_to_taxa(result, ("disc", "bar"))
    for without_cross in (renamed, restricted):
        assert without_cross.classes.tolist() == ["bar", "disc"]
        chances = without_cross.heads["linear"]["test"]
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
        assert set(without_cross.predicted_taxa("test")) <= {"bar", "disc"}


def test_a_renamed_probe_names_any_images(shared, splits, tmp_path):
    """What it says of new images is what it says of the stored ones."""
    result = probe_encoder(shared, splits, "diffusion")
    coarse = rename_classes(result, {"disc": "round", "bar": "straight", "cross": "straight"})
    rows = coarse.rows["test"]
    stored = coarse.heads["linear"]["test"]
    images = splits.collection.images[rows]
    np.testing.assert_allclose(coarse.predict_probabilities(images), stored, atol=1e-4)
    assert set(coarse.predict(images)) <= {"round", "straight"}

    coarse.linear.save(tmp_path)
    loaded = LinearProbe.load(tmp_path)
    _, bank = read_features(shared, splits, "diffusion")
    chances = loaded.probabilities(bank.take(loaded.cell, rows))
    np.testing.assert_allclose(chances, stored, atol=1e-6)

    twice = rename_classes(coarse, {"straight": "line"})
    assert set(twice.predict(images)) == {"line"}
