"""Dividing a collection: each image is assigned to a part once, by whole groups."""

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from plankton_study.images.collection import Collection
from plankton_study.images.duplicates import further_rows, near_duplicates
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import PARTS, Split, Where

#: home is divided into at most this many folds, which form the test, validation and training parts
MAX_FOLDS = 20
#: whole groups are held out, so fewer leave a part empty
GROUPS_NEEDED = 4
#: a larger share of home images without a day or sample stops the study
UNGROUPED_SHARE = 0.05
#: a part whose share of home differs by more from the one asked for is named
SHARE_OFF = 0.05
OPTIONAL_PARTS = ("novel", "balanced")
#: what images are grouped by → what they must have
NEEDED_FOR_GROUPS = {"day": "time", "sample": "sample"}


class Division(NamedTuple):
    """The rows of each part, and what was decided on the way; see `Splits`."""

    parts: dict[str, np.ndarray]
    classes: tuple[str, ...]
    balanced_classes: tuple[str, ...]
    balanced_draws: tuple[np.ndarray, ...]
    removed: dict[str, int]
    short_of_labels: tuple[str, ...]
    two_taxa: dict[str, int]
    notes: tuple[str, ...]
    balanced_advice: str
    others: dict[str, np.ndarray]


def divide(collection: Collection, config: Split) -> Division:
    """Divide a collection into the parts of `Splits`.

    The order matters. Novel taxa are removed first, then duplicates, then shifted images. Only
    then is home divided, by whole groups, and near duplicates of held-out images are removed from
    the training side. Images of novel taxa come from the same days or samples as the test images
    that they are compared with; where neither is known, from the whole of home.

    Raises:
        StudyError: a novel taxon does not exist, the groups that were asked for are not known, or
            too few taxa or images are left.
    """
    usable = _usable(collection, config)
    held_out = _hold_out(collection, usable, config)
    sides = _without_near_copies(collection, usable, held_out, config)
    taxa = _choose_taxa(collection, config, usable, sides)
    parts, draws = _parts(collection, config, usable, held_out, sides, taxa)
    _refuse_empty_parts(parts, collection.name)
    return Division(
        parts,
        tuple(taxa.classes),
        tuple(taxa.balanced),
        tuple(draws),
        _count_removed(parts, _reasons(usable, sides, taxa)),
        tuple(taxa.short_of_labels),
        usable.two_taxa,
        tuple(_notes(collection, config, usable, held_out, parts)),
        _advice_on_balanced(collection.name, config, taxa),
        _others(config, usable, held_out, sides, taxa, parts),
    )


# --- which images can be used, and for what


class _Usable(NamedTuple):
    """What is known of each image before home is divided; masks are (N,) bool."""

    is_novel: np.ndarray
    has_two_taxa: np.ndarray
    is_copy: np.ndarray
    is_ungrouped: np.ndarray  # at home, without a day or sample
    shifted: dict[str, np.ndarray]
    is_away: np.ndarray  # in any shifted part
    home: np.ndarray
    has_label: np.ndarray  # of any kind
    is_labelled: np.ndarray  # with a taxon that is not novel
    two_taxa: dict[str, int]  # pair of taxa → number of files that stand under both

    @property
    def is_usable(self) -> np.ndarray:
        """Neither a copy nor labelled twice."""
        return ~self.has_two_taxa & ~self.is_copy


def _usable(collection: Collection, config: Split) -> _Usable:
    records = collection.records
    is_novel = _novel(collection, config)
    has_two_taxa, is_copy = _duplicates(records)
    is_usable = ~has_two_taxa & ~is_copy
    shifted = {name: _matches(records, where) & is_usable for name, where in config.shifts.items()}
    is_away = _any_of(shifted.values(), len(records))
    is_home = _matches(records, config.home) & is_usable & ~is_away
    is_ungrouped = is_home & _lacks_group(collection)
    _refuse_ungrouped(collection, is_home, is_ungrouped)
    is_no_taxon = records["taxon"].isin(["", *collection.entry.not_taxa]).to_numpy()
    return _Usable(
        is_novel,
        has_two_taxa,
        is_copy,
        is_ungrouped,
        shifted,
        is_away,
        is_home & ~is_ungrouped,
        records["taxon"].ne("").to_numpy(),
        ~is_no_taxon & ~is_novel,
        _pairs_of_taxa(records[has_two_taxa]),
    )


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
    """Return which files stand under two taxa, and which are further copies, (N,) bool each.

    An unlabelled copy of a labelled file is the further one.
    """
    names = records["taxon"].where(records["taxon"].ne(""))
    has_two_taxa = (names.groupby(records["digest"]).transform("nunique") > 1).to_numpy()
    is_copy = further_rows(records, ["digest"], rank=names.isna()).to_numpy()
    return has_two_taxa, is_copy & ~has_two_taxa


