"""The names of images without a label: how probable each is, and whether its taxon is unknown."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import AnyBank, JoinedBanks, extract_features
from plankton_study.features.interface import Encoder
from plankton_study.features.registry import encoder_family
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals, metrics
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.folds import fit_on_all, score_held_out, sharpness_of
from plankton_study.probes.linear.scaling import ScaledFeatures
from plankton_study.probes.result import LinearProbe
from plankton_study.questions.monitoring.novelty import (
    NoveltyScorer,
    judge_score,
    score_in_blocks,
    threshold_of,
)
from plankton_study.questions.naming.choice import (
    OTHER,
    Candidate,
    Candidates,
    Held,
    labelled_features,
)
from plankton_study.run.study import Study

# the parts of the images: labelled ones that a probe was not fitted to, test images, those to name
HELD_OUT, TEST, NAMED = "held out", "test", "named"
#: the score of novelty if the set has too few images of unknown taxa to choose one
DEFAULT_SCORE = "k-NN distance"
#: images of unknown taxa from which a score can be chosen
ENOUGH_UNKNOWN = 10
#: an image that is a training image has the distance 0, which has no logarithm
SMALLEST_NOVELTY = 1e-6


class ToName(NamedTuple):
    """The images to name.

    Attributes:
        rows: sorted rows of the collection.
        what: what they are, in words.
        is_rehearsal: whether they have labels, which are used only to check the names.
        copies: number of images left out, since a labelled image is the same file.
    """

    rows: np.ndarray
    what: str
    is_rehearsal: bool
    copies: int = 0


def images_to_name(splits: Splits) -> ToName:
    """Return the images without a label, or others for a rehearsal if all have one.

    The rehearsal names the labelled images of the first shifted part, else the test images: on
    neither was anything trained or selected.
    """
    records = splits.collection.records
    has_label = records["taxon"].ne("")
    is_copy = ~has_label & records["digest"].isin(records["digest"][has_label])
    rows = np.flatnonzero(~has_label & ~is_copy)
    if len(rows):
        what = "images without a label"
        return ToName(rows, what, is_rehearsal=False, copies=int(is_copy.sum()))
    for shift in splits.shifts:
        if len(splits[shift]):
            return ToName(splits[shift], f"images of the part {shift!r}", is_rehearsal=True)
    rows = np.union1d(splits.restrict("test", splits.classes), splits.others["test"])
    return ToName(rows, "test images", is_rehearsal=True)


# --- the probe


class Namer(NamedTuple):
    """A fitted probe that gives calibrated probabilities of the classes.

    Attributes:
        candidate: the encoder, the cell and the penalty.
        probe: linear discriminant analysis, fitted to all labelled images of home that are not
            for testing, with the sharpness that held-out images ask for.
        encoder: the encoder.
        bank: its features of the labelled images.
        held_out: (n, K) probabilities of the held-out images, by probes not fitted to them.
    """

    candidate: Candidate
    probe: LinearProbe
    encoder: Encoder
    bank: JoinedBanks
    held_out: np.ndarray

    def features(self, bank: AnyBank, rows: np.ndarray) -> ScaledFeatures:
        """Return the standardised features of rows of a bank."""
        return ScaledFeatures(bank, self.probe.cell, rows, self.probe.scaler)

    def probabilities(self, bank: AnyBank, rows: np.ndarray) -> np.ndarray:
        """Return probabilities (n, K) for rows of a bank, as if all were of the classes."""
        blocks = [self.probe.probabilities_of_scaled(own) for own in self.features(bank, rows)]
        return with_doubt(np.concatenate(blocks), len(self.held_out))


def with_doubt(probabilities: np.ndarray, images: int) -> np.ndarray:
    """Return probabilities (n, K) that allow for errors too rare to be seen.

    If none of n held-out images is named wrongly, the next one still may be, with a probability of
    about 1 / (n + 2) (Laplace's rule of succession).

    Args:
        probabilities: (n, K).
        images: number of held-out images.
    """
    doubt = 1 / (images + 2)
    return (1 - doubt) * probabilities + doubt / probabilities.shape[1]


def fit_namer(study: Study, splits: Splits, held: Held, candidate: Candidate) -> Namer:
    """Fit the probe of a candidate to all labelled images of home that are not for testing."""
    encoder, bank = labelled_features(study, splits, candidate.encoder)
    config, cell = study.profile.probes, candidate.cell
    held_out = score_held_out(bank, cell, held.folds, held.labels, config)
    factor = np.float32(sharpness_of(held_out, held.labels.codes(held.rows)))
    rows = held.labelled_rows
    scaler, scorer = fit_on_all(bank, cell, rows, held.labels, candidate.penalty)
    probe = LinearProbe(
        cell=cell,
        classes=held.labels.classes,
        scaler=scaler,
        weights=factor * scorer.weights,
        bias=factor * scorer.bias + scorer.log_shares,
        method="LDA",
        strength=candidate.penalty,
    )
    of_held_out = with_doubt(held_out.probabilities(factor), len(held.rows))
    return Namer(candidate, probe, encoder, bank, of_held_out)


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
        and macro-F1 (%). Encoders that were not tried come last.
    """
    lines = []
    for candidate in sorted(tried.candidates, key=lambda own: -own.score):
        namer = fit_namer(study, splits, held, candidate)
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
    for name in tried.absent:
        family = encoder_family(study, name)
        lines.append({"encoder": name, "learnt from": family, "read-out": "not run", "cell": ""})
    return pd.DataFrame(lines)


# --- the names


class Novelty(NamedTuple):
    """How little images look like the classes.

    Attributes:
        score: the name of the score.
        chosen_by: what chose it, in words.
        auroc: how well it tells unknown images from known test images; None if it was not chosen.
        known: (n,) its values for held-out images of the classes.
        values: part → (n,) its values.
    """

    score: str
    chosen_by: str
    auroc: Estimate | None
    known: np.ndarray
    values: dict[str, np.ndarray]

    def share_as_novel(self, part: str) -> np.ndarray:
        """Return the share of known held-out images that look as novel, (n,); small is novel."""
        less_novel = np.searchsorted(np.sort(self.known), self.values[part], side="left")
        return 1 - less_novel / len(self.known)

    def is_unknown(self, part: str) -> np.ndarray:
        """Return which images of a part exceed what 95 % of the known ones do not, (n,) bool."""
        return self.values[part] > threshold_of(self.known)


class Names(NamedTuple):
    """Images with their names.

    Attributes:
        splits: splits of the set.
        held: how images were held out.
        namer: the probe that names them.
        images: the images.
        bank: their features.
        probabilities: part → (n, K + 1), calibrated; the last column is the probability that the
            taxon is none of the classes. Parts are held-out images, test images, those to name.
        novelty: how little they look like the classes.
    """

    splits: Splits
    held: Held
    namer: Namer
    images: ToName
    bank: AnyBank
    probabilities: dict[str, np.ndarray]
    novelty: Novelty

    @property
    def classes(self) -> np.ndarray:
        """The taxa that can be named, (K,)."""
        return self.namer.probe.classes

    @property
    def columns(self) -> np.ndarray:
        """The names of the columns of probabilities, (K + 1,): the classes, then `OTHER`."""
        return np.append(self.classes, OTHER)

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of a part."""
        if part == NAMED:
            return self.images.rows
        if part == TEST:
            return self.held.test
        return np.append(self.held.rows, self.held.others)

    def of_classes(self, part: str) -> np.ndarray:
        """Return the probabilities of the classes, (n, K)."""
        return self.probabilities[part][:, :-1]

    def taxa(self, part: str) -> np.ndarray:
        """Return the most probable class of each image of a part, (n,)."""
        return self.classes[self.of_classes(part).argmax(axis=1)]

    def truth(self, part: str) -> np.ndarray:
        """Return the labels of a part's images, (n,): a class each, or `OTHER`."""
        return self.held.labels.taxa[self.rows(part)]

    def confidence(self, part: str) -> np.ndarray:
        """Return the probability of the most probable class of each image of a part, (n,)."""
        return self.of_classes(part).max(axis=1)

    def is_right(self, part: str) -> np.ndarray:
        """Return which images of a labelled part get their own taxon as name, (n,) bool."""
        return self.taxa(part) == self.truth(part)

    def features(self, positions: np.ndarray) -> np.ndarray:
        """Return the standardised features of some of the images named, (len(positions), C)."""
        return self.namer.features(self.bank, self.images.rows[positions]).whole()


def name_images(
    study: Study, splits: Splits, held: Held, candidate: Candidate, images: ToName
) -> Names:
    """Name images with the probe of a candidate.

    The probability of a taxon is that of the probe, times the probability that the taxon is one of
    the classes at all. The probe is the one whose test scores are shown.
    """
    namer = fit_namer(study, splits, held, candidate)
    bank = _bank_of(study, splits, namer, images.rows)
    scorer = _scorer(namer, held, held.labelled_rows)
    known = Scored(namer.held_out, _scores_of_held_out(namer, held))
    others = _scored(namer, scorer, namer.bank, held.others)
    test = _scored(namer, scorer, namer.bank, held.test)
    named = _scored(namer, scorer, bank, images.rows)
    classes_at_all = ClassesAtAll.fit(known, others)
    probabilities = {
        HELD_OUT: np.vstack([classes_at_all.joint(known), classes_at_all.joint(others)]),
        TEST: classes_at_all.joint(test),
        NAMED: classes_at_all.joint(named),
    }
    novel_bank = _bank_of(study, splits, namer, splits["novel"])
    novel = _scored(namer, scorer, novel_bank, splits["novel"])
    novelty = _choose_novelty(study, splits, held, known, others, test, named, novel)
    return Names(splits, held, namer, images, bank, probabilities, novelty)


def _bank_of(study: Study, splits: Splits, namer: Namer, rows: np.ndarray) -> AnyBank:
    """Return the bank of the labelled images if one of them holds the rows, else their own."""
    for bank in namer.bank.banks:
        if bank.holds(rows):
            return bank
    cells = [namer.candidate.cell]
    return extract_features(study, namer.encoder, splits.original, rows, cells=cells)


# --- images of no class


class Scored(NamedTuple):
    """Probabilities (n, K) of images, as if they were of the classes, and score → novelty (n,)."""

    probabilities: np.ndarray
    novelty: dict[str, np.ndarray]

    def as_evidence(self) -> np.ndarray:
        """Return the logarithms of all novelty scores, (n, scores)."""
        return np.log(np.stack(list(self.novelty.values()), axis=1).clip(SMALLEST_NOVELTY))


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
    return {name: np.concatenate([scores[name] for scores in of_folds]) for name in of_folds[0]}


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


def _choose_novelty(
    study: Study,
    splits: Splits,
    held: Held,
    known: Scored,
    others: Scored,
    test: Scored,
    named: Scored,
    novel: Scored,
) -> Novelty:
    """Return the novelty by the score that best tells unknown from known test images.

    Unknown are the novel taxa of the profile, or else the test images of no class. With too few
    of them the score is `DEFAULT_SCORE`.
    """
    is_class = held.labels.taxa[held.test] != OTHER
    if len(splits["novel"]):
        rows, unknown, what = splits["novel"], novel.novelty, "of the novel taxa"
    else:
        rows, what = held.test[~is_class], "of taxa with too few labels"
        unknown = {name: values[~is_class] for name, values in test.novelty.items()}
    score, auroc = DEFAULT_SCORE, None
    chosen_by = f"the default, since there are only {len(rows)} images {what}"
    if len(rows) >= ENOUGH_UNKNOWN:
        areas = {}
        for name, values in test.novelty.items():
            scores = {"validation": known.novelty[name], "test": values[is_class]}
            scores["novel"] = unknown[name]
            judged = judge_score(study, splits, scores, held.test[is_class], rows)
            areas[name] = judged["AUROC (%)"]
        score = max(areas, key=lambda name: areas[name].value)
        auroc = areas[score]
        chosen_by = f"the best of {len(areas)} on {len(rows)} images {what}"
    of_score = known.novelty[score]
    values = {
        HELD_OUT: np.append(of_score, others.novelty[score]),
        TEST: test.novelty[score],
        NAMED: named.novelty[score],
    }
    return Novelty(score, chosen_by, auroc, of_score, values)


# --- the table


def names_table(names: Names, label_next: np.ndarray) -> pd.DataFrame:
    """Return the names of all images, in the order of the collection.

    Args:
        names: the images.
        label_next: (n,) the ranks of the images whose labels would teach the probe most, from 1;
            0 for the others.

    Returns:
        Columns image (its id), object, sample, time, taxon, probability, second taxon, second
        probability, another taxon (the probability that it is none of the classes), share as
        novel (of the known held-out images), unknown ("unknown?" or "") and label next (a rank or
        missing); in a rehearsal also label.
    """
    records = names.splits.collection.records.iloc[names.images.rows].reset_index(drop=True)
    probabilities = names.of_classes(NAMED)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    image = np.arange(len(records))
    table = pd.DataFrame(
        {
            "image": records["id"],
            "object": records["object"],
            "sample": records["sample"],
            "time": records["time"].dt.strftime("%Y-%m-%d %H:%M:%S").fillna(""),
            "taxon": names.classes[first],
            "probability": probabilities[image, first].round(4),
            "second taxon": names.classes[second],
            "second probability": probabilities[image, second].round(4),
            "another taxon": names.probabilities[NAMED][:, -1].round(4),
            "share as novel": names.novelty.share_as_novel(NAMED).round(4),
            "unknown": np.where(names.novelty.is_unknown(NAMED), "unknown?", ""),
            "label next": pd.array(np.where(label_next > 0, label_next, None), dtype="Int64"),
        }
    )
    if names.images.is_rehearsal:
        table["label"] = names.truth(NAMED)
    return table
