"""Images of taxa that the probe does not know: how novel they look, and how likely they are."""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import AnyBank
from plankton_study.images.reading.records import number_of
from plankton_study.images.splits import Splits
from plankton_study.probes.intervals import Estimate
from plankton_study.questions.monitoring.novelty import (
    NoveltyScorer,
    area_under_roc,
    judge_score,
    score_in_blocks,
    threshold_of,
)
from plankton_study.questions.naming.choice import OTHER, Held
from plankton_study.questions.naming.probe import Namer
from plankton_study.run.study import Study

#: the score of novelty if the set has too few images of unknown taxa to choose one
DEFAULT_SCORE = "k-NN distance"
#: images of unknown taxa from which a score can be chosen
ENOUGH_UNKNOWN = 10
#: an image that is a training image has the distance 0, which has no logarithm
SMALLEST_NOVELTY = 1e-6


class Scored(NamedTuple):
    """Probabilities (n, K) of images, as if they were of the classes, and score → novelty (n,)."""

    probabilities: np.ndarray
    novelty: dict[str, np.ndarray]

    def as_evidence(self) -> np.ndarray:
        """Return the logarithms of all novelty scores, (n, scores)."""
        return np.log(np.stack(list(self.novelty.values()), axis=1).clip(SMALLEST_NOVELTY))


class ScoredParts(NamedTuple):
    """The scores of all images that matter.

    Attributes:
        known: held-out images of the classes, each by a probe that was not fitted to it.
        others: labelled images of no class.
        test: test images, of classes and of none.
        named: the images to name.
    """

    known: Scored
    others: Scored
    test: Scored
    named: Scored


def score_parts(held: Held, namer: Namer, bank: AnyBank, rows: np.ndarray) -> ScoredParts:
    """Score all images that matter.

    Args:
        held, namer: the labelled images and the probe.
        bank: features of the images to name.
        rows: their rows.
    """
    scorer = _scorer(namer, held, held.labelled_rows)
    return ScoredParts(
        known=Scored(namer.held_out, _scores_of_held_out(namer, held)),
        others=_scored(namer, scorer, namer.bank, held.others),
        test=_scored(namer, scorer, namer.bank, held.test),
        named=_scored(namer, scorer, bank, rows),
    )


def _scored(namer: Namer, scorer: NoveltyScorer, bank: AnyBank, rows: np.ndarray) -> Scored:
    probabilities = namer.probabilities(bank, rows)
    features = namer.features(bank, rows)
    return Scored(probabilities, score_in_blocks(scorer, features, probabilities))


def _scorer(namer: Namer, held: Held, rows: np.ndarray) -> NoveltyScorer:
    codes = np.unique(held.labels.codes(rows), return_inverse=True)[1]
    return NoveltyScorer(namer.features(namer.bank, rows).whole(), codes)


def _scores_of_held_out(namer: Namer, held: Held) -> dict[str, np.ndarray]:
    """Return the scores of held-out images, each by the training images of its own fold."""
    of_folds, start = [], 0
    for fold in held.folds:
        end = start + len(fold.held_out)
        scorer = _scorer(namer, held, fold.train)
        features = namer.features(namer.bank, fold.held_out)
        of_folds.append(score_in_blocks(scorer, features, namer.held_out[start:end]))
        start = end
    return {name: np.concatenate([own[name] for own in of_folds]) for name in of_folds[0]}


class ClassesAtAll(NamedTuple):
    """The probability that an image's taxon is one of the classes, by its novelty.

    Images to name may show any taxon, also one with too few labels for a class. If this were left
    out, every probability would be too high.

    Attributes:
        model: logistic regression on the evidence; None if all labelled images are of the classes.
    """

    model: Pipeline | None

    @classmethod
    def fit(cls, known: Scored, others: Scored) -> "ClassesAtAll":
        """Fit to held-out images of the classes, and to others, both as frequent as at home."""
        if not len(others.probabilities):
            return cls(None)
        evidence = np.vstack([known.as_evidence(), others.as_evidence()])
        is_class = np.repeat([1, 0], [len(known.probabilities), len(others.probabilities)])
        return cls(make_pipeline(StandardScaler(), LogisticRegression()).fit(evidence, is_class))

    def joint(self, scored: Scored) -> np.ndarray:
        """Return the probabilities (n, K + 1) of the classes and of another taxon."""
        at_all = np.ones(len(scored.probabilities))
        if self.model is not None and len(at_all):
            at_all = self.model.predict_proba(scored.as_evidence())[:, 1]
        return np.column_stack([scored.probabilities * at_all[:, None], 1 - at_all])


class Novelty(NamedTuple):
    """How little images look like the classes.

    Attributes:
        score: the name of the score.
        chosen_by: what chose it, in words.
        auroc: how well it does on test images; None if too few of them are of no class.
        known: its values for held-out images of the classes.
        named: its values for the images to name, (n,).
    """

    score: str
    chosen_by: str
    auroc: Estimate | None
    known: np.ndarray
    named: np.ndarray

    @property
    def share_as_novel(self) -> np.ndarray:
        """The share of known held-out images that look as novel, (n,); small is novel."""
        less_novel = np.searchsorted(np.sort(self.known), self.named, side="left")
        return 1 - less_novel / len(self.known)

    @property
    def is_unknown(self) -> np.ndarray:
        """Which images to name look more novel than 95 % of the known ones, (n,) bool."""
        return self.named > threshold_of(self.known)


def choose_novelty(study: Study, splits: Splits, held: Held, parts: ScoredParts) -> Novelty:
    """Return the score that best tells images of no class from those of the classes.

    It is chosen on held-out images; how good it is, is measured on test images. Without enough
    images of no class among the former it is `DEFAULT_SCORE`.
    """
    score = DEFAULT_SCORE
    few = number_of(len(held.others), "labelled image")
    chosen_by = f"the default, since {few} of other taxa cannot choose one"
    if len(held.others) >= ENOUGH_UNKNOWN:
        areas = {
            name: area_under_roc(known, parts.others.novelty[name])
            for name, known in parts.known.novelty.items()
        }
        score = max(areas, key=lambda name: areas[name])
        images = number_of(len(held.others), "held-out image")
        chosen_by = f"the best of {len(areas)} on {images} of other taxa"
    auroc = _auroc_on_test(study, splits, held, parts, score)
    known, named = parts.known.novelty[score], parts.named.novelty[score]
    return Novelty(score, chosen_by, auroc, known, named)


def _auroc_on_test(
    study: Study, splits: Splits, held: Held, parts: ScoredParts, score: str
) -> Estimate | None:
    """Return how well a score does on test images; None if too few of them are of no class."""
    is_class = held.labels.taxa[held.test] != OTHER
    if (~is_class).sum() < ENOUGH_UNKNOWN:
        return None
    values = parts.test.novelty[score]
    scores = {"validation": parts.known.novelty[score], "test": values[is_class]}
    scores["novel"] = values[~is_class]
    judged = judge_score(study, splits, scores, held.test[is_class], held.test[~is_class])
    return judged["AUROC (%)"]
