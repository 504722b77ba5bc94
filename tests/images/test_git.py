"""Image sets from git: one commit of a local repository, fetched as from a public one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from plankton_study.images.catalogue import catalogue_entry
from plankton_study.images.sources import git
from plankton_study.images.sources.locate import locate
from plankton_study.run.errors import StudyError

FILES = 12


def run_git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path) -> tuple[str, str]:
    """The address of a repository, and the commit before its last one."""
    folder = tmp_path / "published repository"
    for number in range(FILES):
        file = folder / "data" / ("disc", "bar")[number % 2] / f"{number:02d} ü.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 100)
    (folder / "notebook.ipynb").write_text("{}")
    run_git(folder, "init", "-q")
    # as public servers are set up
    run_git(folder, "config", "uploadpack.allowFilter", "true")
    run_git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "-m", "images")
    commit = run_git(folder, "rev-parse", "HEAD")
    (folder / "data" / "disc" / "00 ü.png").unlink()
    run_git(folder, "commit", "-q", "-a", "-m", "later")
    return folder.as_uri(), commit


def images_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def expected() -> dict[str, bytes]:
    return {
        f"{('disc', 'bar')[number % 2]}/{number:02d} ü.png": bytes([number]) * 100
        for number in range(FILES)
    }


@pytest.mark.parametrize("allows_filter", [True, False])
def test_the_files_of_a_commit_are_fetched_and_nothing_else(repository, tmp_path, allows_filter):
    url, commit = repository
    if not allows_filter:
        path = tmp_path / "published repository"
        run_git(path, "config", "--unset", "uploadpack.allowFilter")
    changes = {"git": url, "commit": commit, "subfolder": "data"}
    entry = catalogue_entry("mine", changes)
    place = locate("mine", entry, None, tmp_path / "downloads")
    assert images_in(place) == expected()
    assert not list((tmp_path / "downloads").rglob("notebook.ipynb"))
    assert not list((tmp_path / "downloads").glob("*/.git"))
    run_git(tmp_path, "init", "-q", "gone")
    (tmp_path / "published repository").rename(tmp_path / "moved")
    assert locate("mine", entry, None, tmp_path / "downloads") == place  # nothing is fetched again


def test_an_interrupted_fetch_goes_on_with_the_files_that_are_missing(
    repository, tmp_path, monkeypatch
):
    url, commit = repository
    monkeypatch.setattr(git, "FILES_AT_ONCE", 5)
    monkeypatch.setattr(git, "SECONDS_TO_FINISH", 0.2)
    batches = []
    fetch_batch = git._fetch_batch

    def interrupted(url, commit, names, folder):
        if len(batches) == 1:
            raise KeyboardInterrupt
        batches.append(names)
        fetch_batch(url, commit, names, folder)

    target = tmp_path / "downloads" / "mine"
    monkeypatch.setattr(git, "_fetch_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        git.fetch_commit(url, commit, "data", target)
    assert not target.exists()
    # as a power cut leaves it: a lock, and a file of the next batch that is not complete
    (partial,) = target.parent.glob(".mine.*")
    (partial / ".git" / "index.lock").touch()
    cut_off = sorted(set(expected()) - {name.removeprefix("data/") for name in batches[0]})[0]
    (partial / "data" / cut_off).parent.mkdir(parents=True, exist_ok=True)
    (partial / "data" / cut_off).write_bytes(b"half")

    def counted(url, commit, names, folder):
        batches.append(names)
        fetch_batch(url, commit, names, folder)

    monkeypatch.setattr(git, "_fetch_batch", counted)
    git.fetch_commit(url, commit, "data", target)
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert images_in(target / "data") == expected()


def test_a_killed_fetch_leaves_no_set_and_can_be_repeated(repository, tmp_path):
    url, commit = repository
    target = tmp_path / "downloads" / "mine"
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from plankton_study.images.sources import git\n"
        "git.FILES_AT_ONCE = 1\n"
        "fetch_batch = git._fetch_batch\n"
        "def killed_later(*arguments):\n"
        "    fetch_batch(*arguments)\n"
        "    Path('one').touch()\n"
        "git._fetch_batch = killed_later\n"
        f"git.fetch_commit({url!r}, {commit!r}, 'data', Path({str(target)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    while not (tmp_path / "one").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    git.fetch_commit(url, commit, "data", target)
    assert images_in(target / "data") == expected()


def test_files_that_were_changed_on_the_way_are_refused(repository, tmp_path):
    url, commit = repository
    blob = run_git(tmp_path / "published repository", "rev-parse", f"{commit}:data/disc/00 ü.png")
    stored = tmp_path / "published repository" / ".git" / "objects" / blob[:2] / blob[2:]
    other = run_git(tmp_path / "published repository", "rev-parse", f"{commit}:data/bar/01 ü.png")
    stored.chmod(0o644)
    stored.write_bytes((stored.parent.parent / other[:2] / other[2:]).read_bytes())
    with pytest.raises(StudyError, match="could not be fetched"):
        git.fetch_commit(url, commit, "data", tmp_path / "downloads" / "mine")
    assert not (tmp_path / "downloads" / "mine").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": "0" * 40}, "the commit 0{40} could not be fetched from .*: check"),
        ({"git": "file:///no/such/place"}, "could not be fetched from file:///no/such/place"),
        ({"subfolder": "elsewhere"}, "has no folder 'elsewhere'"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(repository, tmp_path, change, message):
    url, commit = repository
    entry = catalogue_entry("mine", {"git": url, "commit": commit, "subfolder": "data"} | change)
    with pytest.raises(StudyError, match=message) as error:
        locate("mine", entry, None, tmp_path / "downloads")
    assert "\n" not in str(error.value)
    assert "put them at <folder>/mine" in str(error.value)


def test_without_git_the_set_can_be_put_there_by_hand(repository, tmp_path, monkeypatch):
    url, commit = repository
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="git is needed"):
        git.fetch_commit(url, commit, None, tmp_path / "mine")
