"""The folders of the study, and files that are written atomically."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from plankton_study.run.errors import StudyError

PACKAGE = Path(__file__).resolve().parents[1]
#: the root of the repository; the working directory if the package was installed without one
ROOT = PACKAGE.parent if (PACKAGE.parent / "paper").is_dir() else Path.cwd()

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically; text is encoded as UTF-8.

    Raises:
        StudyError: the disk is full or cannot be written.
    """
    if isinstance(content, str):
        content = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise disk_error(error, path) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys; NumPy scalars become numbers, paths become text."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=_to_json)
    write_file(path, text + "\n")


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def disk_error(error: OSError, path: Path) -> StudyError:
    """Return what a user can do about an error of `DISK_ERRORS`.

    Args:
        error: from a full or read-only disk.
        path: what was being written.
    """
    return StudyError(
        f"{path} could not be written ({error.strerror}): "
        "free some space, or set PLANKTON_CACHE to another folder"
    )


def require_space(folder: Path, size: int) -> None:
    """Check that a folder has room for `size` bytes in total, including the files it already holds.

    Writing to a memory-mapped file on a full disk would crash the process without a message.

    Raises:
        StudyError: the disk has less free space.
    """
    used = sum(512 * file.stat().st_blocks for file in folder.iterdir())
    free = shutil.disk_usage(folder).free + used
    if free < size:
        reason = f"no space left: {size:,} bytes needed, {free:,} free"
        raise disk_error(OSError(errno.ENOSPC, reason), folder)
