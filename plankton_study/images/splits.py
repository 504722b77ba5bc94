"""Splits: each image is assigned to a part once, by whole groups, before any training."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from plankton_study.images.collection import Collection, load_collection
from plankton_study.images.duplicates import near_duplicates
from plankton_study.run.cache import computed, digest
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import PARTS, Split, Where
from plankton_study.run.study import Study

#: modules whose code divides a collection
SHAPED_BY = ("images.splits", "images.duplicates")
#: home is divided into at most this many folds, which form the test, validation and training parts
MAX_FOLDS = 20
OPTIONAL_PARTS = ("novel", "balanced")
#: of the names of parts in the cache, since a shifted part may have any name
PART_PREFIX = "part/"


@dataclass(frozen=True)
class Splits:
    """The rows of one collection, by part.

    Attributes:
        collection: the images and records that the rows refer to.
        parts: name → sorted int64 rows. "pool" is the unlabelled training pool; "train",
            "balanced", "validation" and "test" are labelled home images; each shifted part has
            its name from the profile; "novel" holds images of novel taxa, of the same days or
            samples as "test".
        classes: taxa of the natural setting, the commonest at home first.
        balanced_classes: taxa of the balanced setting, in the same order.
        balanced_draws: rows of every random draw of the balanced training images; the part
            "balanced" is the first.
        removed: reason → number of images that are in no part.
        short_of_labels: taxa with enough images at home for the balanced setting, but too few
            among the training images.
        base: of relabelled splits, the original ones, whose encoders and features they share.
    """

    collection: Collection
    parts: dict[str, np.ndarray]
    classes: tuple[str, ...]
    balanced_classes: tuple[str, ...]
    balanced_draws: tuple[np.ndarray, ...] = ()
    removed: dict[str, int] = field(default_factory=dict)
    short_of_labels: tuple[str, ...] = ()
    base: "Splits | None" = None

    def __getitem__(self, part: str) -> np.ndarray:
        return self.parts[part]

    @property
    def original(self) -> "Splits":
        """The splits that encoders are trained on: these, or the base of relabelled ones."""
        return self.base or self

    @property
    def shifts(self) -> tuple[str, ...]:
        """The names of the shifted parts."""
        return tuple(part for part in self.parts if part not in PARTS)

    @property
    def evaluated(self) -> np.ndarray:
        """All rows that a probe is fitted on or tested on, sorted."""
        used = [rows for part, rows in self.parts.items() if part not in ("pool", "novel")]
        used += self.balanced_draws
        return np.unique(np.concatenate(used))

    def taxa(self, rows: np.ndarray) -> np.ndarray:
        """Return the taxon names (object array) of some rows."""
        return self.collection.records["taxon"].to_numpy(dtype=object)[rows]

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """Return the integer code of each row's group: its day or sample, else the row itself."""
        return self._groups[rows]

    @cached_property
    def _groups(self) -> np.ndarray:
        return group_codes(self.collection)

    @property
    def clustered(self) -> bool:
        """Whether samples or days are known; otherwise intervals are optimistic."""
        return len(np.unique(self._groups)) < len(self._groups)

    @cached_property
    def digest(self) -> str:
        """The hash of the images and of every part."""
        rows = {part: rows.tolist() for part, rows in self.parts.items()}
        draws = [rows.tolist() for rows in self.balanced_draws]
        return digest(self.collection.digest, rows, draws)

    def each_draw(self, setting: str) -> "list[Splits]":
        """Return these splits once for each random draw of a setting's training images.

        In the balanced setting the images of each taxon are drawn several times; in the natural
        setting all labelled images are used, so there is only one draw.
        """
        if setting != "balanced" or len(self.balanced_draws) < 2:
            return [self]
        return [
            replace(self, parts={**self.parts, "balanced": rows}) for rows in self.balanced_draws
        ]

    def restrict(self, part: str, classes: tuple[str, ...]) -> np.ndarray:
        """Return the rows of a part whose taxon is one of `classes`."""
        rows = self.parts[part]
        return rows[np.isin(self.taxa(rows), classes)]


