"""Honest probabilities: a planted temperature, and errors of known cases."""

import numpy as np
import pytest
from scipy.special import softmax

from plankton_study.images.splits import make_splits
from plankton_study.probes.probe import probe_encoder
from plankton_study.questions.monitoring.calibration import (
    calibrate,
    calibration_error,
    fit_temperature,
    risk_coverage,
    temper,
)


def draw_classes(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of four equally common classes, and exact probabilities of their images."""
    centres = 1.5 * np.eye(4)
    codes = rng.choice(4, number)
    x = centres[codes] + rng.normal(size=(number, 4))
    return codes, softmax(-((x[:, None] - centres) ** 2).sum(axis=2) / 2, axis=1)


def test_the_temperature_of_overconfident_probabilities_is_recovered():
    codes, chances = draw_classes(4000, np.random.default_rng(0))
    assert fit_temperature(chances, codes) == pytest.approx(1, abs=0.1)
    sharp = softmax(3 * np.log(chances), axis=1)
    temperature = fit_temperature(sharp, codes)
    assert temperature == pytest.approx(3, rel=0.1)
    once = np.ones((1, len(codes)))
    before, after = (
        calibration_error(p.max(axis=1), p.argmax(axis=1) == codes, once)[0]
        for p in (sharp, temper(sharp, temperature))
    )
    assert before > 0.1 and after < 0.04


def test_calibration_error_of_a_known_case():
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    is_right = np.array([True] * 10 + [False] * 10)
    weights = np.array([[1] * 20, [1] * 10 + [0] * 10])
    error = calibration_error(confidence, is_right, weights, bins=2)
    assert error == pytest.approx([0.35, 0.1])


def test_risk_rises_with_coverage_when_confidence_is_worth_something():
    confidence = np.array([0.2, 0.9, 0.5, 0.8])
    coverage, risk = risk_coverage(confidence, np.array([False, True, False, True]))
    assert coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert risk == pytest.approx([0, 0, 1 / 3, 0.5])


def test_a_temperature_changes_confidence_but_no_answer(shared):
    splits = make_splits(shared, "shapes")
    result = probe_encoder(shared, splits, "pixels + PCA")
    (probe,) = calibrate(splits, {"pixels + PCA": result})
    assert probe.tested_parts == ["test", "later"]
    for part, chances in probe.probabilities.items():
        np.testing.assert_allclose(
            chances, temper(result.heads["linear"][part], probe.temperature), atol=1e-12
        )
        assert (result.classes[chances.argmax(axis=1)] == result.predicted_taxa(part)).all()
        assert (result.classes[probe.codes(part)] == probe.truth(part)).all()
