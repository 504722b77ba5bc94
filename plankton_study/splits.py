"""Which image serves for what: decided once, by groups, before any model is trained."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from plankton_study import data
from plankton_study.profile import PACKAGE, StudyError, reason
from plankton_study.schema import PARTS, Split, Where
from plankton_study.store import computed, digest
from plankton_study.study import Study


@dataclass(frozen=True)
class Splits:
    """Rows of one collection by what they serve for.

    Of the `parts`, "pool" is the unlabelled training pool; "train", "balanced", "validation" and "test" are labelled
    home images; every shift of the profile has its name; "novel" holds novel taxa.
    """

    collection: data.Collection  # the images and records the rows point into
    parts: dict[str, np.ndarray]  # name → sorted int64 rows
    classes: tuple[str, ...]  # taxa of the natural setting, by falling number of images at home
    balanced_classes: tuple[str, ...]  # taxa of the balanced setting, in the same order
    removed: dict[str, int]  # what was left out, reason → number of images
    base: "Splits | None" = None  # of `relabelled` splits: those whose encoders and features they use

    def __getitem__(self, part: str) -> np.ndarray:
        return self.parts[part]

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifted test sets."""
        return tuple(k for k in self.parts if k not in PARTS)

    @property
    def evaluated(self) -> np.ndarray:
        """All rows that a probe trains on or is tested on, sorted."""
        return np.unique(np.concatenate([rows for part, rows in self.parts.items() if part not in ("pool", "novel")]))

    def taxa(self, rows: np.ndarray) -> np.ndarray:
        """Return the taxon names (object array) of some rows."""
        return self.collection.records["taxon"].to_numpy(dtype=object)[rows]

    def groups(self, rows: np.ndarray) -> np.ndarray:
        """Return what a resampled interval must keep together: integer codes of day or sample, else of the row."""
        return self._groups[rows]

    @cached_property
    def _groups(self) -> np.ndarray:
        return group_codes(self.collection)

    @property
    def clustered(self) -> bool:
        """Whether samples or days are known; without them intervals are optimistic."""
        return len(np.unique(self._groups)) < len(self.collection)

    @cached_property
    def digest(self) -> str:
        """Hash of the images and of every part."""
        return digest(self.collection.digest, {k: v.tolist() for k, v in self.parts.items()})

    def restrict(self, part: str, classes: tuple[str, ...]) -> np.ndarray:
        """Return the rows of a part whose taxon is one of `classes`."""
        return self.parts[part][np.isin(self.taxa(self.parts[part]), classes)]


def make(study: Study, name: str) -> Splits:
    """Return the stored splits of one set of the profile, making them on the first call.

    Raises: StudyError if a part that the profile asks for is empty.
    """
    images, config = data.collection(study, name), study.profile.sets[name].split

    def compute() -> dict[str, Any]:
        parts, *rest = split(images, config)
        return {**parts, ".": rest}

    what = {"split": config.model_dump(mode="json"), "entry": images.entry.model_dump(mode="json")}
    parts = computed(study, "splits", {"collection": images.digest, **what}, ["splits"], compute)
    classes, balanced, removed = parts.pop(".")
    return Splits(images, parts, tuple(classes), tuple(balanced), removed)