def make_splits(study: Study, name: str) -> Splits:
    """Return the splits of one set of the profile; the first call computes and stores them.

    Raises:
        StudyError: a part that the profile defines is empty.
    """
    collection = load_collection(study, name)
    config = study.profile.sets[name].split
    inputs = {
        "collection": collection.digest,
        "split": config.model_dump(mode="json"),
        "entry": collection.entry.model_dump(mode="json"),
    }

    def compute() -> dict[str, Any]:
        splits = divide(collection, config)
        parts = {f"{PART_PREFIX}{part}": rows for part, rows in splits.parts.items()}
        return parts | {
            "classes": splits.classes,
            "balanced_classes": splits.balanced_classes,
            "balanced_draws": np.array(splits.balanced_draws),
            "removed": splits.removed,
            "short_of_labels": splits.short_of_labels,
        }

    stored = computed(study, "splits", inputs, SHAPED_BY, compute)
    parts = {
        key.removeprefix(PART_PREFIX): rows
        for key, rows in stored.items()
        if key.startswith(PART_PREFIX)
    }
    return Splits(
        collection,
        parts,
        classes=tuple(stored["classes"]),
        balanced_classes=tuple(stored["balanced_classes"]),
        balanced_draws=tuple(stored["balanced_draws"]),
        removed=stored["removed"],
        short_of_labels=tuple(stored["short_of_labels"]),
    )


def divide(collection: Collection, config: Split) -> Splits:
    """Divide a collection into the parts of `Splits`.

    The order matters. Novel taxa are removed first, then duplicates, then shifted images. Only
    then is home divided, by whole groups, and near duplicates of held-out images are removed from
    the training side. Images of novel taxa come from the same days or samples as the test images
    that they are compared with; where neither is known, from the whole of home.

    Raises:
        StudyError: a novel taxon does not exist, or too few taxa or images are left.
    """
    records = collection.records
    is_novel = _novel(collection, config)
    is_conflicting, is_copy = _duplicates(records)
    is_usable = ~is_conflicting & ~is_copy
    shifted = {name: _matches(records, where) & is_usable for name, where in config.shifts.items()}
    is_away = _any_of(shifted.values(), len(records))
    is_home = _matches(records, config.home) & is_usable & ~is_away
    has_no_label = records["taxon"].isin(["", *collection.entry.not_taxa]).to_numpy()
    is_labelled = ~has_no_label & ~is_novel

    is_test, is_validation, is_grouped = _hold_out(collection, is_home, config)
    is_pool = is_home & ~is_test & ~is_validation & ~is_novel
    never_trained_on = is_test | is_validation | is_away | (is_novel & is_usable)
    is_near_held_out = _near_duplicates(collection, is_pool, never_trained_on, config)
    is_near_test = _near_duplicates(collection, is_validation, is_test | is_away, config)
    is_pool &= ~is_near_held_out
    is_validation &= ~is_near_test

    classes, balanced_classes = _choose_classes(collection, config, is_home & is_labelled, is_pool)
    balanced_classes, short_of_labels = _with_enough_labels(
        collection, balanced_classes, is_pool, config
    )
    taxa = records["taxon"].to_numpy(dtype=object)
    has_class = is_labelled & records["taxon"].isin(classes).to_numpy()
    train = is_pool & has_class
    draws = _balanced_draws(np.flatnonzero(train), taxa, balanced_classes, config)
    parts = {
        "pool": np.flatnonzero(is_pool),
        "train": _sample(train, taxa, config.train_images, config.seed),
        "balanced": draws[0],
        "validation": _sample(
            is_validation & has_class, taxa, config.validation_images, config.seed
        ),
        "test": _sample(is_test & has_class, taxa, config.test_images, config.seed),
    }
    for name, is_shifted in shifted.items():
        parts[name] = np.flatnonzero(is_shifted & is_labelled)
    parts["novel"] = np.flatnonzero(is_novel & (is_test if is_grouped else is_home))
    _refuse_empty_parts(parts, collection.name)
    reasons = {
        "same file under two taxa": is_conflicting,
        "exact copies": is_copy,
        "neither home nor shifted": ~is_home & ~is_away,
        "near duplicates of held-out images": is_near_held_out,
        "near duplicates of test images in validation": is_near_test,
        "novel taxa, not comparable with the test images": is_novel,
        "held out or shifted, without a taxon of the study": ~has_class,
        "beyond validation_images or test_images": np.ones(len(records), bool),
    }
    return Splits(
        collection,
        parts,
        tuple(classes),
        tuple(balanced_classes),
        tuple(draws),
        _count_removed(parts, reasons),
        tuple(short_of_labels),
    )


