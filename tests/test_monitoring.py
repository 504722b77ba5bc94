"""Calibration, unknown taxa and abundances, each with a planted truth."""

import numpy as np
import pytest
from quapy.method.aggregative import EMQ
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from plankton_study import monitoring, splits


def simulated(prior, number, rng, far=2.0):
    """Features of Gaussian classes, their classes, and the exact probabilities under equal priors."""
    centres = far * np.eye(len(prior))
    codes = rng.choice(len(prior), number, p=prior)
    x = centres[codes] + rng.normal(size=(number, len(prior)))
    return x, codes, softmax(-((x[:, None] - centres) ** 2).sum(axis=2) / 2, axis=1)


def test_the_temperature_of_overconfident_probabilities_is_recovered():
    _, codes, chances = simulated(np.full(4, 0.25), 4000, np.random.default_rng(0), far=1.5)
    assert monitoring.fit_temperature(chances, codes) == pytest.approx(1, abs=0.1)
    sharp = softmax(3 * np.log(chances), axis=1)
    temperature = monitoring.fit_temperature(sharp, codes)
    assert temperature == pytest.approx(3, rel=0.1)
    once = np.ones((1, len(codes)))
    errors = [
        monitoring.calibration_error(c.max(axis=1), c.argmax(axis=1) == codes, once)[0]
        for c in (sharp, monitoring.temper(sharp, temperature))
    ]
    assert errors[0] > 0.1 and errors[1] < 0.04


def test_calibration_error_of_a_known_case():
    confidence, right = np.array([0.9] * 10 + [0.6] * 10), np.array([True] * 10 + [False] * 10)
    weights = np.array([[1] * 20, [1] * 10 + [0] * 10])
    assert monitoring.calibration_error(confidence, right, weights, bins=2) == pytest.approx(
        [0.35, 0.1]
    )


def test_risk_rises_with_coverage_when_confidence_is_worth_something():
    coverage, risk = monitoring.risk_coverage(
        np.array([0.2, 0.9, 0.5, 0.8]), np.array([False, True, False, True])
    )
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1]) and risk == pytest.approx(
        [0, 0, 1 / 3, 0.5]
    )


def test_a_planted_novel_class_scores_above_known_ones():
    rng = np.random.default_rng(1)
    x, codes, _ = simulated(np.full(3, 1 / 3), 300, rng, far=6)
    z, _, chances = simulated(np.full(3, 1 / 3), 200, rng, far=6)
    novel = rng.normal(size=(200, 3)) + 2  # between the classes
    both = np.vstack([z, novel])
    chances = softmax(-((both[:, None] - 6 * np.eye(3)) ** 2).sum(axis=2) / 2, axis=1)
    found = monitoring.novelty(x, codes, both, chances)
    assert set(found) == {"maximum softmax", "k-NN distance", "Mahalanobis"}
    for name, score in found.items():
        assert roc_auc_score(np.repeat([0, 1], 200), score) > 0.8, name


def test_the_denoisers_error_does_not_depend_on_the_company_of_an_image(shared):
    parts = splits.make(shared, "shapes")
    rows = parts["test"]
    whole = monitoring.denoising_error(shared, parts, rows)
    assert whole.shape == (len(rows),) and (whole > 0).all()
    np.testing.assert_allclose(
        monitoring.denoising_error(shared, parts, rows[::-1])[::-1], whole, rtol=1e-4
    )
    np.testing.assert_allclose(
        monitoring.denoising_error(shared, parts, rows[3:5]), whole[3:5], rtol=1e-4
    )


def test_with_prior_shift_only_em_recovers_the_true_abundances_within_its_interval():
    rng = np.random.default_rng(2)
    prior, there = np.full(4, 0.25), np.array([0.7, 0.15, 0.1, 0.05])
    _, codes, known = simulated(prior, 2000, rng)
    _, _, chances = simulated(there, 1000, rng)
    found = monitoring.abundances(chances, known, codes)
    draws = [
        monitoring.abundances(chances[rng.integers(1000, size=1000)], known, codes)["EM"]
        for _ in range(100)
    ]
    low, high = np.percentile(draws, [1, 99], axis=0)
    assert ((low <= there) & (there <= high)).all()
    gap = {method: np.abs(share - there).sum() / 2 for method, share in found.items()}
    assert (
        gap["EM"] < gap["classify and count"] / 2
        and gap["adjusted count"] < gap["classify and count"] / 2
    )
    assert all(
        share.sum() == pytest.approx(1, abs=1e-3) and (share >= -1e-6).all()
        for share in found.values()
    )


def test_a_class_without_validation_images_is_counted_as_it_is():
    known = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]] * 5)
    found = monitoring.abundances(np.eye(3)[[0, 0, 1, 2]], known, np.array([0, 1] * 5))
    assert all(np.isfinite(share).all() for share in found.values())
    assert found["adjusted count"][2] == pytest.approx(0.25, abs=0.02)


def test_em_stays_where_it_is_when_nothing_has_changed_although_probabilities_are_too_even():
    """A regularised probe gives rare classes too much; EM must not take that for a change of the mix."""
    prior = np.array([0.6, 0.3, 0.05, 0.03, 0.02])
    _, codes, known = simulated(prior, 1500, np.random.default_rng(3), far=1.5)
    known = softmax(0.5 * np.log(known * prior), axis=1)
    np.testing.assert_allclose(
        monitoring.abundances(known, known, codes)["EM"], known.mean(axis=0), atol=1e-6
    )
    ran_away, _ = EMQ.EM(prior, known)
    assert np.abs(ran_away - prior).sum() / 2 > 0.1
