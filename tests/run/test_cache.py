"""The cache: a folder appears whole or not at all, and its name says what made it."""

import ast
import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plankton_study.run import cache
from plankton_study.run.errors import StudyError

CODE = ["run.cache"]


def test_a_result_is_made_once_and_then_read(make_study):
    study, calls = make_study(), []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("1")

    first = cache.keep(study, "thing", {"a": 1}, CODE, make)
    assert cache.keep(study, "thing", {"a": 1}, CODE, make) == first and len(calls) == 1
    assert cache.keep(study, "thing", {"a": 2}, CODE, make) != first
    assert (first / "x").read_text() == "1"


def test_the_origin_is_recorded(make_study):
    study = make_study()
    folder = cache.keep(study, "thing", {"a": 1}, CODE, lambda folder: None)
    origin = cache.read_json(folder / "origin.json")
    assert origin["stage"] == "thing" and origin["inputs"] == {"a": 1}
    assert (origin["device"], origin["threads"], origin["processes"]) == ("cpu", study.threads, 1)


def test_an_error_leaves_nothing_to_be_read(make_study):
    study, remains = make_study(), []

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.keep(study, "thing", {}, CODE, fail)
    cache.keep(study, "thing", {}, CODE, lambda folder: remains.extend(folder.iterdir()))
    assert remains == []


def test_remains_are_kept_for_a_stage_that_resumes(make_study):
    study = make_study()

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep(study, "thing", {}, CODE, fail, resume=True)
    folder = cache.keep(study, "thing", {}, CODE, lambda folder: None, resume=True)
    assert (folder / "half").read_text() == "x"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_or_forbidden_disk_is_one_sentence(make_study, code):
    reason = os.strerror(code)

    def fail(folder: Path) -> None:
        raise OSError(code, reason)

    expected = rf"could not be written \({reason}\).*PLANKTON_CACHE"
    with pytest.raises(StudyError, match=expected):
        cache.keep(make_study(), "thing", {}, CODE, fail)


def make_slowly(folder: Path) -> None:
    time.sleep(0.5)
    (folder / "process").write_text(str(os.getpid()))


def keep_and_tell(study, answers) -> None:
    folder = cache.keep(study, "thing", {}, CODE, make_slowly)
    answers.put((folder / "process").read_text())


