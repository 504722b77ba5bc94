"""The two linear probes against scikit-learn's, whose objectives they minimise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from plankton_study import linear
from plankton_study.features import Cell, FeatureBank
from plankton_study.linear import logistic_path, ridge_grid, standardised
from plankton_study.schema import Probes

TAXA = np.array(["a", "b", "c", "d"])


# --- logistic regression


def problem(seed: int, samples: int, channels: int, classes: int, rare: int):
    """Standardised, correlated features with some signal; the last class has only `rare` samples."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(
        np.append(np.arange(samples - rare) % (classes - 1), np.full(rare, classes - 1))
    )
    x = rng.normal(size=(samples, channels)) + rng.normal(0, 0.7, (classes, channels))[codes]
    x = x @ (0.1 * np.eye(channels) + rng.normal(size=(channels, channels)) / channels**0.5)
    return StandardScaler().fit_transform(x).astype(np.float32), codes, rng.uniform(0.2, 3, samples)


def gradient(model, x, codes, weight):
    """Of the mean of w_i CE_i + |W|^2 / (2 C sum w), in double precision."""
    x, share = x.astype(float), (weight / weight.sum())[:, None]
    scores = np.exp(x @ model.weights.astype(float) + model.bias)
    residual = (scores / scores.sum(axis=1, keepdims=True) - np.eye(model.bias.size)[codes]) * share
    return x.T @ residual + model.weights / (model.strength * weight.sum()), residual.sum(axis=0)


problems = st.tuples(
    st.integers(0, 10**6),
    st.integers(30, 120),
    st.integers(2, 40),
    st.integers(2, 6),
    st.integers(1, 4),
)


@settings(max_examples=25, deadline=None)
@given(problems, st.floats(-2, 1), st.booleans())
def test_logistic_regression_equals_scikit_learns(sizes, exponent, weighted):
    x, codes, weight = problem(*sizes)
    weight = weight if weighted else None
    (found,) = logistic_path([x], codes, [10**exponent], weight, tolerance=1e-6, most=20_000)
    strength = 10**exponent * (
        2 if sizes[3] == 2 else 1
    )  # of two classes scikit-learn fits one vector, not a pair
    exact = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000).fit(
        x.astype(float), codes, weight
    )
    other = np.random.default_rng(0).normal(size=(50, x.shape[1])).astype(np.float32)
    for features in (x, other):
        np.testing.assert_allclose(
            found.probabilities([features]), exact.predict_proba(features), atol=2e-3
        )


@settings(max_examples=25, deadline=None)
@given(problems, st.booleans(), st.sampled_from([3e-4, 1e-5]))
def test_the_gradient_is_as_small_as_promised(sizes, weighted, tolerance):
    x, codes, weight = problem(*sizes)
    for model in logistic_path(
        [x], codes, [0.03, 1.0, 10.0], weight if weighted else None, tolerance, most=20_000
    ):
        of_weights, of_bias = gradient(model, x, codes, weight if weighted else np.ones(len(x)))
        # the tolerance is met along the eigenvectors: in the features' own axes by the norm over all of them
        assert np.linalg.norm(of_weights, axis=0).max() < 1.1 * tolerance * x.shape[1] ** 0.5 + 1e-6
        assert abs(of_bias).max() < 1.1 * tolerance + 1e-6


def test_a_path_ends_where_cold_starts_do():
    x, codes, weight = problem(0, 120, 30, 5, 3)
    strengths = [0.1, 0.3, 1.0, 3.0]
    path = list(logistic_path([x], codes, strengths, weight, tolerance=1e-6, most=20_000))
    cold = [
        next(logistic_path([x], codes, [c], weight, tolerance=1e-6, most=20_000)) for c in strengths
    ]
    assert [model.strength for model in path] == strengths
    for warm, alone in zip(path, cold, strict=True):
        np.testing.assert_allclose(warm.probabilities([x]), alone.probabilities([x]), atol=2e-3)
    assert (
        np.abs(path[-1].probabilities([x]) - path[0].probabilities([x])).max() > 0.1
    )  # the strength matters


def test_a_weight_counts_a_sample_that_often():
    x, codes, _ = problem(1, 60, 8, 3, 2)
    times = np.random.default_rng(0).integers(1, 4, 60)
    (weighted,) = logistic_path([x], codes, [0.3], times, tolerance=1e-6, most=20_000)
    (repeated,) = logistic_path(
        [np.repeat(x, times, axis=0)], np.repeat(codes, times), [0.3], None, 1e-6, 20_000
    )
    np.testing.assert_allclose(weighted.probabilities([x]), repeated.probabilities([x]), atol=1e-4)


