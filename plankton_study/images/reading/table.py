"""Tables that name image files, such as the exports of EcoTaxa."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.duplicates import further_rows
from plankton_study.images.reading.records import (
    HIDDEN,
    ImageFiles,
    clean_name,
    complete_records,
    files_on_disk,
    image_names,
    number_of,
)
from plankton_study.images.reading.said import say
from plankton_study.images.reading.text_tables import TextTable
from plankton_study.images.reading.times import join_date_and_time
from plankton_study.run.errors import StudyError

TABLE_ENDINGS = (".tsv", ".csv", ".txt")

#: the columns of an EcoTaxa export
ECOTAXA = {
    "image": "img_file_name",
    "taxon": "object_annotation_category",
    "date": "object_date",
    "time": "object_time",
    "sample": "sample_id",
    "object": "object_id",
    "rank": "img_rank",
    "status": "object_annotation_status",
}
#: the second row of an EcoTaxa export holds the types of its columns: text or float
ECOTAXA_TYPES = ("[t]", "[f]")
VALIDATED = "validated"
#: names of text files that are about a set
ABOUT_THE_SET = re.compile(r"(read_?me|licen[cs]e|changes|notes?)\b", re.IGNORECASE)

#: names of columns in other tables, in lower case
USUAL_NAMES = {
    "image": ("image", "file", "filename", "file_name", "image_name", "path", "image_path"),
    "taxon": ("taxon", "label", "class", "category", "species"),
}


def read_table(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read tables that name image files.

    The tables of an EcoTaxa export may lie at the top or in subfolders; several are read as one.
    Their columns are known. In other tables, `entry.columns` names the column `image`, and
    optionally `taxon`, `date`, `time`, `sample`, `site`, `instrument`, `object` and `rank`; usual
    names of the first two are found. Images whose status is not "validated" count as unlabelled.
    Of each object, the image of the lowest rank is kept, unless `entry.ranks` is "all".

    Args:
        place: a table, or the folder that holds it.
        entry: see above; `entry.image_folder` is the folder of the images, if they do not lie
            beside the table.

    Raises:
        StudyError: there is no table, a column is missing, or an image stands under two taxa.
    """
    root = place.parent if place.is_file() else place
    images = root if entry.image_folder is None else root / entry.image_folder
    _refuse_missing_folder(images)
    rows = _joined([_read_one(table, images, entry) for table in _tables(place, entry)])
    rows = _with_image(place, rows)
    rows = _with_status(place, rows)
    rows["id"] = _found_names(images, rows["id"])
    _say_files_without_row(place, images, set(rows["id"]))
    rows = _one_row_for_each_image(place, rows)
    rows = _of_wanted_ranks(place, rows, entry)
    records = complete_records(rows.reset_index(drop=True), entry)
    return records, files_on_disk(images, records["id"])


# --- which tables


def _tables(place: Path, entry: CatalogueEntry) -> list[TextTable]:
    """Return the tables of a set; several only if all of them are of an EcoTaxa export."""
    if place.is_file():
        return [TextTable(place)]
    files = _files_of_tables(place, "*") or _files_of_tables(place, "**/*")
    if not files:
        raise StudyError(
            f"{place} holds no table ({', '.join(TABLE_ENDINGS)}): name the table as source, "
            'or set entry.reader = "folder" for class folders'
        )
    tables = [TextTable(file) for file in files]
    if len(tables) == 1:
        return tables
    image_column = entry.columns.get("image", ECOTAXA["image"])
    others = [table.file for table in tables if image_column not in table.header]
    if others:
        raise StudyError(
            f"{place} holds {len(files)} tables, and {others[0].relative_to(place)} has no column "
            f"{image_column!r}: name the table as source"
        )
    say(f"{place}: {len(files)} tables are read as one set")
    return tables