def test_two_processes_make_it_once(make_study):
    fork = multiprocessing.get_context("fork")
    study, answers = make_study(), fork.Queue()
    workers = [fork.Process(target=keep_and_tell, args=(study, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    makers = {answers.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(makers) == 1


SLOW_SCRIPT = """
import sys, time
from plankton_study.run.cache import keep
from plankton_study.run.study import load_study

def make(folder):
    (folder / "half").write_text("x")
    print("started", flush=True)
    time.sleep(60)

keep(load_study(sys.argv[1], 0), "thing", {}, ["run.cache"], make)
"""


def test_a_killed_run_leaves_no_folder_and_no_lock(make_study, tmp_path):
    study = make_study()
    command = [sys.executable, "-c", SLOW_SCRIPT, str(tmp_path / "test.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "started"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folders = [path for path in (study.cache / "thing").iterdir() if path.is_dir()]
    assert [folder.suffix for folder in folders] == [".partial"]

    def make(folder: Path) -> None:
        (folder / "whole").write_text("y")

    folder = cache.keep(study, "thing", {}, CODE, make)
    assert not (folder / "half").exists() and (folder / "whole").exists()


# --- keys


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_the_digest_does_not_depend_on_the_order_of_keys(inputs):
    assert cache.digest(inputs) == cache.digest(dict(reversed(inputs.items())))


def test_the_digest_sees_values_shapes_and_types():
    zeros = np.zeros((2, 3), np.float32)
    arrays = (zeros, zeros.T, zeros.astype(np.int32), zeros + 1)
    assert len({cache.digest(array) for array in arrays}) == len(arrays)


def test_an_array_of_objects_has_no_digest():
    with pytest.raises(TypeError, match="Python objects"):
        cache.digest(np.array(["copepod", None], dtype=object))


COMPUTATION = '''
"""Compute."""

def double(x):
    """Return twice a number."""
    if x < 0:  # no fish has that
        raise ValueError(f"{x} is negative: give a number above zero")
    try:
        return 2 * x
    except TypeError as error:
        raise ValueError("not a number") from error
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# no fish has that", "# a length"),
        ("  # no fish has that", ""),
        ('"""Compute."""', '"""A module."""'),
        ('"""Return twice a number."""', '"""Return the number twice."""'),
        ('    """Return twice a number."""\n', ""),
        ("{x} is negative: give a number above zero", "a negative number, {x:.2f}"),
        ('f"{x} is negative: give a number above zero"', '"negative"'),
        ('"not a number"', '"need a number, " "not this"'),
        ("2 * x", "(2 * x)"),
    ],
)
def test_words_and_layout_do_not_change_what_is_computed(old, new):
    assert old in COMPUTATION
    changed = cache.computing_syntax(COMPUTATION.replace(old, new))
    assert changed == cache.computing_syntax(COMPUTATION)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * x", "3 * x"),
        ("x < 0", "x <= 0"),
        ("def double(x)", "def double(x, y=1)"),
        ('raise ValueError(f"', 'raise KeyError(f"'),
        ('ValueError("not', 'TypeError("not'),
        ("from error", "from None"),
        ("except TypeError", "except OverflowError"),
        ("    try:", "    x += 1\n    try:"),
        ('"not a number") from error', '"not a number") from error\n    print("done")'),
    ],
)
def test_a_statement_or_a_type_of_exception_changes_what_is_computed(old, new):
    assert old in COMPUTATION
    changed = cache.computing_syntax(COMPUTATION.replace(old, new))
    assert changed != cache.computing_syntax(COMPUTATION)


def test_all_versions_of_python_agree_on_what_is_computed():
    """So results of another machine can be adopted; `ast.dump` differs between versions."""
    text = "class A:\n    def f(self, x: int = 1) -> str:\n        return f'{x:>{3}} {g()!r}'\n"
    assert cache.digest(cache.computing_syntax(text)) == "1a0fa51ec85ebe0117a4"


def test_an_error_message_outside_a_raise_counts_as_a_statement():
    """Only what a `raise` says is left out: an assigned text may become a label or a key."""
    text = 'message = "one"\nprint(message)\n'
    changed = cache.computing_syntax(text.replace("one", "two"))
    assert changed != cache.computing_syntax(text)


def test_a_new_version_of_a_library_is_another_key(monkeypatch):
    before = cache.code_digest(CODE)
    monkeypatch.setitem(cache.VERSIONS, "torch", "0.0")
    assert cache.code_digest(CODE) != before


#: libraries that show or store, but compute no number
CANNOT_COMPUTE = {
    "IPython",
    "anyascii",
    "filelock",
    "huggingface_hub",
    "libifcb",  # finds images, whose digests are part of the key
    "matplotlib",
    "pydantic",
    "safetensors",
    "seaborn",
    "threadpoolctl",
    "tqdm",
}


def test_every_library_that_computes_is_part_of_the_key():
    imported = set()
    for source in cache.SOURCES.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    libraries = imported - set(sys.stdlib_module_names) - {"plankton_study"} - CANNOT_COMPUTE
    names = packages_distributions()
    assert libraries
    missing = {
        name
        for name in libraries
        if not {each.lower() for each in names[name]} & set(cache.LIBRARIES)
    }
    assert missing == set(), "name them in LIBRARIES, or here if they compute nothing"


# --- values


def test_arrays_tables_and_json_values_are_kept(tmp_path):
    table = pd.DataFrame(
        {"taxon": ["disc", "bar"], "count": [3, 4], "share": [0.25, np.nan]}, index=["a", "b"]
    )
    table["time"] = pd.to_datetime(["2021-06-01 03:05:07", None])
    values = {
        "rows": np.arange(5),
        "half": np.ones((2, 3), np.float16),
        "nothing": np.zeros((0, 4), bool),
        "words": np.array(["disc", "méduse"]),
        "table": table,
        "about": {"classes": ["disc", "bar"], "share": 0.5, "note": None, "is_done": True},
        "number": np.float64(0.1),
    }
    cache.store_values(tmp_path, values)
    loaded = cache.load_values(tmp_path)
    assert set(loaded) == set(values)
    for name in ("rows", "half", "nothing", "words"):
        np.testing.assert_array_equal(loaded[name], values[name], strict=True)
    pd.testing.assert_frame_equal(loaded["table"], table)
    assert loaded["about"] == values["about"]
    assert loaded["number"] == 0.1 and isinstance(loaded["number"], float)


def test_values_are_stored_and_read_without_pickle(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is pickled")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    values = {"rows": np.arange(5), "table": pd.DataFrame({"x": [1, 2]}), "about": [1, "a"]}
    cache.store_values(tmp_path, values)
    assert cache.load_values(tmp_path)["rows"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(os.listdir(tmp_path)) == ["arrays.npz", "rest.json", "table.parquet"]
    with zipfile.ZipFile(tmp_path / "arrays.npz") as arrays:
        assert arrays.namelist() == ["array_rows.npy"]


def test_an_array_of_objects_is_refused(tmp_path):
    """Only pickle could store it, and whoever can write into the cache could then run code."""
    with pytest.raises(ValueError, match="taxa is an array of Python objects"):
        cache.store_values(tmp_path, {"taxa": np.array(["disc", None], dtype=object)})


@pytest.mark.parametrize("name", ["file", "args", "kwds", "allow_pickle"])
def test_a_value_may_have_any_name(tmp_path, name):
    """A part of a split may be called "file", which is an argument of NumPy's function."""
    cache.store_values(tmp_path, {name: np.arange(3)})
    assert cache.load_values(tmp_path)[name].tolist() == [0, 1, 2]


def test_computed_values_are_computed_once(make_study):
    study, calls = make_study(), []

    def compute() -> dict:
        calls.append(1)
        return {"rows": np.arange(3), "table": pd.DataFrame({"x": [1.5]}), "about": {"a": 1}}

    first = cache.computed(study, "thing", {"b": 2}, CODE, compute)
    second = cache.computed(study, "thing", {"b": 2}, CODE, compute)
    assert len(calls) == 1
    for values in (first, second):
        assert values["rows"].tolist() == [0, 1, 2] and values["about"] == {"a": 1}
        assert values["table"]["x"].tolist() == [1.5]