def _pairs_of_taxa(records: pd.DataFrame) -> dict[str, int]:
    """Return how many files stand under the same taxa, the commonest first."""
    named = records[records["taxon"].ne("")]
    taxa = named.groupby("digest")["taxon"].agg(lambda names: " and ".join(sorted(set(names))))
    return dict(Counter(taxa).most_common())


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


# --- groups


def group_codes(collection: Collection) -> np.ndarray:
    """Return (N,) integers that are equal where images belong together.

    The entry's `group_by` defines what belongs together: day, sample or image. Images of one
    object of a sample always do. An image without a time or sample is a group of its own.
    """
    records, group_by = collection.records, collection.entry.group_by
    has_object = records["object"].ne("")
    own_object = "object " + records["object"] + "|" + records["sample"]
    alone = own_object.where(has_object, "image " + records["id"])
    if group_by == "image":
        return pd.factorize(alone)[0]
    key = group_key(records, group_by)
    together = key + "|" + records["site"] + "|" + records["instrument"]
    return pd.factorize(together.where(key != "", alone))[0]


def group_key(records: pd.DataFrame, group_by: str) -> pd.Series:
    """Return the day or sample of each image; "" if it is not known."""
    if group_by == "day":
        return records["time"].dt.strftime("%Y-%m-%d").fillna("")
    return records["sample"].fillna("")


def _lacks_group(collection: Collection) -> np.ndarray:
    """Return which images have no day or sample although they are grouped by it, (N,) bool."""
    group_by = collection.entry.group_by
    if group_by == "image":
        return np.zeros(len(collection), bool)
    return (group_key(collection.records, group_by) == "").to_numpy()


def _refuse_ungrouped(
    collection: Collection, is_home: np.ndarray, is_ungrouped: np.ndarray
) -> None:
    """Stop if too many home images lack what they are grouped by."""
    count, total = int(is_ungrouped.sum()), int(is_home.sum())
    if count <= UNGROUPED_SHARE * total:
        return
    group_by = collection.entry.group_by
    needed = NEEDED_FOR_GROUPS[group_by]
    first = collection.records["id"][is_ungrouped].iloc[0]
    raise StudyError(
        f"{collection.name} is grouped by {group_by}, but {count} of {total} images have no known "
        f"{needed}, the first is {first!r}: let entry.name_pattern or entry.columns give the "
        f'{needed}, or set entry.group_by = "image", which splits single images and flatters'
    )


# --- held-out images


#: with fewer labelled images at home, the folds of a part are spread
SMALL_SET = 2_000
#: multiples of the golden ratio, without their whole part, are evenly spread
GOLDEN = 0.618


class _HeldOut(NamedTuple):
    """The images of home that are held out; masks are (N,) bool."""

    is_test: np.ndarray
    is_validation: np.ndarray
    is_grouped: bool  # whether home has groups at all


def _hold_out(collection: Collection, usable: _Usable, config: Split) -> _HeldOut:
    """Choose test and validation images, by stratified folds of whole groups.

    The labelled images are divided. Unlabelled ones follow those of their group.
    """
    is_home = usable.home
    rows = np.flatnonzero(is_home & usable.has_label)
    taxa = collection.records["taxon"].to_numpy(dtype=object)[rows]
    groups = group_codes(collection)[rows]
    number_of_groups = len(np.unique(groups))
    is_grouped = number_of_groups < len(rows)
    if collection.entry.group_by != "image":
        _refuse_odd_groups(collection, number_of_groups, rows)
    folds = min(MAX_FOLDS, max(Counter(taxa).values(), default=0), number_of_groups)
    test_folds, validation_folds = _numbers_of_folds(collection, config, folds)
    is_test = np.zeros(len(is_home), bool)
    is_validation = np.zeros(len(is_home), bool)
    divided = stratified_folds(taxa, groups if is_grouped else None, folds, config.seed)
    if not is_grouped and len(rows) < SMALL_SET:
        divided = _spread(divided)
    for number, fold in enumerate(divided[: test_folds + validation_folds]):
        held_out = is_test if number < test_folds else is_validation
        held_out[rows[fold]] = True
    if is_grouped:
        all_groups = group_codes(collection)
        is_test |= is_home & np.isin(all_groups, all_groups[is_test])
        is_validation |= is_home & np.isin(all_groups, all_groups[is_validation])
    return _HeldOut(is_test, is_validation, is_grouped)


