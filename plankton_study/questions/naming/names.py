"""The names of images without a label, with their calibrated probabilities."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.bank import AnyBank
from plankton_study.images.splits import Splits
from plankton_study.questions.naming.choice import OTHER, Candidate, Held
from plankton_study.questions.naming.probe import Namer, bank_of, fit_namer
from plankton_study.questions.naming.unknown import (
    ClassesAtAll,
    Novelty,
    choose_novelty,
    score_parts,
)
from plankton_study.run.study import Study

# the parts of the images: labelled ones that a probe was not fitted to, test images, those to name
HELD_OUT, TEST, NAMED = "held out", "test", "named"


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
    def allows_for_others(self) -> bool:
        """Whether labelled images of other taxa taught how likely such taxa are."""
        return len(self.held.others) > 0

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

    The probability of a taxon is that of the calibrated probe, times the probability that the taxon
    is one of the classes at all. The probe is the one whose test scores are shown.
    """
    namer = fit_namer(study, held, candidate)
    bank = bank_of(study, splits, namer, images.rows)
    parts = score_parts(held, namer, bank, images.rows)
    at_all = ClassesAtAll.fit(parts.known, parts.others)
    probabilities = {
        HELD_OUT: np.vstack([at_all.joint(parts.known), at_all.joint(parts.others)]),
        TEST: at_all.joint(parts.test),
        NAMED: at_all.joint(parts.named),
    }
    novelty = choose_novelty(study, splits, held, parts)
    return Names(splits, held, namer, images, bank, probabilities, novelty)


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
            "share as novel": names.novelty.share_as_novel.round(4),
            "unknown": np.where(names.novelty.is_unknown, "unknown?", ""),
            "label next": pd.array(np.where(label_next > 0, label_next, None), dtype="Int64"),
        }
    )
    if names.images.is_rehearsal:
        table["label"] = names.truth(NAMED)
    return table