def _count_removed(parts: dict[str, np.ndarray], reasons: dict[str, np.ndarray]) -> dict[str, int]:
    """Return reason → number of images in no part; each image counts for its first reason."""
    (length,) = {len(mask) for mask in reasons.values()}
    is_unexplained = np.ones(length, bool)
    is_unexplained[np.concatenate(list(parts.values()))] = False
    removed = {}
    for reason, mask in reasons.items():
        removed[reason] = int((is_unexplained & mask).sum())
        is_unexplained &= ~mask
    return removed


def _novel(collection: Collection, config: Split) -> np.ndarray:
    """Return which images belong to a novel taxon, (N,) bool."""
    taxa = collection.records["taxon"]
    missing = sorted(set(config.novel) - set(taxa))
    if missing:
        raise StudyError(
            f"sets.{collection.name}.split.novel names taxa that the set does not have: "
            f"{', '.join(missing)}"
        )
    return taxa.isin(config.novel).to_numpy()


def _duplicates(records: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return which files occur under two taxa, and which are further copies, (N,) bool each."""
    has_two_taxa = (records.groupby("digest")["taxon"].transform("nunique") > 1).to_numpy()
    is_copy = records.duplicated("digest").to_numpy() & ~has_two_taxa
    return has_two_taxa, is_copy


def _any_of(masks: Iterable[np.ndarray], length: int) -> np.ndarray:
    union = np.zeros(length, bool)
    for mask in masks:
        union |= mask
    return union


def _matches(records: pd.DataFrame, where: Where) -> np.ndarray:
    """Return which images meet the conditions of a part, (N,) bool.

    Comparisons with an unknown time are false, so such images do not match.
    """
    day = records["time"].dt.normalize()
    comparisons = {
        "since": day.ge,
        "until": day.le,
        "site": records["site"].eq,
        "instrument": records["instrument"].eq,
    }
    matches = np.ones(len(records), bool)
    for key, value in where.model_dump(mode="json", exclude_none=True).items():
        matches &= comparisons[key](value).to_numpy()
    return matches


def group_codes(collection: Collection) -> np.ndarray:
    """Return (N,) integers that are equal where images belong together.

    The entry's `group_by` defines what belongs together: day, sample or image. An image without a
    time or sample is a group of its own.
    """
    records, group_by = collection.records, collection.entry.group_by
    if group_by == "image":
        return np.arange(len(records))
    if group_by == "day":
        key = records["time"].dt.strftime("%Y-%m-%d").fillna("")
    else:
        key = records["sample"].fillna("")
    together = key + "|" + records["site"] + "|" + records["instrument"]
    alone = "image " + records["id"]
    return pd.factorize(together.where(key != "", alone))[0]


def _hold_out(
    collection: Collection, is_home: np.ndarray, config: Split
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Choose test and validation images, (N,) bool each, by stratified folds of whole groups.

    Also return whether home has groups at all.
    """
    rows = np.flatnonzero(is_home)
    taxa = collection.records["taxon"].to_numpy(dtype=object)[rows]
    groups = group_codes(collection)[rows]
    number_of_groups = len(np.unique(groups))
    commonest = max(Counter(taxa).values(), default=0)
    folds = min(MAX_FOLDS, commonest, number_of_groups)
    test_folds = round(config.test * folds)
    validation_folds = round(config.validation * folds)
    if min(test_folds, validation_folds) < 1 or test_folds + validation_folds >= folds:
        raise StudyError(
            f"sets.{collection.name}.split: test and validation leave a part empty "
            f"({folds} folds: as many as home has groups, or images of its commonest taxon, "
            f"and at most {MAX_FOLDS}): change these shares"
        )
    is_grouped = number_of_groups < len(rows)
    if is_grouped:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed)
    else:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=config.seed)
    is_test = np.zeros(len(is_home), bool)
    is_validation = np.zeros(len(is_home), bool)
    with warnings.catch_warnings():
        # a long tail has taxa with fewer images than folds
        warnings.filterwarnings("ignore", message=".*least populated class.*")
        divided = splitter.split(rows, taxa, groups if is_grouped else None)
        for number, (_, fold) in enumerate(divided):
            if number < test_folds:
                is_test[rows[fold]] = True
            elif number < test_folds + validation_folds:
                is_validation[rows[fold]] = True
    return is_test, is_validation, is_grouped