def stratified_folds(
    labels: np.ndarray, groups: np.ndarray | None, folds: int, seed: int
) -> list[np.ndarray]:
    """Divide images into folds with about the same shares of labels.

    Args:
        labels: (n,) of the images.
        groups: (n,) codes of what stays together; None: each image is alone.
        folds: number of folds.
        seed: of the random division.

    Returns:
        The positions of the images of each fold, sorted.
    """
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a long tail has taxa with fewer images than folds
        warnings.filterwarnings("ignore", message=".*least populated class.*")
        return [fold for _, fold in splitter.split(labels, labels, groups)]


def _spread(folds: list[np.ndarray]) -> list[np.ndarray]:
    """Return folds in an order in which the first ones, however many, were evenly spread.

    A taxon with fewer images than there are folds lies in neighbouring ones. If a part were made of
    neighbours, it would get many images of one such taxon and none of another.
    """
    golden = round(GOLDEN * len(folds))
    step = next(step for step in range(golden, 3 * len(folds)) if np.gcd(step, len(folds)) == 1)
    return [folds[number * step % len(folds)] for number in range(len(folds))]


def _refuse_odd_groups(collection: Collection, number: int, rows: np.ndarray) -> None:
    """Stop if there are too few groups, or as many as images."""
    group_by = collection.entry.group_by
    if number < GROUPS_NEEDED:
        raise StudyError(
            f"{collection.name} has {number} {group_by}s at home, but at least {GROUPS_NEEDED} are "
            f"needed to hold whole {group_by}s out: widen home, or set entry.group_by = "
            '"image", which splits single images and flatters'
        )
    if number == len(rows):
        first = group_key(collection.records, group_by).iloc[rows[0]]
        raise StudyError(
            f"{collection.name} has {number} {group_by}s for {number} images, such as {first!r}, "
            "so none would stay together: correct entry.name_pattern or entry.columns, or set "
            'entry.group_by = "image", which splits single images and flatters'
        )


def _numbers_of_folds(collection: Collection, config: Split, folds: int) -> tuple[int, int]:
    """Return the numbers of folds of the test and of the validation part."""
    test_folds = round(config.test * folds)
    validation_folds = round(config.validation * folds)
    if min(test_folds, validation_folds) < 1 or test_folds + validation_folds >= folds:
        raise StudyError(
            f"sets.{collection.name}.split: test and validation leave a part empty "
            f"({folds} folds: as many as home has groups, or images of its commonest taxon, "
            f"and at most {MAX_FOLDS}): change these shares"
        )
    return test_folds, validation_folds


class _Sides(NamedTuple):
    """The two sides of home after near copies were removed; masks are (N,) bool."""

    is_pool: np.ndarray
    is_validation: np.ndarray
    is_near_held_out: np.ndarray
    is_near_test: np.ndarray


def _without_near_copies(
    collection: Collection, usable: _Usable, held_out: _HeldOut, config: Split
) -> _Sides:
    is_test, is_validation = held_out.is_test, held_out.is_validation
    is_pool = usable.home & ~is_test & ~is_validation & ~usable.is_novel
    is_novel_home = usable.is_novel & usable.is_usable
    never_trained_on = is_test | is_validation | usable.is_away | is_novel_home
    is_near_held_out = _near_duplicates(collection, is_pool, never_trained_on, config)
    is_near_test = _near_duplicates(collection, is_validation, is_test | usable.is_away, config)
    return _Sides(
        is_pool & ~is_near_held_out,
        is_validation & ~is_near_test,
        is_near_held_out,
        is_near_test,
    )


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


