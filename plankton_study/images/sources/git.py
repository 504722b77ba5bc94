"""Image sets in public git repositories, at one commit, which git itself verifies."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from plankton_study.run.errors import StudyError
from plankton_study.run.progress import progress

#: files that are fetched at a time; after an interruption the next call goes on with the others
FILES_AT_ONCE = 500
SECONDS_TO_FINISH = 10
#: no questions on the terminal, and nothing of the user's settings or of the repository is run
SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "gc.auto=0")
SAFE_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def fetch_commit(url: str, commit: str, subfolder: str | None, target: Path) -> Path:
    """Fetch the files of one commit, without its history, into a folder.

    The commit is named by its hash, which covers every file, so git refuses any other content.
    Files arrive in batches, as far as the server allows this. The folder appears when it is
    complete.

    Args:
        url: address of the repository.
        commit: the full hash of the commit.
        subfolder: the folder whose files are needed; None: all.
        target: the folder to create.

    Returns:
        `target`.

    Raises:
        StudyError: git is not installed, the repository cannot be reached, or it lacks the commit
            or the folder.
    """
    if shutil.which("git") is None:
        raise StudyError(f"git is needed to fetch {url}: install it, or put the set into DATA")
    partial = target.with_name(f".{target.name}.{commit[:12]}.git")
    if not _holds(partial, commit):
        _fetch_names(url, commit, partial)
    _fetch_files(url, commit, subfolder, partial)
    shutil.rmtree(partial / ".git")
    return partial.replace(target)


def _git(folder: Path, *arguments: str, given: str | None = None) -> str:
    """Run git in a folder, and return what it prints.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    command = ["git", *SAFE, "-C", str(folder), *arguments]
    environment = os.environ | SAFE_ENVIRONMENT
    run = subprocess.run(
        command, input=given, env=environment, text=True, capture_output=True, check=True
    )
    return run.stdout


def _holds(folder: Path, commit: str) -> bool:
    """Return whether an earlier, interrupted call has fetched the names of the files."""
    try:
        _git(folder, "cat-file", "-e", f"{commit}^{{tree}}")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    return (folder / ".git").is_dir()


def _fetch_names(url: str, commit: str, folder: Path) -> None:
    """Fetch the commit and the names of its files, without the files if the server allows it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _git(folder, "init", "--quiet")
        _git(folder, "remote", "add", "origin", url)
        _git(folder, "config", "remote.origin.promisor", "true")
        _git(folder, "config", "remote.origin.partialclonefilter", "blob:none")
        _git(folder, "fetch", "--depth=1", "--filter=blob:none", "--no-tags", "origin", commit)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StudyError(
            f"the commit {commit} could not be fetched from {url} ({_reason(error)}): "
            "check the network, the address and the commit"
        ) from None


def _fetch_files(url: str, commit: str, subfolder: str | None, folder: Path) -> None:
    wanted = _names(_git(folder, "ls-tree", "-r", "-z", "--name-only", commit, subfolder or "."))
    if not wanted:
        raise StudyError(f"the commit {commit} of {url} has no folder {subfolder!r}: correct it")
    present = _written_files(folder)
    missing = [name for name in wanted if name not in present]
    done = len(wanted) - len(missing)
    with progress(f"fetching files of {url}", len(wanted), done) as bar:
        for start in range(0, len(missing), FILES_AT_ONCE):
            batch = missing[start : start + FILES_AT_ONCE]
            _fetch_batch(url, commit, batch, folder)
            bar.update(len(batch))


def _written_files(folder: Path) -> set[str]:
    """Return the files that earlier calls have written.

    They are those of the index, which git writes last: a file of a batch that was cut off may be
    incomplete, and is not among them.
    """
    _unlock(folder)
    return set(_names(_git(folder, "ls-files", "-z")))


def _unlock(folder: Path) -> None:
    """Remove the locks that a killed git has left.

    A git whose caller was killed may still be running: it gets some seconds to finish.
    """
    lock = folder / ".git" / "index.lock"
    given_up = time.monotonic() + SECONDS_TO_FINISH
    while lock.exists() and time.monotonic() < given_up:
        time.sleep(0.1)
    lock.unlink(missing_ok=True)


def _names(listed: str) -> list[str]:
    """Return names that git separates by zeros."""
    return [name for name in listed.split("\0") if name]


def _fetch_batch(url: str, commit: str, names: list[str], folder: Path) -> None:
    """Write some files of the commit; git fetches those that it lacks in one go."""
    options = ("checkout", commit, "--pathspec-from-file=-", "--pathspec-file-nul")
    literally = ("--literal-pathspecs", *options)
    try:
        _git(folder, *literally, given="\0".join(names))
    except subprocess.CalledProcessError as error:
        raise StudyError(
            f"files of {url} could not be fetched ({_reason(error)}): "
            "run the same command again to continue"
        ) from None


def _reason(error: subprocess.CalledProcessError) -> str:
    """Return the last line that git printed."""
    lines = error.stderr.strip().splitlines()
    return lines[-1] if lines else "git failed"
