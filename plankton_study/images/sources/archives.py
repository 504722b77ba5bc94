"""Unpacking archives: zip files, as Windows writes them too, wheels and tar files."""

import re
import shutil
import tarfile
import zipfile
from pathlib import Path

from plankton_study.run.errors import StudyError

UNPACKABLE_ENDINGS = (".zip", ".whl", ".tar", ".gz", ".tgz", ".bz2", ".xz")
#: in a zip, the system that wrote a member; there some programs write backslashes
MADE_ON_WINDOWS = 0
#: the flag of a member whose name is in UTF-8; without it zipfile reads code page 437
NAME_IN_UTF8 = 0x800
#: an absolute path, or one that leaves its folder
UNSAFE_PATH = re.compile(r"^[/\\]|(^|[/\\])\.\.([/\\]|$)")


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
            elif not member.flag_bits & NAME_IN_UTF8:
                member.filename = _name_in_utf8(member.filename)
        file.extractall(folder, members)


def _name_in_utf8(name: str) -> str:
    """Return a name that is in UTF-8 without saying so, as macOS writes it; others unchanged."""
    try:
        return name.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return name


def _unpack_inner_zip(folder: Path) -> None:
    """Replace a zip that is all that a folder holds by its content, as often as that is so."""
    inside = list(folder.glob("[!._]*"))
    while len(inside) == 1 and inside[0].suffix.lower() == ".zip":
        inner = inside[0].rename(folder.with_name(f"{folder.name}.inner"))
        _unpack_zip(inner, folder)
        inner.unlink()
        inside = list(folder.glob("[!._]*"))
