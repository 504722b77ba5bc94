"""Which image serves for what: decided once, by groups, before any model is trained."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from plankton_study import data
from plankton_study.profile import PARTS, Split, StudyError, Where
from plankton_study.store import digest, keep, write_json
from plankton_study.study import Study


@dataclass(frozen=True)
class Splits:
    """Rows of one collection by what they serve for.

    Attributes:
        collection: the images and records the rows point into.
        parts: name → sorted int64 rows. "pool" is the unlabelled training pool; "train", "balanced", "validation",
            "test" are labelled home images; every shift of the profile has its name; "novel" holds novel taxa.
        classes: taxa of the natural setting, by falling number of images at home.
        balanced_classes: taxa of the balanced setting, in the same order.
        removed: what was left out, reason → number of images.
    """

    collection: data.Collection
    parts: dict[str, np.ndarray]
    classes: tuple[str, ...]
    balanced_classes: tuple[str, ...]
    removed: dict[str, int]

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
        return group_codes(self.collection)[rows]

    @property
    def clustered(self) -> bool:
        """Whether samples or days are known; without them intervals are optimistic."""
        return self.collection.entry.group_by != "image"

    @property
    def digest(self) -> str:
        """Hash of the images and of every part."""
        return digest(self.collection.digest, {k: v.tolist() for k, v in self.parts.items()})

    def restrict(self, part: str, classes: tuple[str, ...]) -> np.ndarray:
        """Return the rows of a part whose taxon is one of `classes`."""
        rows = self.parts[part]
        return rows[np.isin(self.taxa(rows), classes)]

    def table(self) -> pd.DataFrame:
        """Return one row a part: images, taxa, groups, first and last day."""
        records = self.collection.records
        rows = []
        for part, index in self.parts.items():
            days = records["time"].iloc[index].dropna()
            span = (f"{days.min():%Y-%m-%d}", f"{days.max():%Y-%m-%d}") if len(days) else ("", "")
            taxa = len(set(self.taxa(index)) - {""})
            groups = len(set(self.groups(index))) if self.clustered else ""
            rows.append((self.collection.name, part, len(index), taxa, groups, *span))
        return pd.DataFrame(rows, columns=["set", "part", "images", "taxa", "groups", "first day", "last day"])


def make(study: Study, name: str) -> Splits:
    """Return the stored splits of one set of the profile, making them on the first call.

    Raises:
        StudyError: a part that the profile asks for is empty.
    """
    images = data.collection(study, name)
    config = study.profile.sets[name].split
    what = {
        "collection": images.digest,
        "split": config.model_dump(mode="json"),
        "entry": images.entry.model_dump(mode="json"),
    }
    folder = keep(study, "splits", what, ["splits"], lambda to: _write(to, images, config))
    stored = json.loads((folder / "classes.json").read_text())
    with np.load(folder / "parts.npz") as parts:
        return Splits(
            images, dict(parts), tuple(stored["classes"]), tuple(stored["balanced_classes"]), stored["removed"]
        )


def _write(folder: Path, images: data.Collection, config: Split) -> None:
    parts, classes, balanced, removed = split(images, config)
    np.savez(folder / "parts.npz", **parts)
    write_json(folder / "classes.json", {"classes": classes, "balanced_classes": balanced, "removed": removed})


def split(images: data.Collection, config: Split) -> tuple[dict[str, np.ndarray], list[str], list[str], dict[str, int]]:
    """Divide a collection; see `Splits` for what the parts are.

    The order is the protocol: novel taxa go first, then duplicates, then shifted images; only then is home divided,
    whole groups at a time, and near duplicates across the border are removed from the training side.

    Returns:
        parts, classes of the natural setting, classes of the balanced setting, numbers of removed images.
    """
    records, name = images.records, images.name
    removed: dict[str, int] = {}
    unknown = set(config.novel) - set(records["taxon"])
    if unknown:
        raise StudyError(f"sets.{name}.split.novel names taxa the set does not have: {', '.join(sorted(unknown))}")
    novel = records["taxon"].isin(config.novel).to_numpy()
    conflicting = (records.groupby("digest")["taxon"].transform("nunique") > 1).to_numpy()
    copies = records.duplicated("digest").to_numpy() & ~conflicting
    removed["same file under two taxa"] = int(conflicting.sum())
    removed["exact copies"] = int(copies.sum())
    usable = ~conflicting & ~copies

    shifted = {shift: _where(records, where) & usable for shift, where in config.shifts.items()}
    away = np.any(list(shifted.values()), axis=0) if shifted else np.zeros(len(records), bool)
    home = _where(records, config.home) & usable & ~away
    removed["neither home nor shifted"] = int((usable & ~home & ~away).sum())
    labelled = ~records["taxon"].isin(["", *images.entry.not_taxa]).to_numpy() & ~novel

    folds = _folds(records, group_codes(images), home, config)
    is_test, is_validation = home & (folds == "test"), home & (folds == "validation")
    pool = home & ~is_test & ~is_validation & ~novel
    held_out = is_test | is_validation | (away & usable) | (novel & usable)
    near = near_duplicates(images.images, np.flatnonzero(pool), np.flatnonzero(held_out), config.duplicate_correlation)
    removed["near duplicates of held-out images"] = len(near)
    pool[near] = False
    final = np.flatnonzero(is_test | (away & usable))
    seen = near_duplicates(images.images, np.flatnonzero(is_validation), final, config.duplicate_correlation)
    removed["near duplicates of test images in validation"] = len(seen)
    is_validation[seen] = False

    counts = (
        records["taxon"][home & labelled]
        .value_counts(sort=False)
        .sort_index()
        .sort_values(ascending=False, kind="stable")
    )
    trainable = set(records["taxon"][pool])
    classes = [t for t, n in counts.items() if n >= config.min_images and t in trainable]
    balanced_classes = [t for t in classes if counts[t] >= config.balanced.min_images]
    if len(classes) < 2:
        raise StudyError(
            f"the set {name!r} has {len(classes)} taxa with enough images at home: two are needed to compare"
        )
    known = labelled & records["taxon"].isin(classes).to_numpy()
    rng = np.random.default_rng(config.seed)
    taxa = records["taxon"].to_numpy(dtype=object)
    parts = {
        "pool": np.flatnonzero(pool),
        "train": _sample(np.flatnonzero(pool & known), taxa, config.train_images, config.seed),
        "balanced": _equal(np.flatnonzero(pool & known), taxa, balanced_classes, config.balanced.train, rng),
        "validation": _sample(np.flatnonzero(is_validation & known), taxa, config.validation_images, config.seed),
        "test": _sample(np.flatnonzero(is_test & known), taxa, config.test_images, config.seed),
        **{shift: np.flatnonzero(rows & labelled) for shift, rows in shifted.items()},
        "novel": np.flatnonzero(novel & usable),
    }
    for part, rows in parts.items():
        if not len(rows) and part not in ("novel", "balanced"):
            raise StudyError(f"the part {part!r} of the set {name!r} is empty: widen sets.{name}.split in the profile")
    return parts, classes, balanced_classes, removed


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
    chosen = np.ones(len(records), bool)
    if where.since is not None:  # comparisons with an unknown time are False: such images belong nowhere
        chosen &= (records["time"] >= pd.Timestamp(where.since)).to_numpy()
    if where.until is not None:
        chosen &= (records["time"] < pd.Timestamp(where.until) + pd.Timedelta(days=1)).to_numpy()
    for key in ("site", "instrument"):
        if (value := getattr(where, key)) is not None:
            chosen &= (records[key] == value).to_numpy()
    return chosen


def _folds(records: pd.DataFrame, groups: np.ndarray, home: np.ndarray, config: Split) -> np.ndarray:
    """Give each home image "train", "validation" or "test" by stratified folds that keep groups whole."""
    rows = np.flatnonzero(home)
    taxa = records["taxon"].to_numpy(dtype=object)[rows]
    parts = min(20, pd.Series(taxa).value_counts().max() if len(rows) else 0)
    folds = np.full(len(records), "", dtype=object)
    grouped = len(np.unique(groups[rows])) < len(rows)
    parts = min(parts, len(np.unique(groups[rows])))
    test, validation = round(config.test * parts), round(config.validation * parts)
    if min(test, validation) < 1 or test + validation >= parts:
        raise StudyError(
            f"{parts} groups cannot be divided into test {config.test:g} and validation {config.validation:g}"
        )
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(parts, shuffle=True, random_state=config.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*least populated class.*")  # rare taxa: the natural tail
        for number, (_, fold) in enumerate(splitter.split(rows, taxa, groups[rows] if grouped else None)):
            part = "test" if number < test else "validation" if number < test + validation else "train"
            folds[rows[fold]] = part
    return folds


def near_duplicates(images: np.ndarray, rows: np.ndarray, others: np.ndarray, correlation: float) -> np.ndarray:
    """Return those of `rows` that nearly equal one of `others`: same picture up to noise and small shifts of grey.

    Two of `images` (N, R, R) uint8, averaged to at most 32 x 32 px, are the same from this Pearson correlation on.
    """
    first, second = _thumbnails(images, rows), _thumbnails(images, others)
    hit = [(first[start : start + 2048] @ second.T > correlation).any(axis=1) for start in range(0, len(first), 2048)]
    return rows[np.concatenate(hit)] if hit else rows


def _thumbnails(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    import torch

    small = torch.from_numpy(images[rows]).float()[:, None]
    small = torch.nn.functional.adaptive_avg_pool2d(small, min(images.shape[1], 32)).numpy()
    flat = small.reshape(len(rows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _sample(rows: np.ndarray, taxa: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """Draw at most `most` rows in natural proportions, at least one of every taxon."""
    if most is None or len(rows) <= most:
        return rows
    if most <= len(set(taxa[rows])):
        raise StudyError(f"{most} images cannot hold {len(set(taxa[rows]))} taxa: raise the caps *_images of the split")
    rng = np.random.default_rng(seed)
    first = np.array([rng.choice(rows[taxa[rows] == t]) for t in sorted(set(taxa[rows]))])
    rest = np.setdiff1d(rows, first)
    drawn, _ = train_test_split(rest, train_size=most - len(first), random_state=seed)
    return np.sort(np.concatenate([first, drawn]))


def _equal(rows: np.ndarray, taxa: np.ndarray, classes: list[str], each: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `each` rows of every class; a class with fewer gives all it has."""
    drawn = [rng.permutation(rows[taxa[rows] == t])[:each] for t in classes]
    return np.sort(np.concatenate(drawn)) if drawn else rows[:0]


def label_fraction(splits: Splits, each: int, seed: int) -> np.ndarray:
    """Return a sorted draw of at most `each` labelled training rows of every natural class, nested over `each`."""
    rows = splits["train"]
    taxa = splits.collection.records["taxon"].to_numpy(dtype=object)
    return _equal(rows, taxa, list(splits.classes), each, np.random.default_rng(seed))
