"""Files appear whole or not at all, and a full disk is said in one sentence."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from plankton_study.run import files
from plankton_study.run.errors import StudyError


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_a_full_or_forbidden_disk_is_one_sentence(code, reason):
    error = files.disk_error(OSError(code, os.strerror(code)), Path("/x/y"))
    assert isinstance(error, StudyError)
    assert str(error).startswith(f"/x/y could not be written ({reason})")
    assert "PLANKTON_CACHE" in str(error) and "\n" not in str(error)


def test_another_error_of_the_system_stays_as_it_is(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_file(folder, "text")


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(StudyError, match="no space left"):
        files.require_space(tmp_path, 1 << 60)


def test_what_a_killed_run_has_left_counts_as_space(tmp_path, monkeypatch):
    with open(tmp_path / "half", "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())  # blocks are counted once they are allocated
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    files.require_space(tmp_path, 1 << 20)
    with pytest.raises(StudyError, match="no space left"):
        files.require_space(tmp_path, 1 << 21)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    files.write_file(path, "old é")
    assert path.read_bytes() == "old é".encode()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StudyError, match=r"file\.txt could not be written"):
        files.write_file(path, b"new")
    assert path.read_text(encoding="utf-8") == "old é"


def test_json_has_sorted_keys_and_plain_numbers(tmp_path):
    value = {"b": np.float32(0.5), "a": np.int64(3), "path": Path("x/y"), "name": "méduse"}
    files.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"') and "méduse" in text and text.endswith("}\n")
    expected = {"a": 3, "b": 0.5, "name": "méduse", "path": "x/y"}
    assert files.read_json(tmp_path / "x.json") == expected
