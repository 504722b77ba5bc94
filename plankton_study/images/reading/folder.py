"""Class folders: `<place>/<taxon>/<file>`."""

from collections import Counter
from pathlib import Path

import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.records import (
    HIDDEN,
    IMAGE_ENDINGS,
    ImageFiles,
    complete_records,
    examples,
    files_on_disk,
    image_names,
    number_of,
)
from plankton_study.images.reading.said import say
from plankton_study.run.errors import StudyError

#: names of folders that divide or hold a set, and so are no taxa
NOT_TAXA = {
    *("train", "training", "val", "valid", "validation", "test", "testing"),
    *("images", "imgs", "img", "data", "dataset", "classes", "labels", "labeled", "labelled"),
}


def read_folder(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read `<place>/<taxon>/<file>`, folder by folder.

    Args:
        place: the folder of class folders.
        entry: `entry.taxon_level` says which folders name the taxon: the first ones, of another
            level, or all of them, as a path. Deeper folders belong to the taxon.

    Raises:
        StudyError: `place` is a file, or a folder that can be no taxon would be one.
    """
    if place.is_file():
        raise StudyError(
            f"{place} is a file, not a folder of class folders: "
            'for a table set entry.reader = "table"'
        )
    _refuse_tables(place)
    names = image_names(place, "*/**/*")
    folders = [name.split("/")[:-1] for name in names]
    level = entry.taxon_level or 1
    _refuse_shallow(place, names, folders, level)
    taxa = ["/".join(parents) if level == "path" else parents[level - 1] for parents in folders]
    _refuse_other_folders(place, taxa, level)
    _say_joined_folders(place, folders, level, is_chosen=entry.taxon_level is not None)
    _say_left_out(place, {name.partition("/")[0] for name in names})
    records = complete_records({"id": names, "taxon": taxa}, entry)
    return records, files_on_disk(place, records["id"])


def _refuse_tables(place: Path) -> None:
    tables = sorted(place.glob("**/ecotaxa*.tsv"))
    if tables:
        raise StudyError(
            f"{place} is an export of EcoTaxa, with {len(tables)} tables such as "
            f'{tables[0].relative_to(place)}: set entry.reader = "table"'
        )


def _refuse_shallow(
    place: Path, names: list[str], folders: list[list[str]], level: int | str
) -> None:
    """Refuse images that do not lie deep enough for the level of taxa."""
    if level == "path":
        return
    shallow = [name for name, parents in zip(names, folders, strict=True) if len(parents) < level]
    if shallow:
        raise StudyError(
            f"{place} has {number_of(len(shallow), 'image')} above the folders of level {level}, "
            f"the first is {shallow[0]!r}: lower entry.taxon_level, or move them"
        )


def _refuse_other_folders(place: Path, taxa: list[str], level: int | str) -> None:
    parts = {part for taxon in taxa for part in taxon.split("/")}
    no_taxa = sorted(part for part in parts if part.casefold() in NOT_TAXA)
    if no_taxa:
        below = level + 1 if isinstance(level, int) else 2
        raise StudyError(
            f"the folders {', '.join(no_taxa)} in {place} are no taxa: set entry.taxon_level = "
            f"{below} if the taxa are the folders inside them, or name another folder as source"
        )


def _say_joined_folders(
    place: Path, folders: list[list[str]], level: int | str, is_chosen: bool
) -> None:
    """Say how many deeper folders were joined into their taxon."""
    if level == "path":
        say(f"{place}: a taxon is the whole path of its folder")
        return
    deeper = sorted({"/".join(parents) for parents in folders if len(parents) > level})
    recurring = _recurring(folders, level)
    if recurring and not is_chosen:
        say(
            f"{place}: folders such as {examples(recurring)} recur below several folders of level "
            f"{level}: if they are the taxa, set entry.taxon_level = {level + 1}"
        )
    if deeper:
        hint = "" if is_chosen else '; entry.taxon_level = "path" keeps them apart'
        count = number_of(len(deeper), "deeper folder")
        say(
            f"{place}: taxa are the folders of level {level}; {count} joined into them: "
            f"{examples(deeper)}{hint}"
        )


def _recurring(folders: list[list[str]], level: int) -> list[str]:
    """Return the names of folders that lie below several folders of a level, sorted."""
    above: dict[str, set[str]] = {}
    for parents in folders:
        if len(parents) > level:
            above.setdefault(parents[level], set()).add(parents[level - 1])
    return sorted(name for name, holders in above.items() if len(holders) > 1)


def _say_left_out(place: Path, used: set[str]) -> None:
    """Say class folders without images, and images that lie beside the class folders."""
    class_folders = {path.name for path in place.iterdir() if path.is_dir()}
    empty = {name for name in class_folders if not HIDDEN.search(name)} - used
    if empty:
        say(f"{place}: class folders without images are left out: {', '.join(sorted(empty))}")
    beside = image_names(place, "*")
    if beside:
        say(
            f"{place}: {number_of(len(beside), 'image')} beside the class folders left out, the "
            f"first is {beside[0]!r}"
        )
    others = Counter(path.suffix.lower() for path in place.glob("*/**/*") if _is_other(path))
    if others:
        listed = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
        say(f"{place}: files that are no images left out ({listed})")


def _is_other(path: Path) -> bool:
    is_hidden = path.name.startswith((".", "Thumbs"))
    return path.suffix.lower() not in IMAGE_ENDINGS and not is_hidden and path.is_file()
