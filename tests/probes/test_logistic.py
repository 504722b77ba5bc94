"""Logistic regression against scikit-learn's, whose objective it minimises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from plankton_study.probes.linear.logistic import logistic_path

#: until which tests iterate where they compare with an exact solution
EXACT = {"tolerance": 1e-12, "max_iterations": 20_000}
#: a converged fit lies at most this share of the objective above scikit-learn's
CLOSE = 1e-3
#: a difference of the mean loss that changes no probability. (With more channels than samples the
#: classes can be separated, and with a large C the objective itself is hardly larger.)
NOTHING = 1e-5


def draw_problem(
    seed: int, samples: int, channels: int, classes: int, rare: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return standardised features, class codes and weights.

    The features are correlated and have some signal. The last class has only `rare` samples.
    """
    rng = np.random.default_rng(seed)
    common_codes = np.arange(samples - rare) % (classes - 1)
    codes = rng.permutation(np.append(common_codes, np.full(rare, classes - 1)))
    x = rng.normal(size=(samples, channels)) + rng.normal(0, 0.7, (classes, channels))[codes]
    mixing = rng.normal(size=(channels, channels)) / channels**0.5
    x = x @ (0.1 * np.eye(channels) + mixing)
    weight = rng.uniform(0.2, 3, samples)
    return StandardScaler().fit_transform(x).astype(np.float32), codes, weight


def objective(
    weights: np.ndarray,
    bias: np.ndarray,
    strength: float,
    x: np.ndarray,
    codes: np.ndarray,
    weight: np.ndarray,
) -> float:
    """Return the mean of w_i CE_i + |W|^2 / (2 C sum w), in double precision."""
    logits = x.astype(float) @ weights.astype(float) + bias
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(x)), codes]
    penalty = np.square(weights.astype(float)).sum() / (2 * strength * weight.sum())
    return float(losses @ weight / weight.sum() + penalty)


problem_sizes = st.tuples(
    st.integers(0, 10**6),
    st.integers(30, 120),
    st.integers(2, 40),
    st.integers(2, 6),
    st.integers(1, 4),
)
#: problems with more channels than samples
wide_problem_sizes = st.tuples(
    st.integers(0, 10**6),
    st.integers(30, 90),
    st.integers(100, 200),
    st.integers(2, 6),
    st.integers(1, 4),
)


@settings(max_examples=25, deadline=None)
@given(problem_sizes, st.floats(-2, 1), st.booleans())
def test_logistic_regression_equals_scikit_learns(sizes, exponent, is_weighted):
    x, codes, weight = draw_problem(*sizes)
    weight = weight if is_weighted else None
    (model,) = logistic_path([x], codes, [10**exponent], weight, **EXACT)
    # of two classes scikit-learn fits one vector, not a pair
    has_two_classes = sizes[3] == 2
    strength = 10**exponent * (2 if has_two_classes else 1)
    reference = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000)
    reference.fit(x.astype(float), codes, weight)
    other = np.random.default_rng(0).normal(size=(50, x.shape[1])).astype(np.float32)
    for features in (x, other):
        chances = model.probabilities([features])
        np.testing.assert_allclose(chances, reference.predict_proba(features), atol=1e-2)


def assert_converged(x, codes, strengths, weight=None, blocks=1):
    """Check that every fit of a path is as close to the minimum as scikit-learn's."""
    own_weight = np.ones(len(x)) if weight is None else weight
    for model in logistic_path(np.array_split(x, blocks), codes, strengths, weight):
        assert model.converged, model.strength
        reference = LogisticRegression(C=model.strength, tol=1e-8, max_iter=20_000)
        reference.fit(x.astype(float), codes, weight)
        data = (model.strength, x, codes, own_weight)
        best = objective(reference.coef_.T, reference.intercept_, *data)
        has_more_channels = x.shape[1] > len(x)
        limit = (1 + CLOSE) * best + (NOTHING if has_more_channels else 0)
        assert objective(model.weights, model.bias, *data) <= limit, model.strength


@settings(max_examples=15, deadline=None)
@given(
    st.one_of(problem_sizes, wide_problem_sizes).filter(lambda sizes: sizes[3] > 2),
    st.booleans(),
    st.integers(1, 3),
)
def test_a_path_reaches_scikit_learns_objective_at_every_strength(sizes, is_weighted, blocks):
    x, codes, weight = draw_problem(*sizes)
    strengths = [0.001, 0.03, 1.0, 30.0]
    assert_converged(x, codes, strengths, weight if is_weighted else None, blocks)


def test_weak_regularisation_of_a_long_tail_is_not_replaced_by_early_stopping():
    """Many taxa with few images: where a weak penalty once ended after seven iterations."""
    rng = np.random.default_rng(0)
    classes, channels = 40, 60
    shares = 1 / np.arange(1, classes + 1)
    rest = rng.choice(classes, 1500 - classes, p=shares / shares.sum())
    codes = np.append(np.arange(classes), rest)
    centres = rng.normal(0, 0.5, (classes, channels))
    x = centres[codes] + rng.normal(size=(1500, channels))
    x = StandardScaler().fit_transform(x).astype(np.float32)
    assert_converged(x, codes, [0.001, 0.1, 1.0, 10.0, 30.0])


def test_a_path_ends_where_cold_starts_do():
    x, codes, weight = draw_problem(0, 120, 30, 5, 3)
    strengths = [0.1, 0.3, 1.0, 3.0]
    path = list(logistic_path([x], codes, strengths, weight, **EXACT))
    cold = [next(logistic_path([x], codes, [c], weight, **EXACT)) for c in strengths]
    assert [model.strength for model in path] == strengths
    for warm_model, cold_model in zip(path, cold, strict=True):
        np.testing.assert_allclose(
            warm_model.probabilities([x]), cold_model.probabilities([x]), atol=2e-3
        )
    change = np.abs(path[-1].probabilities([x]) - path[0].probabilities([x]))
    assert change.max() > 0.1, "the strength does not matter"


def test_a_weight_counts_a_sample_that_often():
    x, codes, _ = draw_problem(1, 60, 8, 3, 2)
    times = np.random.default_rng(0).integers(1, 4, 60)
    (weighted,) = logistic_path([x], codes, [0.3], times, **EXACT)
    repeated_x, repeated_codes = np.repeat(x, times, axis=0), np.repeat(codes, times)
    (repeated,) = logistic_path([repeated_x], repeated_codes, [0.3], **EXACT)
    np.testing.assert_allclose(weighted.probabilities([x]), repeated.probabilities([x]), atol=1e-4)


def test_the_iterations_are_bounded_and_what_they_give_is_usable():
    x, codes, _ = draw_problem(2, 100, 20, 4, 2)
    for model in logistic_path([x], codes, [1.0, 100.0], tolerance=0.0, max_iterations=7):
        assert model.iterations == 7 and not model.converged
        chances = model.probabilities([x])
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        assert np.mean(chances.argmax(axis=1) == codes) > 0.5


def test_no_iterations_are_needed_twice_where_nothing_changes():
    x, codes, _ = draw_problem(3, 80, 10, 3, 2)
    first, again = logistic_path([x], codes, [1.0, 1.0])
    assert first.iterations > again.iterations
    assert again.probabilities([x]) == pytest.approx(first.probabilities([x]), abs=1e-3)
