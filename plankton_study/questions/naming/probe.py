"""The fitted probe that names images, and how good it is."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.bank import AnyBank, JoinedBanks, extract_features
from plankton_study.features.interface import Encoder
from plankton_study.features.registry import encoder_family
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals, metrics
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.folds import Calibration, fit_on_all, score_held_out
from plankton_study.probes.linear.scaling import ScaledFeatures
from plankton_study.probes.result import LinearProbe
from plankton_study.questions.naming.choice import (
    OTHER,
    Candidate,
    Candidates,
    Held,
)
from plankton_study.run.study import Study

#: images whose features are in memory at the same time
ROWS_AT_ONCE = 4_096


class Namer(NamedTuple):
    """A fitted probe that gives calibrated probabilities of the classes.

    Attributes:
        candidate: the encoder, the cell and the penalty.
        probe: linear discriminant analysis, fitted to all labelled images of home that are not
            for testing, with the sharpness that held-out images ask for, without the doubt.
        calibration: this sharpness, and the doubt.
        shares: (K,) of the classes among the labelled images.
        encoder: the encoder.
        bank: its features of the labelled images.
        held_out: (n, K) probabilities of the held-out images, by probes not fitted to them.
    """

    candidate: Candidate
    probe: LinearProbe
    calibration: Calibration
    shares: np.ndarray
    encoder: Encoder
    bank: JoinedBanks
    held_out: np.ndarray

    def features(self, bank: AnyBank, rows: np.ndarray) -> ScaledFeatures:
        """Return the standardised features of rows of a bank, in blocks."""
        return ScaledFeatures(bank, self.probe.cell, rows, self.probe.scaler, ROWS_AT_ONCE)

    def probabilities(self, bank: AnyBank, rows: np.ndarray) -> np.ndarray:
        """Return probabilities (n, K) for rows of a bank, as if all were of the classes."""
        blocks = [self.probe.probabilities_of_scaled(own) for own in self.features(bank, rows)]
        chances = self.calibration.with_doubt(np.concatenate(blocks), self.shares)
        return never_certain(chances, len(self.held_out))


def never_certain(probabilities: np.ndarray, images: int) -> np.ndarray:
    """Return probabilities (n, K) that allow for errors too rare to be seen.

    If none of n held-out images is named wrongly, the next one still may be, with a probability of
    about 1 / (n + 2) (Laplace's rule of succession).

    Args:
        probabilities: (n, K).
        images: number of held-out images.
    """
    chance = 1 / (images + 2)
    return (1 - chance) * probabilities + chance / probabilities.shape[1]


def fit_namer(study: Study, held: Held, candidate: Candidate) -> Namer:
    """Fit the probe of a candidate to all labelled images of home that are not for testing."""
    encoder, bank = candidate.features
    config, cell = study.profile.probes, candidate.cell
    held_out = score_held_out(bank, cell, held.folds, held.labels, config)
    factor = np.float32(held_out.calibration.sharpness)
    rows = held.labelled_rows
    scaler, scorer = fit_on_all(bank, cell, rows, held.labels, held_out.penalty)
    probe = LinearProbe(
        cell=cell,
        classes=held.labels.classes,
        scaler=scaler,
        weights=factor * scorer.weights,
        bias=factor * scorer.bias,
        method="LDA",
        strength=held_out.penalty,
    )
    shares = np.exp(scorer.log_shares)
    of_held_out = never_certain(held_out.probabilities, len(held.rows))
    return Namer(candidate, probe, held_out.calibration, shares, encoder, bank, of_held_out)


def score_on_test(study: Study, splits: Splits, held: Held, namer: Namer) -> dict[str, Estimate]:
    """Return the scores of a probe on test images of its classes, with 95 % intervals."""
    rows = held.test[held.labels.taxa[held.test] != OTHER]
    predicted = namer.probe.classes[namer.probabilities(namer.bank, rows).argmax(axis=1)]
    truth, units = held.labels.taxa[rows], intervals.units_of(splits, rows)
    return metrics.estimates(truth, predicted, units, study.profile.probes.draws)


def candidates_table(study: Study, splits: Splits, held: Held, tried: Candidates) -> pd.DataFrame:
    """Return the scores of all candidates, the best on held-out images first.

    Returns:
        Columns encoder, learnt from, read-out, cell, held out (%), and on test images accuracy (%)
        and macro-F1 (%). Encoders that were not tried come last, with the reason as their cell.
    """
    lines = []
    for candidate in sorted(tried.candidates, key=lambda own: -own.score):
        namer = fit_namer(study, held, candidate)
        scores = score_on_test(study, splits, held, namer)
        lines.append(
            {
                "encoder": candidate.encoder,
                "learnt from": encoder_family(study, candidate.encoder),
                "read-out": candidate.read_out,
                "cell": str(candidate.cell),
                "held out (%)": 100 * candidate.score,
                "accuracy (%)": scores["accuracy"],
                "macro-F1 (%)": scores["macro_f1"],
            }
        )
    for name, reason in tried.absent.items():
        family = encoder_family(study, name)
        line = {"encoder": name, "learnt from": family, "read-out": "not run"}
        lines.append(line | {"cell": reason.partition(":")[0]})
    return pd.DataFrame(lines)


def bank_of(study: Study, splits: Splits, namer: Namer, rows: np.ndarray) -> AnyBank:
    """Return a bank that holds the features of rows: that of labelled images, or their own."""
    if namer.bank.holds(rows):
        return namer.bank
    cells = [namer.candidate.cell]
    return extract_features(study, namer.encoder, splits.original, rows, cells=cells)