def split(images: data.Collection, config: Split) -> tuple[dict[str, np.ndarray], list[str], list[str], dict[str, int]]:
    """Divide a collection; see `Splits` for what the parts are.

    The order is the protocol: novel taxa go first, then duplicates, then shifted images; only then is home divided,
    whole groups at a time, and near duplicates across the border are removed from the training side.

    Returns: parts, classes of the natural setting, classes of the balanced setting, numbers of removed images.
    """
    records, name, limit = images.records, images.name, config.duplicate_correlation
    if unknown := set(config.novel) - set(records["taxon"]):
        raise StudyError(f"sets.{name}.split.novel names taxa the set does not have: {', '.join(sorted(unknown))}")
    novel = records["taxon"].isin(config.novel).to_numpy()
    conflicting = (records.groupby("digest")["taxon"].transform("nunique") > 1).to_numpy()
    copies = records.duplicated("digest").to_numpy() & ~conflicting
    removed = {"same file under two taxa": int(conflicting.sum()), "exact copies": int(copies.sum())}
    usable = ~conflicting & ~copies

    shifted = {shift: _where(records, where) & usable for shift, where in config.shifts.items()}
    away = np.any([np.zeros(len(records), bool), *shifted.values()], axis=0)
    home = _where(records, config.home) & usable & ~away
    removed["neither home nor shifted"] = int((usable & ~home & ~away).sum())
    labelled = ~records["taxon"].isin(["", *images.entry.not_taxa]).to_numpy() & ~novel

    test, validation = _held_out(images, home, config)
    pool = home & ~test & ~validation & ~novel
    held_out = np.flatnonzero(test | validation | away | (novel & usable))
    near = near_duplicates(images.images, np.flatnonzero(pool), held_out, limit)
    removed["near duplicates of held-out images"] = len(near)
    pool[near] = False
    near = near_duplicates(images.images, np.flatnonzero(validation), np.flatnonzero(test | away), limit)
    removed["near duplicates of test images in validation"] = len(near)
    validation[near] = False

    counts = Counter(sorted(records["taxon"][home & labelled]))
    trainable = set(records["taxon"][pool])
    classes = [t for t, n in counts.most_common() if n >= config.min_images and t in trainable]
    balanced = [t for t in classes if counts[t] >= config.balanced.min_images]
    if len(classes) < 2:
        raise StudyError(f"only {len(classes)} taxa of the set {name!r} have enough images at home: two are needed")
    known = labelled & records["taxon"].isin(classes).to_numpy()
    taxa = records["taxon"].to_numpy(dtype=object)
    parts = {
        "pool": np.flatnonzero(pool),
        "train": _sample(pool & known, taxa, config.train_images, config.seed),
        "balanced": _equal(np.flatnonzero(pool & known), taxa, balanced, config.balanced.train, config.seed),
        "validation": _sample(validation & known, taxa, config.validation_images, config.seed),
        "test": _sample(test & known, taxa, config.test_images, config.seed),
        **{shift: np.flatnonzero(rows & labelled) for shift, rows in shifted.items()},
        "novel": np.flatnonzero(novel & usable),
    }
    if empty := [part for part, rows in parts.items() if not len(rows) and part not in ("novel", "balanced")]:
        raise StudyError(f"the part {empty[0]!r} of the set {name!r} is empty: widen sets.{name}.split in the profile")
    return parts, classes, balanced, removed


def group_codes(images: data.Collection) -> np.ndarray:
    """Return (N,) integers, equal where images belong together by the entry's `group_by` (day, sample or image)."""
    records = images.records
    if images.entry.group_by == "image":
        return np.arange(len(records))
    when = records["time"].dt.strftime("%Y-%m-%d") if images.entry.group_by == "day" else records["sample"]
    together = when.fillna("") + "|" + records["site"] + "|" + records["instrument"]
    alone = "image " + records["id"]  # nothing is known of it, so nothing ties it to another
    return pd.factorize(together.where(when.fillna("") != "", alone))[0]


def _where(records: pd.DataFrame, where: Where) -> np.ndarray:
    day = records["time"].dt.normalize()  # comparisons with an unknown time are False: such images belong nowhere
    tests = {"since": day.ge, "until": day.le, "site": records["site"].eq, "instrument": records["instrument"].eq}
    asked = where.model_dump(mode="json", exclude_none=True)
    return np.all([np.ones(len(records), bool), *(tests[key](value) for key, value in asked.items())], axis=0)


