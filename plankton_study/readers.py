"""Readers: a folder, a table or a Hugging Face data set becomes records and a way to read each file.

Every reader takes the place that `sources.locate` found and the set's entry. It returns a table with the columns of
`RECORD`, and a function from a row's number to its file's bytes, whose `fingerprint` changes when the files do.
"""

import csv
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.profile import StudyError, reason
from plankton_study.sources import CatalogueEntry
from plankton_study.store import digest

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
RECORD = ("id", "taxon", "time", "sample", "site", "instrument")  # what is known before decoding
Read = Callable[[int], bytes]


def read_folder(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read `<place>/<taxon>/<file>`, sorted; deeper folders belong to the taxon. StudyError: `place` is no folder."""
    if place.is_file():
        raise StudyError(f'{place} is a file, not a folder of class folders: for a table set entry.reader = "table"')
    images = (image for image in place.glob("*/**/*") if image.suffix.lower() in SUFFIXES)
    names = (image.relative_to(place).as_posix() for image in images)  # texts: a path takes ten times their memory
    names = (name for name in names if not re.search(r"(^|/)[.@]", name))  # hidden, or thumbnails of a file server
    names = sorted(names, key=lambda name: name.replace("/", "\0"))  # folder by folder
    records = _finish({"id": names, "taxon": [name.partition("/")[0] for name in names]}, entry)
    if empty := {p.name for p in place.iterdir() if p.is_dir() and p.name[0] not in ".@"} - set(records["taxon"]):
        print(f"{place}: class folders without any image are left out: {', '.join(sorted(empty))}")
    return records, _reader(place, records["id"])


def read_table(place: Path, entry: CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read a CSV or TSV table that names image files, such as an EcoTaxa export with its second row of types.

    `place` is the table, or a folder that holds just one; image paths are relative to it. `entry.columns` says which
    column is `image` and `taxon`, and optionally `date`, `time`, `sample`, `site`, `instrument`. In an EcoTaxa export,
    what no expert has validated counts as not labelled.
    Raises: StudyError for no table or several, a missing column, a row without an image, or one image with two taxa.
    """
    tables = [place] if place.is_file() else sorted([*place.glob("*.tsv"), *place.glob("*.csv")])
    if len(tables) != 1:
        raise StudyError(f"{place} must hold exactly one .tsv or .csv table, not {len(tables)}: move the others away")
    try:
        table = pd.read_csv(tables[0], sep=None, engine="python", dtype=str, encoding="utf-8-sig")
    except (ValueError, csv.Error) as error:
        raise StudyError(f"{tables[0]} is no readable table in UTF-8 ({reason(error)}): export it again") from None
    ecotaxa = {"image": "img_file_name", "taxon": "object_annotation_category"}
    columns = _columns(tables[0], ecotaxa | entry.columns, table.columns)
    table = table[~table[columns["image"]].isin(["[t]", "[f]"])].reset_index(drop=True)
    records = pd.DataFrame({key: table[column] for key, column in columns.items()}).rename(columns={"image": "id"})
    if "object_annotation_status" in table:
        records["taxon"] = records["taxon"].where(expert := table["object_annotation_status"] == "validated", "")
        print(f"{tables[0]}: {(~expert).sum()} images that no expert validated count as not labelled")
    if (nameless := records["id"].isna()).any():
        raise StudyError(f"{tables[0]} names no image in its data row {nameless.argmax() + 1}: remove that row")
    if len(twice := records["id"][records["id"].duplicated()]):
        raise StudyError(f"{tables[0]} names {twice.iloc[0]!r} more than once: one image, one row, one taxon")
    if "date" in records:  # EcoTaxa keeps the date (YYYYMMDD) and the time of day (HHMMSS, without leading zeros) apart
        clock = records["time"].fillna("0") if "time" in records else pd.Series("0", records.index)
        records["time"] = records["date"] + "T" + clock.mask(clock.str.isdecimal(), clock.str.zfill(6))
    return _finish(records, entry), _reader(tables[0].parent, records["id"])


def read_hub(place: Path | str, entry: CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read a Hugging Face data set: a folder of parquet files or class folders, or a Hub id with `hub = true`.

    `entry.columns` may rename the columns `image` and `taxon` (default "image" and "label"); null or -1 is no label.
    Raises: StudyError if the data set cannot be loaded or lacks a column.
    """
    import datasets

    files = sorted(str(path) for path in Path(place).rglob("*.parquet"))
    try:
        parts = datasets.load_dataset("parquet", data_files=files) if files else datasets.load_dataset(str(place))
        table = datasets.concatenate_datasets(list(parts.values()))
    except Exception as error:  # a dozen kinds: network, schema, access, disk
        raise StudyError(f"{place} could not be loaded ({reason(error)}): check its name and the network") from None
    columns = _columns(place, {"image": "image", "taxon": "label"} | entry.columns, table.column_names)
    table = table.cast_column(columns["image"], datasets.Image(decode=False))
    labels, taxa = table.features[columns["taxon"]], table[columns["taxon"]]
    named = labels.int2str if isinstance(labels, datasets.ClassLabel) else str
    taxa = ["" if taxon in (None, -1) else named(taxon) for taxon in taxa]  # -1: the Hub's "no label"
    paths = table.data.flatten().column(f"{columns['image']}.path").to_pylist()
    ids = [f"{i:08d}/{Path(path or f'{i:08d}').name}" for i, path in enumerate(paths)]

    def read(row: int) -> bytes:
        image = table[row][columns["image"]]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()

    read.fingerprint = table._fingerprint
    return _finish({"id": ids, "taxon": taxa}, entry), read


READERS = {"folder": read_folder, "synthetic": read_folder, "table": read_table, "hub": read_hub}


def _columns(place: Path | str, columns: dict[str, str], known: Iterable[str]) -> dict[str, str]:
    if missing := [column for column in columns.values() if column not in known]:
        raise StudyError(f"{place} has no column {missing[0]!r}: set entry.columns; it has {', '.join(known)}")
    return columns


def _reader(place: Path, names: pd.Series) -> Read:
    def read(row: int) -> bytes:
        return (place / names[row]).read_bytes()

    def state(name: str) -> tuple[int, int]:
        try:
            found = os.stat(place / name)
        except OSError:  # said when it is read
            return -1, -1
        return found.st_size, found.st_mtime_ns

    read.fingerprint = digest(np.fromiter(map(state, names), np.dtype((np.int64, 2)), len(names)))
    return read


def _finish(rows: Any, entry: CatalogueEntry) -> pd.DataFrame:
    """Add what file names and the entry tell; a time that is unreadable or outside the deployment is unknown."""
    records = pd.DataFrame(rows, dtype=object).reindex(columns=RECORD).astype(object)  # text not copied
    if len(records) and entry.name_pattern and entry.name_pattern.groupindex:
        names = records["id"].astype(str).str.rpartition("/")[2]
        told = names.str.extract(f"^(?:{entry.name_pattern.pattern})")
        if "time_unix" in told:
            told["time"] = pd.to_datetime(pd.to_numeric(told["time_unix"]), unit="s", errors="coerce")
        records.update(told)
    given, read = records["time"], partial(pd.to_datetime, records["time"], utc=True, errors="coerce")
    time = read(format="ISO8601")  # nothing is guessed: days and months would change places
    time = read(format=entry.time_format).fillna(time) if entry.time_format else time
    time = time.dt.tz_localize(None).astype("datetime64[s]")
    if (lost := given.notna() & time.isna()).any():
        print(f"{lost.sum()} of {given.notna().sum()} times cannot be read, the first is {given[lost].iloc[0]!r}")
    if entry.deployed:  # a clock that was never set says 1970, or 2057
        first, last = map(pd.Timestamp, entry.deployed)
        time = time.where(time.between(first, last + pd.Timedelta(days=1)))
    unknown = {"taxon": "", "sample": "", "site": entry.site or "", "instrument": entry.instrument or ""}
    return records.assign(time=time).fillna(unknown).astype(dict.fromkeys(("id", *unknown), str))
