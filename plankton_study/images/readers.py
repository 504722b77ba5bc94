"""Readers turn a folder, a table or a Hugging Face dataset into records and image files.

To add a reader, write a function (place, entry) → (records, files), and add it to `READERS` and
its name to `CatalogueEntry.reader`.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError, first_sentence

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
#: columns of the records before images are decoded
RECORD_COLUMNS = ("id", "taxon", "time", "sample", "site", "instrument")

#: hidden files, and thumbnails made by file servers
HIDDEN = re.compile(r"(^|/)[.@]")

ECOTAXA_COLUMNS = {"image": "img_file_name", "taxon": "object_annotation_category"}
ECOTAXA_STATUS = "object_annotation_status"
#: the second row of an EcoTaxa export holds the types of its columns: text or float
ECOTAXA_TYPES = ("[t]", "[f]")

HUB_COLUMNS = {"image": "image", "taxon": "label"}
HUB_NO_LABEL = (None, -1)


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a set.

    Attributes:
        read: row number → bytes of the image file.
        fingerprint: changes when the files change.
    """

    read: Callable[[int], bytes]
    fingerprint: str


Reader = Callable[[Path, CatalogueEntry], tuple[pd.DataFrame, ImageFiles]]


def read_folder(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read `<place>/<taxon>/<file>`, folder by folder; subfolders belong to the taxon.

    Raises:
        StudyError: `place` is a file.
    """
    if place.is_file():
        raise StudyError(
            f"{place} is a file, not a folder of class folders: "
            'for a table set entry.reader = "table"'
        )
    names = _image_names(place)
    taxa = [name.partition("/")[0] for name in names]
    records = _complete_records({"id": names, "taxon": taxa}, entry)
    class_folders = {path.name for path in place.iterdir() if path.is_dir()}
    empty = {name for name in class_folders if not HIDDEN.match(name)} - set(taxa)
    if empty:
        print(f"{place}: class folders without images are left out: {', '.join(sorted(empty))}")
    return records, _files_on_disk(place, records["id"])


def _image_names(place: Path) -> list[str]:
    """Return the paths of all images below the class folders, relative to `place`.

    They are strings, since Path objects take ten times as much memory.
    """
    names = []
    for path in place.glob("*/**/*"):
        if path.suffix.lower() in IMAGE_ENDINGS:
            name = path.relative_to(place).as_posix()
            if not HIDDEN.search(name):
                names.append(name)
    return sorted(names, key=_folder_by_folder)


def _folder_by_folder(name: str) -> str:
    return name.replace("/", "\0")


def read_table(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read a CSV or TSV table that names image files, such as an EcoTaxa export.

    Args:
        place: the table, or a folder that holds exactly one. Image paths are relative to it.
        entry: `entry.columns` says which column is `image` and `taxon`, and optionally `date`,
            `time`, `sample`, `site` and `instrument`. The defaults of the first two are those of
            an EcoTaxa export, in which images without expert validation count as unlabelled.

    Raises:
        StudyError: no table or several, a missing column, a row without an image, or an image
            that is named twice.
    """
    file = _only_table(place)
    table = _read_text_table(file)
    columns = ECOTAXA_COLUMNS | entry.columns
    _check_columns(file, columns.values(), table.columns)
    is_row_of_types = table[columns["image"]].isin(ECOTAXA_TYPES)
    table = table[~is_row_of_types].reset_index(drop=True)
    records = pd.DataFrame({key: table[column] for key, column in columns.items()})
    records = records.rename(columns={"image": "id"})
    if ECOTAXA_STATUS in table:
        is_validated = table[ECOTAXA_STATUS] == "validated"
        records["taxon"] = records["taxon"].where(is_validated, "")
        count = (~is_validated).sum()
        print(f"{file}: {count} images that no expert has validated count as unlabelled")
    _check_image_names(file, records["id"])
    if "date" in records:
        records["time"] = _join_date_and_time(records)
    return _complete_records(records, entry), _files_on_disk(file.parent, records["id"])


def _only_table(place: Path) -> Path:
    if place.is_file():
        return place
    tables = sorted([*place.glob("*.tsv"), *place.glob("*.csv")])
    if len(tables) != 1:
        raise StudyError(
            f"{place} contains {len(tables)} .tsv or .csv tables: leave exactly one in the folder"
        )
    return tables[0]


def _read_text_table(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file, sep=None, engine="python", dtype=str, encoding="utf-8-sig")
    except (ValueError, csv.Error) as error:
        raise StudyError(
            f"{file} is not a readable table in UTF-8 ({first_sentence(error)}): export it again"
        ) from None


def _check_columns(place: Path | str, wanted: Iterable[str], present: Iterable[str]) -> None:
    present = list(present)
    for column in wanted:
        if column not in present:
            raise StudyError(
                f"{place} has no column {column!r}, only {', '.join(present)}: set entry.columns"
            )


def _check_image_names(file: Path, names: pd.Series) -> None:
    is_missing = names.isna()
    if is_missing.any():
        row = is_missing.argmax() + 1
        raise StudyError(f"{file} names no image in its data row {row}: remove that row")
    repeated = names[names.duplicated()]
    if len(repeated):
        raise StudyError(
            f"{file} names {repeated.iloc[0]!r} more than once: keep one row for each image"
        )


def _join_date_and_time(records: pd.DataFrame) -> pd.Series:
    """Join EcoTaxa's date (YYYYMMDD) and time of day (HHMMSS without leading zeros)."""
    if "time" in records:
        clock = records["time"].fillna("0")
    else:
        clock = pd.Series("0", records.index)
    is_digits = clock.str.isdecimal()
    clock = clock.mask(is_digits, clock.str.zfill(6))
    return records["date"] + "T" + clock


def read_hub(place: Path | str, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read a Hugging Face dataset: parquet files, class folders, or a Hub id.

    Args:
        place: a folder, or a Hub id if the profile has `hub = true`.
        entry: `entry.columns` may rename the columns "image" and "label". Images with the label
            null or -1 are unlabelled.

    Raises:
        StudyError: the dataset cannot be loaded, or lacks a column.
    """
    import datasets

    table = _load_hub_table(place)
    columns = HUB_COLUMNS | entry.columns
    _check_columns(place, columns.values(), table.column_names)
    image_column = columns["image"]
    table = table.cast_column(image_column, datasets.Image(decode=False))
    taxa = _hub_labels(table, columns["taxon"])
    paths = table.data.flatten().column(f"{image_column}.path").to_pylist()
    ids = [_hub_id(row, path) for row, path in enumerate(paths)]

    def read(row: int) -> bytes:
        image = table[row][image_column]
        if image["bytes"] is not None:
            return image["bytes"]
        return Path(image["path"]).read_bytes()

    records = _complete_records({"id": ids, "taxon": taxa}, entry)
    return records, ImageFiles(read, table._fingerprint)


def _load_hub_table(place: Path | str) -> Any:
    """Return all splits of a Hugging Face dataset as one table."""
    import datasets

    files = sorted(str(path) for path in Path(place).rglob("*.parquet"))
    try:
        if files:
            splits = datasets.load_dataset("parquet", data_files=files)
        else:
            splits = datasets.load_dataset(str(place))
        return datasets.concatenate_datasets(list(splits.values()))
    except Exception as error:  # network, schema, access and disk raise many kinds of errors
        raise StudyError(
            f"{place} could not be loaded ({first_sentence(error)}): check its name and the network"
        ) from None


def _hub_labels(table: Any, column: str) -> list[str]:
    import datasets

    feature = table.features[column]
    has_names = isinstance(feature, datasets.ClassLabel)
    taxa = []
    for label in table[column]:
        if label in HUB_NO_LABEL:
            taxa.append("")
        elif has_names:
            taxa.append(feature.int2str(label))
        else:
            taxa.append(str(label))
    return taxa


def _hub_id(row: int, path: str | None) -> str:
    number = f"{row:08d}"
    return f"{number}/{Path(path or number).name}"


READERS: dict[str, Reader] = {
    "folder": read_folder,
    "synthetic": read_folder,
    "table": read_table,
    "hub": read_hub,
}


def _files_on_disk(place: Path, names: pd.Series) -> ImageFiles:
    """Return the named files of a folder, with a fingerprint of their sizes and times."""

    def read(row: int) -> bytes:
        return (place / names[row]).read_bytes()

    states = np.zeros((len(names), 2), np.int64)
    for row, name in enumerate(names):
        states[row] = _file_state(place / name)
    return ImageFiles(read, digest(states))


def _file_state(path: Path) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except OSError:  # a missing file is reported when it is read
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _complete_records(rows: Any, entry: CatalogueEntry) -> pd.DataFrame:
    """Return records with all columns, filled from the rows, the file names and the entry."""
    records = pd.DataFrame(rows, dtype=object)
    records = records.reindex(columns=RECORD_COLUMNS).astype(object)
    has_groups = entry.name_pattern is not None and entry.name_pattern.groupindex
    if len(records) and has_groups:
        records.update(_parse_names(records["id"], entry.name_pattern))
    records["time"] = _parse_times(records["time"], entry)
    defaults = {
        "taxon": "",
        "sample": "",
        "site": entry.site or "",
        "instrument": entry.instrument or "",
    }
    return records.fillna(defaults).astype(dict.fromkeys(("id", *defaults), str))


def _parse_names(ids: pd.Series, pattern: re.Pattern[str]) -> pd.DataFrame:
    """Match a pattern against file names; return one column for each of its named groups."""
    file_names = ids.astype(str).str.rpartition("/")[2]
    parts = file_names.str.extract(f"^(?:{pattern.pattern})")
    if "time_unix" in parts:
        seconds = pd.to_numeric(parts["time_unix"])
        parts["time"] = pd.to_datetime(seconds, unit="s", errors="coerce")
    return parts


def _parse_times(texts: pd.Series, entry: CatalogueEntry) -> pd.Series:
    """Return times in UTC; unreadable times, and those outside the deployment, become NaT.

    Only ISO 8601 and the entry's own format are accepted, since guessing could swap day and month.
    """
    times = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
    if entry.time_format:
        in_own_format = pd.to_datetime(texts, utc=True, errors="coerce", format=entry.time_format)
        times = in_own_format.fillna(times)
    times = times.dt.tz_localize(None).astype("datetime64[s]")
    is_lost = texts.notna() & times.isna()
    if is_lost.any():
        first = texts[is_lost].iloc[0]
        print(
            f"{is_lost.sum()} of {texts.notna().sum()} times cannot be read, the first is {first!r}"
        )
    if entry.deployed:  # a clock that was never set may say 1970 or 2057
        first_day, last_day = map(pd.Timestamp, entry.deployed)
        times = times.where(times.between(first_day, last_day + pd.Timedelta(days=1)))
    return times