def _held_out(images: data.Collection, home: np.ndarray, config: Split) -> np.ndarray:
    """Choose test and validation images, (2, N) bool, at home by stratified folds that keep groups whole."""
    rows, chosen = np.flatnonzero(home), np.zeros((2, len(home)), bool)
    taxa, groups = images.records["taxon"].to_numpy(dtype=object)[rows], group_codes(images)[rows]
    grouped = len(np.unique(groups)) < len(rows)
    parts = min(20, max(Counter(taxa).values(), default=0), len(np.unique(groups)))
    test, validation = round(config.test * parts), round(config.validation * parts)
    if min(test, validation) < 1 or test + validation >= parts:
        limits = f"{parts} folds: as many as home has groups, or images of its commonest taxon, and at most 20"
        raise StudyError(f"sets.{images.name}.split: test and validation leave a part empty, change them ({limits})")
    folds = (StratifiedGroupKFold if grouped else StratifiedKFold)(parts, shuffle=True, random_state=config.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*least populated class.*")  # rare taxa: the natural tail
        for number, (_, fold) in enumerate(folds.split(rows, taxa, groups if grouped else None)):
            if number < test + validation:
                chosen[int(number >= test), rows[fold]] = True
    return chosen


def near_duplicates(images: np.ndarray, rows: np.ndarray, others: np.ndarray, correlation: float) -> np.ndarray:
    """Return those of `rows` that nearly equal one of `others`: same picture up to noise and small shifts of grey.

    Two of `images` (N, R, R) uint8, averaged to at most 32 x 32 px, are the same from this Pearson correlation on.
    """
    from torch import from_numpy, pca_lowrank, zeros
    from torch.nn.functional import adaptive_avg_pool2d, normalize

    if not min(len(rows), len(others)):
        return rows[:0]

    def unit(index: np.ndarray) -> Any:
        x = adaptive_avg_pool2d(from_numpy(images[index]).float()[:, None], min(images.shape[1], 32)).flatten(1)
        return normalize(x - x.mean(dim=1, keepdim=True), eps=1e-6)

    # Unit vectors of this correlation lie so near each other, and their projections on any axes at least as near. Only
    # such pairs are compared: few among images of many kinds, all of them at worst.
    reach, sample = (2 - 2 * correlation) ** 0.5 + 1e-4, unit(others[:1024])
    axes = pca_lowrank(sample, min(12, *sample.shape))[2]
    placed = [zeros(len(of), axes.shape[1]) for of in (rows, others)]  # small tensors kept one by one scatter the heap
    for of, to in zip((rows, others), placed, strict=True):
        for start in range(0, len(of), 256):
            to[start : start + 256] = unit(of[start : start + 256]) @ axes
    tree, found = KDTree(placed[1]), [np.zeros(0, bool)]
    for part, at in zip(np.split(rows, range(256, len(rows), 256)), placed[0].split(256), strict=True):
        few = np.unique(np.concatenate(tree.query_ball_point(at, reach))).astype(int)
        near = (unit(part) @ unit(others[few]).T > correlation).any(dim=1) if len(few) else zeros(len(part), dtype=bool)
        found.append(near.numpy())
    return rows[np.concatenate(found)]


def _sample(chosen: np.ndarray, taxa: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """Draw at most `most` of the `chosen` rows (N,) bool in natural proportions, at least one of every taxon."""
    rows = np.flatnonzero(chosen)
    if most is None or len(rows) <= most:
        return rows
    present = sorted(set(taxa[rows]))
    if most <= len(present):
        raise StudyError(f"{most} images cannot hold {len(present)} taxa: raise the caps *_images of the split")
    rng = np.random.default_rng(seed)
    first = np.array([rng.choice(rows[taxa[rows] == t]) for t in present])
    drawn, _ = train_test_split(np.setdiff1d(rows, first), train_size=most - len(first), random_state=seed)
    return np.sort(np.concatenate([first, drawn]))


def _equal(rows: np.ndarray, taxa: np.ndarray, classes: Iterable[str], each: int, seed: int) -> np.ndarray:
    """Draw `each` rows of every class, a class with fewer gives all; `taxa` are those of all images."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(rows[taxa[rows] == t])[:each] for t in classes]
    return np.sort(np.concatenate([rows[:0], *drawn]))


def label_fraction(splits: Splits, each: int, seed: int) -> np.ndarray:
    """Return a sorted draw of at most `each` labelled training rows of every natural class, nested over `each`."""
    taxa = splits.collection.records["taxon"].to_numpy(dtype=object)
    return _equal(splits["train"], taxa, splits.classes, each, seed)


def relabelled(splits: Splits, names: dict[str, str]) -> Splits:
    """Return the same splits under other names (taxon → name); images of taxa without one leave the labelled parts.

    Encoders are trained and features extracted for the splits it is made from, its `base`.
    """
    records = splits.collection.records
    records = records.assign(taxon=records["taxon"].map(names).fillna(""))
    collection = replace(splits.collection, records=records, digest=digest(splits.collection.digest, names))
    named = records["taxon"].ne("").to_numpy()
    parts = {part: rows if part == "pool" else rows[named[rows]] for part, rows in splits.parts.items()}
    both = (splits.classes, splits.balanced_classes)
    natural, balanced = (tuple(dict.fromkeys(names[taxon] for taxon in taxa if taxon in names)) for taxa in both)
    return replace(splits, collection=collection, parts=parts, classes=natural, balanced_classes=balanced, base=splits)


def shared_classes(study: Study) -> dict[str, pd.DataFrame]:
    """Return set → table of its taxa (index) with a coarse class that sets of the profile share.

    Columns: coarse; resolved, "no" for a taxon that may hold others.
    Raises: StudyError if the profile's table `coarse` cannot be read or lacks a column.
    """
    path = PACKAGE / study.profile.coarse
    try:
        table = pd.read_csv(path, comment="#", dtype=str).set_index("taxon")[["set", "coarse", "resolved"]]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"coarse = {path} needs the columns set, taxon, coarse, resolved ({reason(error)})") from None
    return {name: one for name, one in table.groupby("set") if name in study.profile.sets}