# --- taxa


class _Taxa(NamedTuple):
    """The taxa of both settings, the commonest at home first."""

    classes: list[str]
    balanced: list[str]
    short_of_labels: list[str]
    training: Counter  # taxon → number of images in the pool
    at_home: Counter  # taxon → number of labelled images at home
    has_class: np.ndarray  # (N,) bool, whether an image has a taxon of the natural setting


def _choose_taxa(collection: Collection, config: Split, usable: _Usable, sides: _Sides) -> _Taxa:
    taxa = collection.records["taxon"]
    at_home = Counter(sorted(taxa[usable.home & usable.is_labelled]))
    training = Counter(taxa[sides.is_pool])
    classes = [
        taxon
        for taxon, count in at_home.most_common()
        if count >= config.min_images and training[taxon]
    ]
    if len(classes) < 2:
        raise StudyError(_too_few_taxa(collection, config, at_home, training, classes))
    wanted = [taxon for taxon in classes if at_home[taxon] >= config.balanced.min_images]
    balanced = [taxon for taxon in wanted if training[taxon] >= config.balanced.train]
    short_of_labels = [taxon for taxon in wanted if taxon not in balanced]
    has_class = usable.is_labelled & taxa.isin(classes).to_numpy()
    return _Taxa(classes, balanced, short_of_labels, training, at_home, has_class)


def _too_few_taxa(
    collection: Collection, config: Split, at_home: Counter, training: Counter, classes: list[str]
) -> str:
    """Return what was found, and what may help."""
    if not at_home:
        return (
            f"none of the {len(collection)} images of the set {collection.name!r} has a label at "
            "home: check entry.reader, the column or the folders of taxa, and the split's home"
        )
    if len(at_home) == 1:
        return (
            f"all {at_home.total()} labelled images at home of the set {collection.name!r} are "
            f"{next(iter(at_home))!r}: label images of a second taxon, to tell it from"
        )
    commonest = ", ".join(
        f"{taxon!r} with {count}, {training[taxon]} of them for training"
        for taxon, count in at_home.most_common(2)
    )
    return (
        f"the set {collection.name!r} has {len(at_home)} taxa with {at_home.total()} labelled "
        f"images at home, the commonest are {commonest}; needed are two with at least "
        f"{config.min_images} images, any of them for training, but only {len(classes)} was found: "
        f"lower sets.{collection.name}.split.min_images, or label more images"
    )


# --- parts


