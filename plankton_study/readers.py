"""Readers: a folder, a table or a Hugging Face data set becomes records and a way to read each file.

Every reader returns a table with the columns of `RECORD`, and a function from a row's number to its file's bytes, whose
attribute `fingerprint` changes when the files do.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from plankton_study import sources
from plankton_study.profile import StudyError, reason
from plankton_study.store import digest

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
RECORD = ("id", "taxon", "time", "sample", "site", "instrument")  # what is known before decoding
Read = Callable[[int], bytes]


def read_folder(place: Path, entry: sources.CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read `<place>/<taxon>/<file>`; deeper folders belong to the taxon of the first level.

    Args:
        place: the folder (a zip of one has been unpacked by `sources.locate`).
        entry: gives the pattern of file names that holds time, sample, site and instrument.

    Returns:
        The records, sorted by id, and the function that reads one of them.
    """
    if place.is_file():
        raise StudyError(
            f'{place} is a file, not a folder of class folders: for a table say reader = "table" in the entry'
        )
    files = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    files = [p for p in files if len(p.relative_to(place).parts) > 1]
    empty = sorted({p.name for p in place.iterdir() if p.is_dir()} - {p.relative_to(place).parts[0] for p in files})
    if empty:
        print(f"{place}: class folders without any image are left out: {', '.join(empty)}")
    ids = [p.relative_to(place) for p in files]
    records = _finish({"id": [i.as_posix() for i in ids], "taxon": [i.parts[0] for i in ids]}, entry)
    return records, _reader(files)


def read_table(place: Path, entry: sources.CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read a CSV or TSV table that names image files, such as an EcoTaxa export.

    Args:
        place: the table, or a folder that holds exactly one .tsv or .csv file; image paths are relative to it.
        entry: `columns` says which column is `image` and `taxon`, and optionally `date`, `time`, `sample`, `site`,
            `instrument`. EcoTaxa's second row of types ([t], [f]) is skipped.

    Raises:
        StudyError: no table or several, a missing column, or one image with two taxa.
    """
    tables = [place] if place.is_file() else sorted([*place.glob("*.tsv"), *place.glob("*.csv")])
    if len(tables) != 1:
        raise StudyError(f"{place} must hold exactly one .tsv or .csv table, not {len(tables)}: move the others away")
    try:
        table = pd.read_csv(tables[0], sep=None, engine="python", dtype=str, encoding="utf-8-sig")
    except (ValueError, csv.Error) as error:
        raise StudyError(f"{tables[0]} is no readable table in UTF-8 ({reason(error)}): export it again") from None
    columns = {"image": "img_file_name", "taxon": "object_annotation_category", **entry.columns}
    missing = [c for c in columns.values() if c not in table]
    if missing:
        raise StudyError(
            f"{tables[0]} has no column {missing[0]!r}: set entry.columns in the profile; it has {', '.join(table)}"
        )
    table = table[~table[columns["image"]].isin(["[t]", "[f]"])].reset_index(drop=True)
    if len(twice := table[table[columns["image"]].duplicated()]):
        raise StudyError(
            f"{tables[0]} names {twice[columns['image']].iloc[0]!r} more than once: one image, one row, one taxon"
        )
    records = pd.DataFrame({"id": table[columns["image"]], **{k: table[c] for k, c in columns.items() if k != "image"}})
    if "date" in columns:  # EcoTaxa keeps the date (YYYYMMDD) and the time of day (HHMMSS) apart
        clock = table[columns["time"]].fillna("0").str.zfill(6) if "time" in columns else "000000"
        records["time"] = pd.to_datetime(records["date"] + clock, format="%Y%m%d%H%M%S", errors="coerce")
    files = [tables[0].parent / name for name in records["id"]]
    return _finish(records, entry), _reader(files)


def read_hub(place: Path | str, entry: sources.CatalogueEntry) -> tuple[pd.DataFrame, Read]:
    """Read a Hugging Face data set with an image and a label column.

    Args:
        place: a folder of parquet files, or a Hub id when the profile says `hub = true`.
        entry: `columns` may rename `image` and `taxon` (default "image" and "label").

    Raises:
        StudyError: the data set cannot be loaded or lacks a column.
    """
    import datasets
    import pyarrow.compute

    columns = {"image": "image", "taxon": "label", **entry.columns}
    try:
        if Path(place).is_dir():
            parts = datasets.load_dataset("parquet", data_files=sorted(str(p) for p in Path(place).rglob("*.parquet")))
        else:
            parts = datasets.load_dataset(str(place))
    except Exception as error:  # a dozen kinds: network, schema, access, disk
        raise StudyError(
            f"the data set {place} could not be loaded ({reason(error)}): check the id or folder and the network"
        ) from None
    table = datasets.concatenate_datasets(list(parts.values()))
    for column in columns.values():
        if column not in table.column_names:
            raise StudyError(
                f"{place} has no column {column!r}: set entry.columns; it has {', '.join(table.column_names)}"
            )
    table = table.cast_column(columns["image"], datasets.Image(decode=False))
    labels = table.features[columns["taxon"]]
    taxa = [labels.int2str(v) if hasattr(labels, "int2str") else str(v) for v in table[columns["taxon"]]]
    paths = pyarrow.compute.struct_field(table.data.column(columns["image"]), "path").to_pylist()
    names = [Path(p).name if p else f"{i:08d}" for i, p in enumerate(paths)]
    records = _finish({"id": [f"{i:08d}/{n}" for i, n in enumerate(names)], "taxon": taxa}, entry)

    def read(row: int) -> bytes:
        image = table[row][columns["image"]]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()

    read.fingerprint = table._fingerprint
    return records, read


READERS = {"folder": read_folder, "synthetic": read_folder, "table": read_table, "hub": read_hub}


def _reader(files: list[Path]) -> Read:
    def read(row: int) -> bytes:
        return files[row].read_bytes()

    def state(path: Path) -> tuple[int, int]:
        try:
            status = path.stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns

    read.fingerprint = digest([state(p) for p in files])
    return read


def _finish(rows: Any, entry: sources.CatalogueEntry) -> pd.DataFrame:
    """Add what file names and the entry tell; a time that is unreadable or outside the deployment is unknown."""
    records = pd.DataFrame(rows).reindex(columns=RECORD).astype({key: object for key in RECORD if key != "time"})
    if len(records) and entry.name_pattern and entry.name_pattern.groupindex:
        names = records["id"].astype(str).str.rpartition("/")[2]
        told = names.str.extract(f"^(?:{entry.name_pattern.pattern})")
        if "time_unix" in told:
            told["time"] = pd.to_datetime(pd.to_numeric(told["time_unix"]), unit="s", errors="coerce")
        elif "time" in told:
            exact = pd.to_datetime(told["time"], format=entry.time_format, errors="coerce")
            told["time"] = exact.fillna(pd.to_datetime(told["time"], format="ISO8601", errors="coerce"))
        for key in set(told) & set(RECORD):
            records[key] = told[key].where(told[key].notna(), records[key])
    time = pd.to_datetime(records["time"], utc=True, errors="coerce").dt.tz_localize(None).astype("datetime64[s]")
    if entry.deployed:  # a clock that was never set says 1970, or 2057
        first, last = pd.Timestamp(entry.deployed[0]), pd.Timestamp(entry.deployed[1]) + pd.Timedelta(days=1)
        time = time.where(time.between(first, last))
    records["time"] = time
    for key, default in (("site", entry.site), ("instrument", entry.instrument), ("sample", ""), ("taxon", "")):
        records[key] = records[key].fillna(default or "").astype(str)
    return records
