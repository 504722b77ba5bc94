"""The cache: a folder appears whole or not at all, and its name says what made it."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plankton_study import store
from plankton_study.profile import StudyError


def test_made_once_then_found(make_study):
    study, calls = make_study(), []

    def make(folder):
        calls.append(folder)
        (folder / "x").write_text("1")

    first = store.keep(study, "thing", {"a": 1}, ["store"], make)
    assert store.keep(study, "thing", {"a": 1}, ["store"], make) == first and len(calls) == 1
    assert store.keep(study, "thing", {"a": 2}, ["store"], make) != first
    assert (first / "origin.json").is_file()


def test_an_error_leaves_nothing_to_be_read(make_study):
    study = make_study()

    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.keep(study, "thing", {}, ["store"], fail)
    seen = []
    store.keep(study, "thing", {}, ["store"], lambda folder: seen.extend(folder.iterdir()))
    assert seen == []


def test_remains_are_kept_for_a_stage_that_resumes(make_study):
    study = make_study()

    def fail(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.keep(study, "thing", {}, ["store"], fail, resume=True)
    folder = store.keep(study, "thing", {}, ["store"], lambda folder: None, resume=True)
    assert (folder / "half").read_text() == "x"


@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "space"), (errno.EACCES, "written")])
def test_a_full_or_forbidden_disk_is_one_sentence(make_study, code, word):
    def fail(folder):
        raise OSError(code, os.strerror(code))

    with pytest.raises(StudyError, match=word):
        store.keep(make_study(), "thing", {}, ["store"], fail)


def _slowly(folder):
    time.sleep(0.5)
    (folder / "pid").write_text(str(os.getpid()))


def _keep(study, answers):
    answers.put(str(store.keep(study, "thing", {}, ["store"], _slowly)))


def test_two_processes_make_it_once(make_study):
    study, answers = make_study(), multiprocessing.get_context("fork").Queue()
    workers = [
        multiprocessing.get_context("fork").Process(target=_keep, args=(study, answers))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    folders = {answers.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(folders) == 1


def test_sigkill_leaves_no_folder_and_no_lock(make_study, tmp_path):
    study = make_study()
    script = (
        "import sys, time; from plankton_study import store, study\n"
        f"s = study.load({str(tmp_path / 'test.toml')!r}, 0)\n"
        "def make(folder):\n    (folder / 'half').write_text('x'); print('started', flush=True); time.sleep(60)\n"
        "store.keep(s, 'thing', {}, ['store'], make)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "started"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not [
        p for p in (study.cache / "thing").iterdir() if p.is_dir() and p.suffix != ".partial"
    ]
    folder = store.keep(
        study, "thing", {}, ["store"], lambda folder: (folder / "whole").write_text("y")
    )
    assert not (folder / "half").exists() and (folder / "whole").exists()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_the_digest_does_not_depend_on_the_order_of_keys(what):
    assert store.digest(what) == store.digest(dict(reversed(what.items())))


def test_the_digest_sees_values_shapes_and_types():
    zeros = np.zeros((2, 3), np.float32)
    assert len({store.digest(a) for a in (zeros, zeros.T, zeros.astype(np.int32), zeros + 1)}) == 4


def test_comments_and_docstrings_do_not_change_the_code_digest():
    plain = store._syntax("def f(x):\n    return x + 1\n")
    assert plain == store._syntax('def f(x):\n    """Say."""\n    # why\n    return x + 1\n')
    assert plain != store._syntax("def f(x):\n    return x + 2\n")


def test_a_new_version_of_a_library_is_another_key(monkeypatch):
    before = store.code_digest(["store"])
    monkeypatch.setitem(store.VERSIONS, "torch", "0.0")
    assert store.code_digest(["store"]) != before


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(StudyError, match="no space left"):
        store.need_room(tmp_path, 1 << 60)


def test_what_a_killed_run_left_is_room(tmp_path, monkeypatch):
    with open(tmp_path / "half", "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())  # blocks are counted once they are allocated
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    store.need_room(tmp_path, 1 << 20)
    with pytest.raises(StudyError, match="no space left"):
        store.need_room(tmp_path, 1 << 21)