def _parts(
    collection: Collection,
    config: Split,
    usable: _Usable,
    held_out: _HeldOut,
    sides: _Sides,
    chosen: _Taxa,
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Return the rows of each part, and every draw of the balanced training images."""
    taxa = collection.records["taxon"].to_numpy(dtype=object)
    seed = config.seed
    train = sides.is_pool & chosen.has_class
    validation = sides.is_validation & chosen.has_class
    test = held_out.is_test & chosen.has_class
    draws = [
        equal_numbers(
            np.flatnonzero(train), taxa, chosen.balanced, config.balanced.train, seed + draw
        )
        for draw in range(config.balanced.draws)
    ]
    parts = {
        "pool": np.flatnonzero(sides.is_pool),
        "train": _sample(train, taxa, config.train_images, seed),
        "balanced": draws[0],
        "validation": _sample(validation, taxa, config.validation_images, seed),
        "test": _sample(test, taxa, config.test_images, seed),
    }
    for name, is_shifted in usable.shifted.items():
        parts[name] = np.flatnonzero(is_shifted & usable.is_labelled)
    is_comparable = held_out.is_test if held_out.is_grouped else usable.home
    parts["novel"] = np.flatnonzero(usable.is_novel & is_comparable)
    return parts, draws


def _others(
    config: Split,
    usable: _Usable,
    held_out: _HeldOut,
    sides: _Sides,
    chosen: _Taxa,
    parts: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the rows of home that have a label, but no class; see `Splits.others`."""
    is_other = usable.home & usable.has_label & ~chosen.has_class
    on_side = {
        "train": ~held_out.is_test & ~held_out.is_validation & ~sides.is_near_held_out,
        "validation": sides.is_validation,
        "test": held_out.is_test,
    }
    others = {}
    for part, is_here in on_side.items():
        rows = np.flatnonzero(is_here & is_other)
        kept = len(parts[part]) / (usable.home & is_here & chosen.has_class).sum()
        rng = np.random.default_rng(config.seed)
        others[part] = np.sort(rng.permutation(rows)[: round(kept * len(rows))])
    return others


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


def equal_numbers(
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
        if len(rows) or part in OPTIONAL_PARTS:
            continue
        if part in PARTS:
            raise StudyError(
                f"the part {part!r} of the set {name!r} is empty, since its labelled images at "
                "home are too few or lie in too few days or samples: label about ten images of "
                f"each taxon, of more days or samples, or widen sets.{name}.split.home"
            )
        raise StudyError(
            f"the part {part!r} of the set {name!r} is empty: widen sets.{name}.split.shifts"
        )


# --- what is said about the division


def _reasons(usable: _Usable, sides: _Sides, chosen: _Taxa) -> dict[str, np.ndarray]:
    """Return reason → which images it keeps out of all parts, (N,) bool."""
    is_elsewhere = ~usable.home & ~usable.is_away & ~usable.is_ungrouped
    return {
        "same file under two taxa": usable.has_two_taxa,
        "exact copies": usable.is_copy,
        "no day or sample known": usable.is_ungrouped,
        "neither home nor shifted": is_elsewhere,
        "near duplicates of held-out images": sides.is_near_held_out,
        "near duplicates of test images in validation": sides.is_near_test,
        "novel taxa, not comparable with the test images": usable.is_novel,
        "held out or shifted, without a taxon of the study": ~chosen.has_class,
        "beyond validation_images or test_images": np.ones(len(usable.home), bool),
    }


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


def _notes(
    collection: Collection,
    config: Split,
    usable: _Usable,
    held_out: _HeldOut,
    parts: dict[str, np.ndarray],
) -> list[str]:
    """Return what the user should know about this division, one sentence each."""
    notes = _notes_on_groups(collection)
    shares = {
        "test": (held_out.is_test, config.test),
        "validation": (held_out.is_validation, config.validation),
    }
    for part, (mask, asked) in shares.items():
        share = (mask & usable.has_label).sum() / (usable.home & usable.has_label).sum()
        if abs(share - asked) > SHARE_OFF:
            notes.append(
                f"the part {part!r} holds {share:.0%} of the labelled images at home, not "
                f"{asked:.0%}, since "
                f"{_whole_groups(collection)} stay together"
            )
    taxa = collection.records["taxon"].to_numpy(dtype=object)
    for part in ("validation", "test", *usable.shifted):
        if len(set(taxa[parts[part]])) == 1:
            notes.append(f"the part {part!r} holds a single taxon, so its scores mean little")
    return notes


def _whole_groups(collection: Collection) -> str:
    group_by = collection.entry.group_by
    return "images of one object" if group_by == "image" else f"whole {group_by}s"


def _notes_on_groups(collection: Collection) -> list[str]:
    """Return a note if days or samples are known, but single images are split."""
    if collection.entry.group_by != "image":
        return []
    for group_by in ("sample", "day"):
        key = group_key(collection.records, group_by)
        groups = key[key != ""].nunique()
        if 1 < groups < (key != "").sum():
            return [
                f"{groups} {group_by}s are known, but single images are split, which flatters: "
                f'entry.group_by = "{group_by}" keeps them together'
            ]
    return []


def _advice_on_balanced(name: str, config: Split, chosen: _Taxa) -> str:
    """Return why the balanced setting lacks taxa, and the largest one that works; "" if none."""
    if len(chosen.balanced) >= 2:
        return ""
    images = {taxon: chosen.training[taxon] for taxon in chosen.classes}
    _, second = sorted(images, key=images.__getitem__, reverse=True)[:2]
    at_home = min(chosen.at_home[taxon] for taxon in images if images[taxon] >= images[second])
    return (
        f"fewer than two taxa of {name} have the {config.balanced.min_images} images at home and "
        f"the {config.balanced.train} training images that the balanced setting needs: the largest "
        f"setting that works is sets.{name}.split.balanced = {{ min_images = {at_home}, "
        f"train = {images[second]} }}"
    )