def _near_duplicates(
    collection: Collection, part: np.ndarray, others: np.ndarray, config: Split
) -> np.ndarray:
    """Return which images of a part are near duplicates of other images, (N,) bool."""
    near = near_duplicates(
        collection.images,
        np.flatnonzero(part),
        np.flatnonzero(others),
        config.duplicate_correlation,
    )
    is_near = np.zeros(len(part), bool)
    is_near[near] = True
    return is_near


def _choose_classes(
    collection: Collection, config: Split, is_labelled_home: np.ndarray, is_pool: np.ndarray
) -> tuple[list[str], list[str]]:
    """Return the taxa of the natural and of the balanced setting, the commonest first."""
    taxa = collection.records["taxon"]
    counts = Counter(sorted(taxa[is_labelled_home]))
    trainable = set(taxa[is_pool])
    classes = [
        taxon
        for taxon, count in counts.most_common()
        if count >= config.min_images and taxon in trainable
    ]
    if len(classes) < 2:
        raise StudyError(
            f"{len(classes)} taxa of the set {collection.name!r} have enough images at home, "
            f"but two are needed: lower sets.{collection.name}.split.min_images"
        )
    balanced = [taxon for taxon in classes if counts[taxon] >= config.balanced.min_images]
    return classes, balanced


def _with_enough_labels(
    collection: Collection, classes: list[str], is_pool: np.ndarray, config: Split
) -> tuple[list[str], list[str]]:
    """Return the taxa with enough training images for equal numbers of labels, and the others."""
    counts = Counter(collection.records["taxon"][is_pool])
    enough = [taxon for taxon in classes if counts[taxon] >= config.balanced.train]
    return enough, [taxon for taxon in classes if taxon not in enough]


def _balanced_draws(
    rows: np.ndarray, taxa: np.ndarray, classes: list[str], config: Split
) -> list[np.ndarray]:
    """Return several random draws of equally many rows of every class, sorted."""
    return [
        _equal_numbers(rows, taxa, classes, config.balanced.train, config.seed + draw)
        for draw in range(config.balanced.draws)
    ]


def _sample(is_chosen: np.ndarray, taxa: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Draw at most `limit` chosen rows in natural proportions, at least one of each taxon."""
    rows = np.flatnonzero(is_chosen)
    if limit is None or len(rows) <= limit:
        return rows
    present = sorted(set(taxa[rows]))
    if limit <= len(present):
        raise StudyError(
            f"{limit} images cannot hold {len(present)} taxa: raise train_images, "
            "validation_images or test_images of the split"
        )
    rng = np.random.default_rng(seed)
    first = np.array([rng.choice(rows[taxa[rows] == taxon]) for taxon in present])
    rest = np.setdiff1d(rows, first)
    drawn, _ = train_test_split(rest, train_size=limit - len(first), random_state=seed)
    return np.sort(np.concatenate([first, drawn]))


def _equal_numbers(
    rows: np.ndarray, taxa: np.ndarray, classes: Iterable[str], count: int, seed: int
) -> np.ndarray:
    """Draw `count` rows of every class, sorted; a class with fewer rows contributes all of them.

    Args:
        rows: the rows to draw from.
        taxa: the taxa of all images.
        classes: the taxa to draw.
        count: number of rows per class.
        seed: seed of the random draw.
    """
    rng = np.random.default_rng(seed)
    drawn = [rows[:0]]
    for taxon in classes:
        drawn.append(rng.permutation(rows[taxa[rows] == taxon])[:count])
    return np.sort(np.concatenate(drawn))


def _refuse_empty_parts(parts: dict[str, np.ndarray], name: str) -> None:
    for part, rows in parts.items():
        if not len(rows) and part not in OPTIONAL_PARTS:
            raise StudyError(
                f"the part {part!r} of the set {name!r} is empty: "
                f"widen sets.{name}.split in the profile"
            )


def draw_labels(splits: Splits, count: int, seed: int) -> np.ndarray:
    """Return at most `count` labelled training rows of every natural class, sorted.

    Draws with the same seed are nested: a larger one contains the smaller ones.
    """
    taxa = splits.collection.records["taxon"].to_numpy(dtype=object)
    return _equal_numbers(splits["train"], taxa, splits.classes, count, seed)