def _refuse_missing_folder(images: Path) -> None:
    if not images.is_dir():
        raise StudyError(f"there is no folder {images}: correct entry.image_folder")


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables; a column that a table lacks is empty there.

    A table without a column of status keeps its labels.
    """
    rows = pd.concat(parts, ignore_index=True)
    if "status" in rows:
        rows["status"] = rows["status"].fillna(VALIDATED)
    empty = {column: "" for column in rows.columns if column != "time"}
    return rows.fillna(empty)


def _files_of_tables(place: Path, pattern: str) -> list[Path]:
    """Return the tables of the first ending that any file has."""
    files = sorted(path for path in place.glob(pattern) if path.is_file())
    visible = [path for path in files if not HIDDEN.search(path.relative_to(place).as_posix())]
    visible = [path for path in visible if not ABOUT_THE_SET.match(path.name)]
    for ending in TABLE_ENDINGS:
        of_ending = [path for path in visible if path.suffix.lower() == ending]
        if of_ending:
            return of_ending
    return []


def _read_one(table: TextTable, images: Path, entry: CatalogueEntry) -> pd.DataFrame:
    """Return the rows of a table: id, the image's path below the folder of images, and others."""
    rows = table.read(_columns(table.file, table.header, entry))
    rows = rows[~rows["image"].isin(ECOTAXA_TYPES)].copy()
    base = table.file.parent if entry.image_folder is None else images
    rows["id"] = [_clean_name(name, base, images) for name in rows["image"]]
    rows["file"] = table.file.name
    if "date" in rows:
        rows["time"] = join_date_and_time(rows["date"], rows.get("time"), entry.time_format)
    elif "time" in rows:
        rows["time"] = rows["time"].str.strip().where(rows["time"].str.strip().ne(""))
    return rows


def _columns(file: Path, header: list[str], entry: CatalogueEntry) -> dict[str, str]:
    """Return key → name of its column.

    Raises:
        StudyError: a column is missing, or several could be meant.
    """
    columns = dict(entry.columns)
    if ECOTAXA["image"] in header:
        usual = {key: name for key, name in ECOTAXA.items() if name in header}
        if columns.keys() & {"date", "time"} or "date" not in usual:  # both are named, or neither
            usual = {key: name for key, name in usual.items() if key not in ("date", "time")}
        columns = usual | columns
    for key, usual in USUAL_NAMES.items():
        if key not in columns:
            meant = [name for name in header if name.strip().lower() in usual]
            if len(meant) > 1:
                raise StudyError(
                    f"{file} has the columns {' and '.join(map(repr, meant))}: say which is the "
                    f'{key}, as in entry.columns = {{ {key} = "{meant[0]}" }}'
                )
            if meant:
                say(f"{file}: the {key} stands in the column {meant[0]!r}")
                columns[key] = meant[0]
    if "image" not in columns:
        columns["image"] = ECOTAXA["image"]  # so that it is named as missing
    check_columns(file, columns.values(), header)
    return columns


def check_columns(place: Path | str, wanted: Iterable[str], present: Iterable[str]) -> None:
    """Check that a table has some columns.

    Raises:
        StudyError: it lacks one.
    """
    present = list(present)
    for column in wanted:
        if column not in present:
            raise StudyError(
                f"{place} has no column {column!r}, only {', '.join(present)}: set entry.columns"
            )


