"""Hugging Face datasets: parquet files, class folders, or a Hub id."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.records import ImageFiles, complete_records
from plankton_study.images.reading.said import say
from plankton_study.images.reading.table import check_columns
from plankton_study.images.reading.times import join_date_and_time
from plankton_study.run.errors import StudyError, first_sentence

COLUMNS = {"image": "image", "taxon": "label"}
NO_LABEL = (None, -1)


def read_hub(place: Path | str, entry: CatalogueEntry) -> tuple[pd.DataFrame, ImageFiles]:
    """Read a Hugging Face dataset.

    Args:
        place: a folder or a parquet file, or a Hub id if the profile has `hub = true`.
        entry: `entry.columns` may rename the columns "image" and "label", which are found in any
            case of letters, and name those of date, time, sample, site, instrument and object.
            Images with the label null or -1 are unlabelled.

    Raises:
        StudyError: the dataset cannot be loaded, is empty, or lacks a column.
    """
    import datasets

    table = _load(place)
    columns = _present_columns(COLUMNS, table.column_names) | entry.columns
    check_columns(place, columns.values(), table.column_names)
    image_column = columns["image"]
    table = table.cast_column(image_column, datasets.Image(decode=False))
    taxa = _labels(place, table, columns["taxon"])
    paths = table.data.flatten().column(f"{image_column}.path").to_pylist()
    ids = [_id(row, path) for row, path in enumerate(paths)]

    def read(row: int) -> bytes:
        image = table[row][image_column]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise OSError("the table holds no image there")
        if image["bytes"] is not None:
            return image["bytes"]
        return Path(image["path"]).read_bytes()

    rows = {"id": ids, "taxon": taxa} | _further_columns(table, columns, entry)
    return complete_records(rows, entry), ImageFiles(read, table._fingerprint)


def _further_columns(
    table: Any, columns: dict[str, str], entry: CatalogueEntry
) -> dict[str, pd.Series]:
    """Return the time, sample, site, instrument and object of each row, as far as named."""
    texts = {
        key: pd.Series([_text(value) for value in table[column]], dtype=object)
        for key, column in columns.items()
        if key not in COLUMNS
    }
    dates = texts.pop("date", None)
    if dates is not None:
        texts["time"] = join_date_and_time(dates, texts.get("time"), entry.time_format)
    elif "time" in texts:
        texts["time"] = texts["time"].where(texts["time"].ne(""))
    return texts


def _text(value: Any) -> str:
    """Return the text of a value; that of a time is in ISO 8601."""
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, dt.date) else str(value).strip()


def _present_columns(usual: dict[str, str], present: list[str]) -> dict[str, str]:
    """Return the usual columns as they are written, if only the case of letters differs."""
    by_lower_case = {name.casefold(): name for name in present}
    return {key: by_lower_case.get(name, name) for key, name in usual.items()}


def _load(place: Path | str) -> Any:
    """Return all splits of a Hugging Face dataset as one table."""
    import datasets
    import pyarrow.parquet

    is_file = Path(place).is_file()
    files = [str(place)] if is_file else sorted(map(str, Path(place).rglob("*.parquet")))
    try:
        if files and sum(pyarrow.parquet.read_metadata(file).num_rows for file in files) == 0:
            raise StudyError(f"{place} is an empty table: export it again, with its images")
        if files:
            splits = datasets.load_dataset("parquet", data_files=files)
        else:
            splits = datasets.load_dataset(str(place))
        return datasets.concatenate_datasets(list(splits.values()))
    except StudyError:
        raise
    except Exception as error:  # network, schema, access and disk raise many kinds of errors
        raise StudyError(
            f"{place} could not be loaded ({first_sentence(error)}): check its name and the network"
        ) from None


def _labels(place: Path | str, table: Any, column: str) -> list[str]:
    import datasets

    feature = table.features[column]
    has_names = isinstance(feature, datasets.ClassLabel)
    labels = list(table[column])
    taxa = []
    for label in labels:
        if label in NO_LABEL:
            taxa.append("")
        elif has_names:
            taxa.append(feature.int2str(label))
        else:
            taxa.append(str(label))
    if not has_names and any(isinstance(label, int | np.integer) for label in labels):
        say(f"{place}: the labels are numbers without names, so taxa are called 0, 1, 2 …")
    return taxa


def _id(row: int, path: str | None) -> str:
    number = f"{row:08d}"
    return f"{number}/{Path(path or number).name}"
