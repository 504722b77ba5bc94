"""Probes and metrics against scikit-learn, and the rule that only validation data selects."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

from plankton_study import metrics, probes, splits
from plankton_study.features import Cell, FeatureBank
from plankton_study.profile import Probes, StudyError

TAXA = np.array(["a", "b", "c", "d"])


# --- metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_scores_equal_scikit_learns(n, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.choice(TAXA[:3], n), rng.choice(TAXA, n)
    found = metrics.scores(truth, guess)
    present = np.unique(truth)
    assert found["accuracy"][0] == pytest.approx(accuracy_score(truth, guess))
    assert found["macro_f1"][0] == pytest.approx(f1_score(truth, guess, labels=present, average="macro"))
    seen = [np.mean(guess[truth == t] == t) for t in present]
    assert found["balanced_accuracy"][0] == pytest.approx(np.mean(seen))
    if set(guess) <= set(present):
        assert np.mean(seen) == pytest.approx(balanced_accuracy_score(truth, guess))


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 40), st.integers(0, 1000))
def test_a_weight_counts_an_image_that_often(n, seed):
    rng = np.random.default_rng(seed)
    truth, guess, times = rng.choice(TAXA, n), rng.choice(TAXA, n), rng.integers(1, 4, n)
    weighted = metrics.scores(truth, guess, times[None].astype(float))
    repeated = metrics.scores(np.repeat(truth, times), np.repeat(guess, times))
    assert all(weighted[k][0] == pytest.approx(repeated[k][0]) for k in weighted)


def test_the_bootstrap_keeps_groups_together():
    groups = np.repeat(np.arange(5), 4)
    weights = metrics.resample(groups, 50)
    assert (weights.reshape(50, 5, 4) == weights.reshape(50, 5, 4)[:, :, :1]).all()
    assert (weights.reshape(50, 5, 4)[:, :, 0].sum(axis=1) == 5).all()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        truth = rng.choice(TAXA, 150)
        guess = np.where(rng.random(150) < 0.7, truth, "wrong")
        estimate = metrics.estimates(truth, guess, np.arange(150), 300)["accuracy"]
        inside += estimate.low <= 0.7 <= estimate.high
    assert 88 <= inside <= 100


def test_clustered_intervals_are_wider_when_errors_come_in_days():
    rng = np.random.default_rng(0)
    days = np.repeat(np.arange(20), 20)
    truth = rng.choice(TAXA, 400)
    guess = np.where(rng.random(20)[days] < 0.6, truth, "wrong")
    single = metrics.estimates(truth, guess, np.arange(400), 500)["accuracy"]
    by_day = metrics.estimates(truth, guess, days, 500)["accuracy"]
    assert by_day.high - by_day.low > 2 * (single.high - single.low)


def test_paired_differences_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    truth = rng.choice(TAXA, 400)
    first = np.where(rng.random(400) < 0.6, truth, "wrong")
    second = np.where(rng.random(400) < 0.1, "wrong", first)
    delta = metrics.estimates(truth, first, np.arange(400), 500, minus=second)["accuracy"]
    alone = metrics.estimates(truth, first, np.arange(400), 500)["accuracy"]
    assert delta.low > 0 and delta.high - delta.low < alone.high - alone.low
    assert delta.text() == f"{100 * delta.value:.1f} [{100 * delta.low:.1f}, {100 * delta.high:.1f}]"


# --- the grid


@pytest.fixture
def bank(tmp_path):
    """Three cells: one holds the class, one half of it, one noise; 60 rows train, 40 validate, 30 test."""
    rng = np.random.default_rng(0)
    taxa = rng.choice(TAXA, 130)
    signal = np.eye(4)[np.searchsorted(TAXA, taxa)] @ rng.normal(0, 1, (4, 12))
    cells = [Cell("noise", 10), Cell("half", 10), Cell("good", 10)]
    for cell, strength in zip(cells, (0, 0.3, 1.2), strict=True):
        scale = 10 ** rng.uniform(-2, 2, 12)
        values = (strength * signal + rng.normal(0, 1, signal.shape)) * scale + scale
        np.save(tmp_path / f"{cell}.npy", values.astype(np.float32))
    layers = pd.DataFrame({"stage": "up", "resolution": 8, "channels": 12, "order": range(3)})
    layers.index = pd.Index([cell.layer for cell in cells], name="layer")
    rows = {"train": np.arange(60), "validation": np.arange(60, 100), "test": np.arange(100, 130)}
    return FeatureBank(tmp_path, np.arange(130), cells, layers), rows, {p: taxa[r] for p, r in rows.items()}


def test_ridge_equals_scikit_learns_ridge(bank):
    features, rows, taxa = bank
    config = Probes(ridge=(0.1,), width=12)
    grid, right, narrow = probes.ridge_grid(features, rows, taxa, config)
    for number, cell in enumerate(features.cells):
        scaler = StandardScaler().fit(features.take(cell, rows["train"]))
        x, v = (scaler.transform(features.take(cell, rows[p])) for p in ("train", "validation"))
        model = Ridge(alpha=0.1 * len(x)).fit(x, np.eye(4)[np.searchsorted(TAXA, taxa["train"])])
        expected = TAXA[model.predict(v).argmax(axis=1)] == taxa["validation"]
        assert np.array_equal(right[number], expected)
        assert grid["accuracy"][number] == pytest.approx(expected.mean())
        assert np.array_equal(narrow[number], expected) and grid["equal_width"][number] == pytest.approx(
            expected.mean()
        )


def test_the_grid_finds_the_cell_that_holds_the_class(bank):
    features, rows, taxa = bank
    grid, right, _ = probes.ridge_grid(features, rows, taxa, Probes())
    assert grid.set_index("layer")["accuracy"].idxmax() == "good"
    error, near, share = probes.selection_frequencies(right, np.arange(40), 200)
    assert near.tolist() == [False, False, True] and share[2] > 0.9 and 0 < error < 0.1
    assert share.sum() == pytest.approx(1)


def test_equal_cells_share_the_selection():
    right = np.random.default_rng(0).random((2, 500)) < 0.6
    _, near, share = probes.selection_frequencies(np.vstack([right, right[0]]), np.arange(500), 200)
    assert near[0] == near[2] and share[2] == 0  # a tie goes to the first


# --- a whole probe


def test_a_probe_on_real_files_gives_all_that_is_reported(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts)
    assert set(result.predicted) == {"validation", "test", "later"} and "ring" not in result.classes
    assert str(result.selected) in {f"{c.layer}@t{c.timestep}" for c in result.finalists.itertuples()}
    for part, chances in result.probabilities.items():
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-4)
        assert (result.classes[chances.argmax(axis=1)] == result.predicted[part][1]).all()
    estimate = probes.evaluate(shared, parts, result, "test")["accuracy"]
    assert estimate.low <= estimate.value <= estimate.high and estimate.n == len(result.predicted["test"][0])
    assert set(result.grid) >= {"layer", "timestep", "accuracy", "equal_width", "stage", "resolution", "channels"}


def test_every_encoder_is_probed_on_the_same_images(shared):
    parts = splits.make(shared, "shapes")
    results = [probes.probe(shared, parts, name) for name in ("diffusion", "random U-Net", "pixels + PCA")]
    for other in results[1:]:
        for part, (rows, _) in results[0].predicted.items():
            assert np.array_equal(rows, other.predicted[part][0])
    delta = probes.evaluate(shared, parts, results[0], "test", minus=results[1])
    values = [probes.evaluate(shared, parts, r, "test")["accuracy"].value for r in results[:2]]
    assert delta["accuracy"].value == pytest.approx(values[0] - values[1])


def test_test_labels_cannot_change_the_selection(shared, monkeypatch):
    """Shuffled labels of test and shifted images leave grid, finalists and selected cell as they are."""
    parts = splits.make(shared, "shapes")
    honest = probes.probe(shared, parts)
    real = splits.Splits.taxa
    rng = np.random.default_rng(0)
    held_out = np.concatenate([parts["test"], parts["later"]])

    def shuffled(self, rows):
        taxa = real(self, rows)
        mixed = np.isin(rows, held_out)
        taxa[mixed] = rng.permutation(taxa[mixed])
        return taxa

    monkeypatch.setattr(splits.Splits, "taxa", shuffled)
    monkeypatch.setattr(splits.Splits, "digest", property(lambda self: "shuffled"))
    again = probes.probe(shared, parts)
    assert again.selected == honest.selected and again.regularisation == honest.regularisation
    pd.testing.assert_frame_equal(again.grid, honest.grid)


def test_the_balanced_setting_keeps_to_its_classes(shared):
    parts = splits.make(shared, "shapes")
    result = probes.probe(shared, parts, setting="balanced")
    assert set(result.classes) == set(parts.balanced_classes)


def test_an_unknown_encoder_is_named(shared):
    with pytest.raises(StudyError, match="no encoder 'dino'.*diffusion"):
        probes.probe(shared, splits.make(shared, "shapes"), "dino")
