"""Splits: each image is assigned to a part once, by whole groups, before any training."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from plankton_study.images.collection import Collection, load_collection
from plankton_study.images.division import divide, equal_numbers, group_codes
from plankton_study.run.cache import computed, digest
from plankton_study.run.errors import StudyError
from plankton_study.run.schema import PARTS
from plankton_study.run.study import Study

#: modules whose code divides a collection
SHAPED_BY = ("images.splits", "images.division", "images.duplicates")
#: of the names of parts in the cache, since a shifted part may have any name
PART_PREFIX = "part/"
OTHERS_PREFIX = "others/"


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
        two_taxa: pair of taxa → number of files that stand under both, and are removed.
        notes: what the user should know about the division, one sentence each.
        balanced_advice: why the balanced setting has fewer than two taxa, and what to set; "" if
            it has more.
        others: "train", "validation" and "test" → labelled home images on that side whose taxon is
            no class, since it is novel, has too few images or is no taxon. They are in no labelled
            part, and are as frequent among the images of a part as at home.
        base: of relabelled splits, the original ones, whose encoders and features they share.
    """

    collection: Collection
    parts: dict[str, np.ndarray]
    classes: tuple[str, ...]
    balanced_classes: tuple[str, ...]
    balanced_draws: tuple[np.ndarray, ...] = ()
    removed: dict[str, int] = field(default_factory=dict)
    short_of_labels: tuple[str, ...] = ()
    two_taxa: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    balanced_advice: str = ""
    others: dict[str, np.ndarray] = field(default_factory=dict)
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

    def require_balanced(self) -> None:
        """Check that the balanced setting has at least two taxa.

        Raises:
            StudyError: it has fewer.
        """
        if self.balanced_advice:
            raise StudyError(self.balanced_advice)

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
        values = divide(collection, config)._asdict()
        values |= _prefixed(PART_PREFIX, values.pop("parts"))
        values |= _prefixed(OTHERS_PREFIX, values.pop("others"))
        return values | {"balanced_draws": np.array(values["balanced_draws"])}

    stored = computed(study, "splits", inputs, SHAPED_BY, compute)
    parts = _without_prefix(PART_PREFIX, stored)
    return Splits(
        collection,
        parts,
        classes=tuple(stored["classes"]),
        balanced_classes=tuple(stored["balanced_classes"]),
        balanced_draws=tuple(stored["balanced_draws"]),
        removed=stored["removed"],
        short_of_labels=tuple(stored["short_of_labels"]),
        two_taxa=stored["two_taxa"],
        notes=tuple(stored["notes"]),
        balanced_advice=stored["balanced_advice"],
        others=_without_prefix(OTHERS_PREFIX, stored),
    )


def _prefixed(prefix: str, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{part}": own for part, own in rows.items()}


def _without_prefix(prefix: str, stored: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the rows that `_prefixed` named with a prefix."""
    return {
        key.removeprefix(prefix): rows for key, rows in stored.items() if key.startswith(prefix)
    }


def draw_labels(splits: Splits, count: int, seed: int) -> np.ndarray:
    """Return at most `count` labelled training rows of every natural class, sorted.

    Draws with the same seed are nested: a larger one contains the smaller ones.
    """
    taxa = splits.collection.records["taxon"].to_numpy(dtype=object)
    return equal_numbers(splits["train"], taxa, splits.classes, count, seed)
