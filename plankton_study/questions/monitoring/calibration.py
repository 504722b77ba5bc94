"""Calibrated probabilities: temperature scaling, calibration error, selective prediction."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.result import ProbeResult
from plankton_study.questions.compare import ProbeResults
from plankton_study.run.study import Study

BINS = 15
LOG_TEMPERATURES = (-2, 3)
#: share of the images that selective prediction keeps
COVERAGE = 0.8
#: bootstrap draws of selective prediction; fewer than elsewhere, since each sorts all images
RISK_DRAWS = 200
#: first points of the risk-coverage curve, which are based on too few images
SKIPPED_POINTS = 10


def fit_temperature(probabilities: np.ndarray, codes: np.ndarray) -> float:
    """Return the temperature with the smallest log loss (Guo et al. 2017).

    scikit-learn's `CalibratedClassifierCV(method="temperature")` fails if a class has no images to
    be fitted on, and a rare taxon may have none among the validation images.

    Args:
        probabilities: (n, K) class probabilities of validation images.
        codes: (n,) their classes.
    """
    of_true_class = np.arange(len(codes)), codes

    def log_loss(log_temperature: float) -> float:
        tempered = temper(probabilities, np.exp(log_temperature))
        return -np.log(tempered[of_true_class]).mean()

    fit = minimize_scalar(log_loss, bounds=LOG_TEMPERATURES, method="bounded")
    return float(np.exp(fit.x))


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n, K) whose logits are divided by a temperature."""
    return softmax(np.log(probabilities.clip(1e-12)) / temperature, axis=1)


def calibration_error(
    confidence: np.ndarray, is_right: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """Return the expected calibration error: the mean of |accuracy - confidence| over bins.

    Args:
        confidence: (n,) the largest probability of each image.
        is_right: (n,) bool.
        weights: (D, n) how often each image counts.
        bins: number of bins, which hold equally many images.

    Returns:
        (D,) float64.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    membership = np.searchsorted(edges, confidence)[:, None] == np.arange(bins)
    gaps = membership * (is_right - confidence)[:, None]
    return np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)


def risk_coverage(confidence: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and risk, (n,) each: the error rate among the most confident images."""
    order = np.argsort(-confidence, kind="stable")
    images_kept = np.arange(1, len(order) + 1)
    return images_kept / len(order), np.cumsum(~is_right[order]) / images_kept


class Calibrated(NamedTuple):
    """A probe's probabilities, before and after temperature scaling.

    Attributes:
        set, encoder: names.
        splits: splits of the set.
        result: result of the probe.
        temperature: fitted on validation images.
        probabilities: part → (n, K), after temperature scaling; also for validation.
    """

    set: str
    encoder: str
    splits: Splits
    result: ProbeResult
    temperature: float
    probabilities: dict[str, np.ndarray]

    @property
    def tested_parts(self) -> list[str]:
        """The test part and the shifted parts."""
        return [part for part in self.probabilities if part != "validation"]

    def truth(self, part: str) -> np.ndarray:
        """Return the taxa of a part's images."""
        return self.splits.taxa(self.result.rows[part]).astype(str)

    def codes(self, part: str) -> np.ndarray:
        """Return the class codes of a part's images."""
        return np.searchsorted(self.result.classes, self.truth(part))

    def is_right(self, part: str) -> np.ndarray:
        """Return which images of a part are predicted correctly, (n,) bool."""
        return self.result.predicted_taxa(part) == self.truth(part)

    def confidence(self, part: str) -> np.ndarray:
        """Return the largest probability of each image of a part."""
        return self.probabilities[part].max(axis=1)


def calibrate(splits: Splits, results: ProbeResults) -> list[Calibrated]:
    """Fit a temperature for each encoder of a set on its validation images."""
    calibrated = []
    for name, result in results.items():
        before = result.heads["linear"]
        truth = splits.taxa(result.rows["validation"]).astype(str)
        codes = np.searchsorted(result.classes, truth)
        temperature = fit_temperature(before["validation"], codes)
        parts = ["validation", "test", *(shift for shift in splits.shifts if shift in before)]
        after = {part: temper(before[part], temperature) for part in parts}
        calibrated.append(
            Calibrated(splits.collection.name, name, splits, result, temperature, after)
        )
    return calibrated


def calibration_table(study: Study, calibrated: list[Calibrated]) -> pd.DataFrame:
    """Return calibration before and after temperature scaling, and selective prediction.

    Returns:
        One row for each probe and part; columns set, part, encoder, temperature, ECE (points),
        ECE, with temperature (points), errors (%), errors, surest 80 % (%) and area under risk
        (%).
    """
    lines = []
    for probe in calibrated:
        for part in probe.tested_parts:
            lines.append(_calibration_line(study, probe, part))
    return pd.DataFrame(lines)


def _calibration_line(study: Study, probe: Calibrated, part: str) -> dict[str, object]:
    is_right = probe.is_right(part)
    units = intervals.units_of(probe.splits, probe.result.rows[part])
    weights = intervals.draw_weights(units, study.profile.probes.draws)
    before = probe.result.heads["linear"][part].max(axis=1)
    errors, surest, area = _selective_prediction(probe, part, weights)
    return {
        "set": probe.set,
        "part": part,
        "encoder": probe.encoder,
        "temperature": probe.temperature,
        "ECE (points)": _calibration_estimate(before, is_right, weights),
        "ECE, with temperature (points)": _calibration_estimate(
            probe.confidence(part), is_right, weights
        ),
        "errors (%)": errors,
        "errors, surest 80 % (%)": surest,
        "area under risk (%)": area,
    }


def _calibration_estimate(
    confidence: np.ndarray, is_right: np.ndarray, weights: np.ndarray
) -> Estimate:
    """Return the calibration error with its interval.

    Repeated images raise the error, so the draws are shifted to have the value as their mean.
    """
    errors = calibration_error(confidence, is_right, weights)
    centred = intervals.with_centred_draws(errors[0], errors[1:])
    return intervals.percentiles(centred, len(is_right))


def _selective_prediction(
    probe: Calibrated, part: str, weights: np.ndarray
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the error rate of all images, of the most confident, and averaged over coverages."""
    confidence, is_right = probe.confidence(part), probe.is_right(part)
    drawn_risks = []
    for counts in weights[: 1 + RISK_DRAWS]:
        images = np.repeat(np.arange(len(is_right)), counts.astype(int))
        coverage, risk = risk_coverage(confidence[images], is_right[images])
        at_coverage = risk[np.searchsorted(coverage, COVERAGE)]
        drawn_risks.append((risk[-1], at_coverage, risk.mean()))
    errors, surest, area = np.array(drawn_risks).T
    n = len(is_right)
    return (
        intervals.percentiles(errors, n),
        intervals.percentiles(surest, n),
        intervals.percentiles(area, n),
    )


def reliability_curve(probe: Calibrated, part: str) -> pd.DataFrame:
    """Return mean confidence and accuracy (%) in ten bins of equally many images."""
    confidence, is_right = probe.confidence(part), probe.is_right(part)
    tenths = pd.qcut(confidence, 10, duplicates="drop")
    images = pd.DataFrame({"confidence": 100 * confidence, "accuracy": 100 * is_right})
    return images.groupby(tenths, observed=True).mean()


def coverage_curve(probe: Calibrated, part: str) -> pd.DataFrame:
    """Return the error rate (%) among the images that are kept (%), most confident first."""
    coverage, risk = risk_coverage(probe.confidence(part), probe.is_right(part))
    curve = pd.DataFrame({"kept": 100 * coverage, "errors": 100 * risk})
    return curve.iloc[SKIPPED_POINTS:]