def test_the_iterations_are_bounded_and_what_they_give_is_usable():
    x, codes, _ = problem(2, 100, 20, 4, 2)
    for model in logistic_path([x], codes, [1.0, 100.0], tolerance=0.0, most=7):
        assert model.iterations == 7
        chances = model.probabilities([x])
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        assert np.mean(chances.argmax(axis=1) == codes) > 0.5


# --- ridge


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
    return (
        FeatureBank(tmp_path, np.arange(130), cells, layers),
        rows,
        {p: taxa[r] for p, r in rows.items()},
    )


@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_ridge_equals_scikit_learns_ridge_also_on_principal_components(bank, penalty):
    features, rows, taxa = bank
    grid, right, narrow = ridge_grid(
        features, features.cells, rows, taxa, Probes(ridge=(penalty,), width=3)
    )
    targets = np.eye(4)[np.searchsorted(TAXA, taxa["train"])]
    for number, cell in enumerate(features.cells):
        scaler = StandardScaler().fit(features.take(cell, rows["train"]))
        x, v = (
            scaler.transform(features.take(cell, rows[p])).astype(float)
            for p in ("train", "validation")
        )
        few = PCA(3).fit(x)
        for inputs, others, found, column in (
            (x, v, right[number], "accuracy"),
            (few.transform(x), few.transform(v), narrow[number], "equal_width"),
        ):
            model = Ridge(alpha=penalty * len(x)).fit(inputs, targets)
            expected = TAXA[model.predict(others).argmax(axis=1)] == taxa["validation"]
            assert np.array_equal(found, expected)
            assert grid[column][number] == pytest.approx(expected.mean())
    assert not np.array_equal(right, narrow)


def test_the_grid_finds_the_cell_that_holds_the_class_and_keeps_to_those_asked_for(bank):
    features, rows, taxa = bank
    grid, right, _ = ridge_grid(features, features.cells, rows, taxa, Probes())
    assert grid["layer"].tolist() == ["noise", "half", "good"] and grid["accuracy"].idxmax() == 2
    some, one, _ = ridge_grid(features, features.cells[1:2], rows, taxa, Probes())
    assert some["layer"].tolist() == ["half"] and np.array_equal(one, right[1:2])


# --- more rows than fit into memory


@pytest.fixture
def long_bank(tmp_path):
    rng = np.random.default_rng(3)
    taxa = rng.choice(TAXA, 500)
    x = rng.normal(size=(500, 20)) + 2 * rng.normal(size=(4, 20))[np.searchsorted(TAXA, taxa)] + 5
    cell = Cell("layer", 3)
    np.save(tmp_path / f"{cell}.npy", x.astype(np.float32))
    return FeatureBank(tmp_path, np.arange(500), [cell], pd.DataFrame()), cell, taxa


@pytest.mark.parametrize("block", [1, 37, 299])
def test_blocks_give_what_all_rows_at_once_give(long_bank, monkeypatch, block):
    bank, cell, taxa = long_bank
    rows = {
        "train": np.arange(300),
        "validation": np.arange(300, 400),
        "later": np.arange(400, 500),
    }
    names = {part: taxa[index] for part, index in rows.items()}
    codes = np.searchsorted(TAXA, names["train"])

    def probes():
        x, v = standardised(bank, cell, rows["train"], rows["validation"])
        models = list(logistic_path(x, codes, [0.1, 1.0], np.linspace(1, 2, 300), tolerance=1e-5))
        return (
            x,
            ridge_grid(bank, [cell], rows, names, Probes()),
            [model.probabilities(v) for model in models],
        )

    x, whole, chances = probes()
    assert len(x.parts) == 1
    monkeypatch.setattr(linear, "BLOCK", block)
    x, parts, again = probes()
    assert len(x.parts) == -(-300 // block) and max(len(one) for one in x) <= block
    pd.testing.assert_frame_equal(whole[0], parts[0], atol=0.01)
    np.testing.assert_allclose(again, chances, atol=1e-3)
    with monkeypatch.context() as patch:  # nothing is kept, so each pass reads the files again
        read = []
        patch.setattr(
            FeatureBank,
            "take",
            lambda bank, cell, rows: read.append(len(rows)) or np.zeros((len(rows), 20)),
        )
        for _ in range(2):
            list(x)
    assert sum(read) == 600