def _with_image(place: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows that name no image, and say their number."""
    is_named = rows["image"].str.strip().ne("")
    if not is_named.all():
        first = rows[~is_named].iloc[0]
        count = number_of((~is_named).sum(), "row")
        say(
            f"{place}: {count} without an image left out, the first is line {first['line']} of "
            f"{first['file']}"
        )
    return rows[is_named]


def _with_status(place: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Remove the labels that no expert has validated, and say the other words by number."""
    if "status" not in rows:
        return rows
    words = rows["status"].str.strip().str.lower()
    is_validated = words == VALIDATED
    counts = Counter(word or "no status" for word in words[~is_validated])
    if counts:
        listed = ", ".join(f"{count} {word}" for word, count in counts.most_common())
        say(
            f"{place}: {number_of(counts.total(), 'image')} that no expert has validated, so "
            f"unlabelled here ({listed})"
        )
    if "taxon" in rows:
        rows["taxon"] = rows["taxon"].where(is_validated, "")
    return rows


def _clean_name(name: str, base: Path, images: Path) -> str:
    """Return the path of an image below the folder of images.

    Args:
        name: as it stands in the table, perhaps with backslashes, "./", or from the root.
        base: the folder that it is relative to.
        images: the folder of images.
    """
    path = Path(name.strip().replace("\\", "/"))
    return Path(os.path.relpath(base / path, images)).as_posix()


# --- images and rows


#: how a name in a table may differ from that of its file → what is compared
LIKENESSES = {
    "a name that differs only in case or in how accents are written": lambda name: name,
    "another path": lambda name: PurePosixPath(name).name,
    "a name with another ending or none": lambda name: PurePosixPath(name).stem,
}


def _found_names(images: Path, names: pd.Series) -> pd.Series:
    """Return the names of the files that are meant, for those that do not exist as they stand.

    A file is meant if it is the only one that is alike in one of the `LIKENESSES`. It says how
    many were found so.
    """
    is_missing = ~names.map(lambda name: (images / name).is_file()).astype(bool)
    present = image_names(images) if is_missing.any() else []
    for likeness, key in LIKENESSES.items():
        if not is_missing.any():
            break
        only = _only_ones(present, key)
        meant = names[is_missing].map(lambda name, key=key, only=only: only.get(_plain(key(name))))
        found = meant.dropna()
        if len(found):
            first = found.index[0]
            say(
                f"{number_of(len(found), 'image')} found under {likeness}, the first is "
                f"{found[first]!r} for {names[first]!r}"
            )
            names = names.where(~names.index.isin(found.index), meant.reindex(names.index))
            is_missing = is_missing & ~names.index.isin(found.index)
    return names


def _only_ones(names: list[str], key: Callable[[str], str]) -> dict[str, str]:
    """Return what is compared → name, without names that are alike."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_plain(key(name)), []).append(name)
    return {compared: own[0] for compared, own in alike.items() if len(own) == 1}


def _plain(name: str) -> str:
    """Return a name without the differences that file systems make."""
    return unicodedata.normalize("NFC", name).casefold()


def _one_row_for_each_image(place: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out further rows of an image, and refuse an image with two taxa."""
    is_repeated = rows["id"].duplicated()
    if not is_repeated.any():
        return rows
    if "taxon" in rows:
        names = rows["taxon"].map(clean_name)
        named = rows.assign(taxon=names)[names.ne("")]
        taxa = named.groupby("id", sort=False)["taxon"].unique()
        several = taxa[taxa.map(len) > 1]
        if len(several):
            name, own = next(iter(several.items()))
            count = number_of(len(several), "image")
            raise StudyError(
                f"{place} names {count} more than once, with different taxa; the first is {name!r} "
                f"({' and '.join(map(repr, own))}): keep one row for each image"
            )
    first = rows["id"][is_repeated].iloc[0]
    say(
        f"{place}: {number_of(is_repeated.sum(), 'row')} left out, since they name an image again, "
        f"the first is {first!r}"
    )
    has_no_label = rows["taxon"].str.strip().eq("") if "taxon" in rows else is_repeated
    return rows[~further_rows(rows, ["id"], rank=has_no_label)]


def _of_wanted_ranks(place: Path, rows: pd.DataFrame, entry: CatalogueEntry) -> pd.DataFrame:
    """Keep the image of the lowest rank of each object of a sample, unless all are wanted."""
    if "object" not in rows or entry.ranks == "all":
        return rows
    holder = rows["file"]  # objects may be numbered anew in each sample, or in each table
    if "sample" in rows:
        holder = rows["sample"].where(rows["sample"].str.strip().ne(""), holder)
    identity = ["holder", "object"]
    rows = rows.assign(holder=holder)
    is_known = rows["object"].str.strip().ne("")
    ranks = pd.Series(0.0, rows.index)
    if "rank" in rows:
        ranks = pd.to_numeric(rows["rank"].str.replace(",", "."), errors="coerce").fillna(0.0)
    is_further = further_rows(rows, identity, ranks) & is_known
    if is_further.any():
        objects = number_of(len(rows[is_further].drop_duplicates(identity)), "object")
        kept = "the one of the lowest rank" if "rank" in rows else "the first one"
        say(
            f"{place}: {objects} with several images; {kept} is kept, and {is_further.sum()} are "
            'left out (entry.ranks = "all" keeps them)'
        )
    return rows[~is_further]


def _say_files_without_row(place: Path, images: Path, named: set[str]) -> None:
    """Say how many image files no row names."""
    others = [name for name in image_names(images) if name not in named]
    if others:
        say(
            f"{place}: {number_of(len(others), 'image file')} without a row left out, the first is "
            f"{others[0]!r}"
        )
