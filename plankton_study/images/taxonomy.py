"""Relabelling taxa: coarse classes that several sets share."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd

from plankton_study.images.splits import Splits
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError, first_sentence
from plankton_study.run.study import Study

COLUMNS = ["set", "coarse", "resolved"]


def shared_classes(study: Study) -> dict[str, pd.DataFrame]:
    """Return for each set of the profile its taxa that have a coarse class.

    Returns:
        Set → table with the taxon as index and the columns coarse and resolved ("no" for a taxon
        that may include other coarse classes).

    Raises:
        StudyError: the profile's table `coarse` cannot be read, or lacks a column.
    """
    path = Path(__file__).parent / study.profile.coarse
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [line for line in lines if not line.startswith("#")]
        # "NA" and "None" are names of taxa, not missing values
        table = pd.read_csv(StringIO("\n".join(rows)), dtype=str, keep_default_na=False)
        table = table.set_index("taxon")[COLUMNS]
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"coarse = {path} needs the columns set, taxon, coarse, resolved "
            f"({first_sentence(error)}): correct the table or its path"
        ) from None
    return {name: taxa for name, taxa in table.groupby("set") if name in study.profile.sets}


def relabelled(splits: Splits, names: dict[str, str]) -> Splits:
    """Return the same splits with new names for taxa.

    Images of taxa without a new name are removed from the labelled parts. Encoders and features
    are those of the original splits, which become the `base`.

    Args:
        splits: the original splits.
        names: taxon → new name.
    """
    records = splits.collection.records
    records = records.assign(taxon=records["taxon"].map(names).fillna(""))
    collection = replace(
        splits.collection, records=records, digest=digest(splits.collection.digest, names)
    )
    has_name = records["taxon"].ne("").to_numpy()
    parts = {}
    for part, rows in splits.parts.items():
        parts[part] = rows if part == "pool" else rows[has_name[rows]]
    return replace(
        splits,
        collection=collection,
        parts=parts,
        classes=_rename(splits.classes, names),
        balanced_classes=_rename(splits.balanced_classes, names),
        balanced_draws=(),
        base=splits,
    )


def _rename(taxa: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    """Return the new names in order, without repetition."""
    renamed = [names[taxon] for taxon in taxa if taxon in names]
    return tuple(dict.fromkeys(renamed))
