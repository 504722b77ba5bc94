"""The probe that names images: the encoder and the read-out that are best on held-out images."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.bank import JoinedBanks, extract_features
from plankton_study.features.interface import Cell, Encoder
from plankton_study.features.registry import ENCODERS, encoder_family, why_unavailable
from plankton_study.images.division import stratified_folds
from plankton_study.images.splits import Splits
from plankton_study.probes.linear.folds import Fold, Labelled, score_held_out
from plankton_study.probes.probe import read_features
from plankton_study.probes.selection import JOINED, candidate_cells, cell_of
from plankton_study.run.cache import computed, digest
from plankton_study.run.progress import progress
from plankton_study.run.study import Study

#: modules whose code turns features and labels into the scores of candidates
SHAPED_BY = (
    "questions.naming.choice",
    "probes.linear.folds",
    "probes.linear.lda",
    "probes.linear.scaling",
    "probes.metrics",
    "features.bank",
    "features.interface",
)
ONE_CELL, ALL_LAYERS = "one cell", "all layers"
#: with fewer validation images all labelled images are held out in turn
ENOUGH_VALIDATION = 1_000
FOLDS = 5
#: the name of all images whose taxon has too few of them to be a class, or is no taxon
OTHER = "(another taxon)"


class LabelledFeatures(NamedTuple):
    """An encoder, and its features of all labelled images of home."""

    encoder: Encoder
    bank: JoinedBanks

    @property
    def identity(self) -> list[str]:
        """What identifies the features, for cache keys."""
        return [bank.folder.name for bank in self.bank.banks]


class Candidate(NamedTuple):
    """One way to name images: an encoder, the cell that is read, and the penalty of LDA.

    Attributes:
        features: the encoder, and its features of the labelled images.
        read_out: "one cell" or "all layers".
        cell: the best cell in this read-out.
        penalty: the best penalty.
        score: on held-out images, the profile's metric.
    """

    features: LabelledFeatures
    read_out: str
    cell: Cell
    penalty: float
    score: float

    @property
    def encoder(self) -> str:
        """The name of the encoder."""
        return self.features.encoder.name

    @property
    def in_words(self) -> str:
        """The encoder and the read-out, for prose."""
        return f"{self.encoder}, read at {self.cell}"


class Held(NamedTuple):
    """How probes are chosen and tested.

    Attributes:
        folds: the rows on which candidates are fitted, and those that they are scored on.
        others: rows of labelled images that are no class, as frequent as among all images; no
            probe is fitted to them.
        test: the rows that tell how good the chosen probe is, also those of no class.
        labels: the classes, and the names of all rows: `OTHER` for those of no class.
        is_crossed: whether all labelled images but the test images are held out in turn.
    """

    folds: list[Fold]
    others: np.ndarray
    test: np.ndarray
    labels: Labelled
    is_crossed: bool

    @property
    def rows(self) -> np.ndarray:
        """The held-out rows of the classes, in the order of the folds."""
        return np.concatenate([fold.held_out for fold in self.folds])

    @property
    def labelled_rows(self) -> np.ndarray:
        """All rows of the classes at home that are not for testing, sorted."""
        return np.unique(np.concatenate([*self.folds[0], self.rows]))

    @property
    def in_words(self) -> str:
        """How images are held out, for prose."""
        if self.is_crossed:
            return f"{len(self.rows)} labelled images, held out in turn in {len(self.folds)} parts"
        return f"{len(self.rows)} validation images"


def held_out_folds(splits: Splits) -> Held:
    """Return the folds on which probes are chosen, and the images on which they are tested.

    The folds are the training and the validation part. A small set has too few validation images
    to choose one of a hundred cells, so its training and validation images are held out in turn,
    by whole days or samples.
    """
    names = splits.taxa(np.arange(len(splits.collection))).astype(str)
    names = np.where(np.isin(names, splits.classes), names, OTHER)
    labels = Labelled(np.array(sorted(splits.classes)), names)
    train, validation = splits["train"], splits.restrict("validation", splits.classes)
    others = splits.others
    test = np.union1d(splits.restrict("test", splits.classes), others["test"])
    if len(validation) >= ENOUGH_VALIDATION:
        folds = [Fold(train, validation)]
        return Held(folds, others["validation"], test, labels, is_crossed=False)
    folds = _crossed(splits, np.union1d(train, validation), labels)
    of_both = np.union1d(others["train"], others["validation"])
    return Held(folds, of_both, test, labels, is_crossed=True)


def _crossed(splits: Splits, rows: np.ndarray, labels: Labelled) -> list[Fold]:
    groups = splits.groups(rows)
    seed = 0  # the folds do not depend on the training seed
    images_of_commonest = np.bincount(labels.codes(rows)).max()
    count = min(FOLDS, len(np.unique(groups)), images_of_commonest)
    whole = groups if splits.clustered else None
    divided = stratified_folds(labels.codes(rows), whole, count, seed)
    return [Fold(np.delete(rows, held_out), rows[held_out]) for held_out in divided]


class Candidates(NamedTuple):
    """All ways to name images, and encoder → why it was not tried."""

    candidates: list[Candidate]
    absent: dict[str, str]


def naming_candidates(study: Study, splits: Splits, held: Held) -> Candidates:
    """Return the best cell and penalty of every encoder, for both read-outs.

    Encoders that learnt from the labels of the training images are left out if these are held out
    in turn: the scores would flatter them.
    """
    candidates, absent = [], {}
    for name in [*study.profile.encoders, *ENCODERS]:
        reason = why_unavailable(study, name)
        if held.is_crossed and "labels" in encoder_family(study, name):
            reason = "learnt from labels of images that are held out"
        if reason:
            absent[name] = reason
        else:
            candidates += _candidates_of(study, splits, held, name)
    return Candidates(candidates, absent)


def labelled_features(study: Study, splits: Splits, name: str) -> LabelledFeatures:
    """Return the features of all labelled images of home, also of those without a class."""
    encoder, bank = read_features(study, splits, name)
    others = np.unique(np.concatenate(list(splits.others.values())))
    if not len(others):
        return LabelledFeatures(encoder, JoinedBanks((bank,)))
    of_others = extract_features(study, encoder, splits.original, others)
    return LabelledFeatures(encoder, JoinedBanks((bank, of_others)))


def _candidates_of(study: Study, splits: Splits, held: Held, name: str) -> list[Candidate]:
    features = labelled_features(study, splits, name)
    cells = {
        ONE_CELL: candidate_cells(features.encoder, "all"),
        ALL_LAYERS: candidate_cells(features.encoder, JOINED),
    }
    config = study.profile.probes
    inputs = {
        "banks": features.identity,
        "cells": [str(cell) for own in cells.values() for cell in own],
        "folds": [digest(*fold) for fold in held.folds],
        "labels": digest(held.labels.taxa[held.labelled_rows].tolist()),
        "penalties": config.penalties,
        "metric": config.metric,
    }
    compute = partial(_score_cells, study, features, cells, held)
    table = computed(study, "naming", inputs, SHAPED_BY, compute)["table"]
    best = table.loc[table.groupby("read_out", sort=False)["score"].idxmax()]
    return [
        Candidate(features, line["read_out"], cell_of(line), line["penalty"], line["score"])
        for _, line in best.iterrows()
    ]


def _score_cells(
    study: Study, features: LabelledFeatures, cells: dict[str, list[Cell]], held: Held
) -> dict[str, Any]:
    """Return a table with the best penalty and the score of each cell."""
    lines = []
    pairs = [(read_out, cell) for read_out, own in cells.items() for cell in own]
    for read_out, cell in progress(f"naming probes of {features.encoder.name}", pairs):
        scored = score_held_out(features.bank, cell, held.folds, held.labels, study.profile.probes)
        lines.append(
            {
                "read_out": read_out,
                "layer": cell.layer,
                "timestep": cell.timestep,
                "penalty": scored.penalty,
                "score": scored.score,
            }
        )
    return {"table": pd.DataFrame(lines).astype({"timestep": "Int64"})}


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Return the candidate with the best score on held-out images; the first of equals."""
    return max(candidates, key=lambda candidate: candidate.score)
