"""Records: one row for each image of a set, with what is known about it before it is decoded."""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.said import say
from plankton_study.images.reading.times import parse_times
from plankton_study.run.cache import digest
from plankton_study.run.errors import StudyError

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
#: columns of the records before images are decoded
RECORD_COLUMNS = ("id", "taxon", "time", "sample", "site", "instrument", "object")
#: hidden files, thumbnails made by file servers, and what macOS adds to archives
HIDDEN = re.compile(r"(^|/)([.@]|__MACOSX(/|$))")
#: numbers of names that are printed as examples
EXAMPLES = 3


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


def files_on_disk(place: Path, names: pd.Series) -> ImageFiles:
    """Return the named files of a folder, with a fingerprint of their sizes and times."""

    def read(row: int) -> bytes:
        return (place / names[row]).read_bytes()

    return ImageFiles(read, digest(file_states(place / name for name in names)))


def file_states(files: Iterable[Path]) -> np.ndarray:
    """Return size and time of change of each file, (n, 2) int64."""
    states = [_file_state(file) for file in files]
    return np.array(states, np.int64).reshape(-1, 2)


def _file_state(path: Path) -> tuple[int, int]:
    try:
        state = os.stat(path)
    except OSError:  # a missing file is reported when it is read
        return -1, -1
    return state.st_size, state.st_mtime_ns


def image_names(folder: Path, pattern: str = "**/*") -> list[str]:
    """Return the paths of the images in a folder, relative to it, folder by folder.

    They are strings, since Path objects take ten times as much memory.
    """
    names = []
    for path in folder.glob(pattern):
        if path.suffix.lower() in IMAGE_ENDINGS:
            name = path.relative_to(folder).as_posix()
            if not HIDDEN.search(name) and path.is_file():
                names.append(name)
    _refuse_other_encodings(folder, names)
    return sorted(names, key=_folder_by_folder)


def _refuse_other_encodings(folder: Path, names: list[str]) -> None:
    """Refuse names that an old archive wrote in another encoding than UTF-8."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="replace").decode()
            raise StudyError(
                f"{folder} holds a name that is not in UTF-8, {shown!r}: rename it, for example "
                "with `convmv -f latin1 -t utf8 -r --notest`"
            ) from None


def _folder_by_folder(name: str) -> str:
    return name.replace("/", "\0")


def complete_records(rows: Any, entry: CatalogueEntry) -> pd.DataFrame:
    """Return records with all columns, filled from the rows, the file names and the entry.

    Args:
        rows: a table or a dictionary of columns, with at least `id`.
        entry: provides the pattern of names and times, and defaults.
    """
    records = pd.DataFrame(rows, dtype=object)
    records = records.reindex(columns=RECORD_COLUMNS).astype(object)
    has_groups = entry.name_pattern is not None and entry.name_pattern.groupindex
    if len(records) and has_groups:
        records.update(_parse_names(records["id"], entry.name_pattern))
    records["time"] = parse_times(records["time"], entry)
    defaults = {
        "taxon": "",
        "sample": "",
        "site": entry.site or "",
        "instrument": entry.instrument or "",
        "object": "",
    }
    records = records.fillna(defaults).astype(dict.fromkeys(("id", *defaults), str))
    for column in ("sample", "site", "instrument", "object"):
        records[column] = records[column].str.strip()
    taxa = clean_taxa(records["taxon"])
    records["taxon"] = taxa.mask(taxa.isin(entry.unlabelled), "")
    _say_missing_names(taxa, entry)
    return records


def _say_missing_names(taxa: pd.Series, entry: CatalogueEntry) -> None:
    """Say which names in the entry no image has, since they may be misspelt."""
    present = set(taxa)
    for key in ("unlabelled", "not_taxa"):
        missing = [name for name in getattr(entry, key) if name not in present]
        if missing:
            say(f"no image stands under {', '.join(map(repr, missing))}, named in entry.{key}")


def _parse_names(ids: pd.Series, pattern: re.Pattern[str]) -> pd.DataFrame:
    """Match a pattern against file names; return one column for each of its named groups."""
    file_names = ids.astype(str).str.rpartition("/")[2]
    matches = [pattern.match(name) for name in file_names]
    groups = [match.groupdict() if match else {} for match in matches]
    parts = pd.DataFrame(groups, ids.index, columns=list(pattern.groupindex), dtype=object)
    if "time_unix" in parts:
        seconds = pd.to_numeric(parts["time_unix"], errors="coerce")
        parts["time"] = pd.to_datetime(seconds, unit="s", errors="coerce")
    return parts


# --- names of taxa


def clean_name(taxon: str) -> str:
    """Return the name of a taxon without blanks at its ends, and with composed accents."""
    return unicodedata.normalize("NFC", taxon).strip()


def clean_taxa(taxa: pd.Series) -> pd.Series:
    """Return the names of taxa, each by `clean_name`.

    It says which names become one by that, and which differ so little that they look the same:
    these stay apart.
    """
    given = list(dict.fromkeys(taxa))
    clean = {name: clean_name(name) for name in given}
    _say_twins(
        "are one taxon, since only blanks or accents are written in another way", given, clean
    )
    kept = [name for name in dict.fromkeys(clean.values()) if name]
    alike = {name: re.sub(r"[\s_-]+", " ", name).casefold() for name in kept}
    _say_twins("are different taxa, although only case, blanks or underscores differ", kept, alike)
    return taxa.map(clean)


def _say_twins(what: str, names: list[str], key: dict[str, str]) -> None:
    """Say the groups of names that have the same key."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key[name], []).append(name)
    for twins in groups.values():
        if len(twins) > 1:
            say(f"{' and '.join(map(repr, twins))} {what}")


def number_of(count: int, noun: str) -> str:
    """Return a number with its noun: "1 row", "2 rows"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def examples(names: list[str]) -> str:
    """Return the first few names as text."""
    ending = ", …" if len(names) > EXAMPLES else ""
    return ", ".join(map(repr, names[:EXAMPLES])) + ending
