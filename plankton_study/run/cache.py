"""The cache: each expensive result is stored in a folder named by a hash.

The hash covers the inputs, the code that computes the result, and the versions of the libraries.
A folder appears complete or not at all.
"""

import ast
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from plankton_study.run.errors import StudyError
from plankton_study.run.files import (
    DISK_ERRORS,
    PACKAGE,
    disk_error,
    read_json,
    require_space,
    write_json,
)
from plankton_study.run.machine import Processes, processes, working_alone
from plankton_study.run.study import Study

#: every library that computes a number or decodes an image
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "kornia",
    "pytorch-metric-learning",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "statsmodels",
    "quapy",
    "datasets",
    "pillow",
)
VERSIONS = {library: version(library) for library in LIBRARIES}

#: "models.training" → its source code at import time; later edits to the file have no effect
SOURCES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file.read_text(encoding="utf-8")
    for file in sorted(PACKAGE.rglob("*.py"))
}
CHECKPOINT = "checkpoint.pt"
#: increase it when the format of `store_values` changes, so that older results are not misread
STORED_AS = 1


def digest(*parts: Any) -> str:
    """Return 20 hex digits that identify JSON values, bytes or NumPy arrays.

    Raises:
        TypeError: an array holds Python objects, whose bytes are only addresses.
    """
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(_to_bytes(part)).digest())
    return total.hexdigest()[:20]


def _to_bytes(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if hasattr(part, "tobytes"):
        if part.dtype.hasobject:
            raise TypeError("an array of Python objects has no digest: convert it to a list")
        return f"{part.dtype}{part.shape}".encode() + part.tobytes()
    return json.dumps(part, sort_keys=True, default=str).encode()


def code_digest(modules: Iterable[str]) -> str:
    """Return the hash of modules of this package and of the versions of the main libraries.

    Changed comments, docstrings and error messages leave the hash unchanged; changed statements
    do not.

    Args:
        modules: names inside the package, such as "models.training".
    """
    return digest(module_digests(modules), VERSIONS)


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """Return the hash of what each module of this package computes."""
    return {name: module_digest(name) for name in modules}


@cache
def module_digest(name: str) -> str:
    """Return the hash of what a module of this package computes."""
    return digest(computing_syntax(SOURCES[name]))


def computing_syntax(source: str) -> str:
    """Return the syntax tree of a source as text, without docstrings and error messages.

    It is the same under all versions of Python that this study supports.
    """
    tree = _WithoutWords().visit(ast.parse(source))
    for node in ast.walk(tree):
        if not getattr(node, "type_params", True):
            del node.type_params  # Python 3.11 has none
    return ast.dump(tree, **SHOW_ALL)


#: Python 3.13 would leave out empty fields, which older ones show
SHOW_ALL: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}


class _WithoutWords(ast.NodeTransformer):
    """Removes what cannot change a result: docstrings and error messages."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node


def keep(
    study: Study,
    stage: str,
    inputs: dict[str, Any],
    code: Iterable[str],
    make: Callable[[Path], None],
    resume: bool = False,
) -> Path:
    """Return the finished folder `<cache>/<stage>/<key>`; make it first if it is not there.

    Args:
        study: provides the cache folder.
        stage: a folder name, such as "denoiser".
        inputs: JSON values that determine the result. Together with `code` they form the key.
            Device, threads and number of processes are recorded in `origin.json`, but are not
            part of the key.
        code: the modules of this package that turn the inputs into the result.
        make: fills an empty folder. Under `accelerate launch` the first process calls it while
            the others wait.
        resume: whether `make` can continue from the files of an interrupted call; every process
            then calls it.

    Raises:
        StudyError: the disk is full or cannot be written.
    """
    folder = study.cache / stage / digest(stage, inputs, code_digest(code))
    team = processes()
    if team.count == 1 and folder.is_dir():
        return folder
    team.wait()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, team):
            team.wait()
            if not folder.is_dir():
                seconds = _make_partial(folder, make, resume, team)
                if team.is_first:
                    _finish(study, folder, stage, inputs, code, seconds, team)
            team.wait()
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise disk_error(error, Path(error.filename or folder)) from error
        raise
    return folder


def _lock(folder: Path, team: Processes) -> Any:
    """Lock a folder: if two notebooks need the same result, one computes it, the other waits."""
    if team.is_first:
        return FileLock(f"{folder}.lock")
    return nullcontext()


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _make_partial(
    folder: Path, make: Callable[[Path], None], resume: bool, team: Processes
) -> float:
    """Fill the partial folder; return the time it took, in seconds."""
    partial = _partial(folder)
    if team.is_first:
        if partial.exists() and not resume:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        require_space(partial, 1 << 20)
    team.wait()
    started = time.monotonic()
    if resume:
        make(partial)
    elif team.is_first:
        with working_alone():
            make(partial)
    team.wait()
    return time.monotonic() - started


def _finish(
    study: Study,
    folder: Path,
    stage: str,
    inputs: dict[str, Any],
    code: Iterable[str],
    seconds: float,
    team: Processes,
) -> None:
    """Record the origin of the result and give the folder its final name."""
    partial = _partial(folder)
    (partial / CHECKPOINT).unlink(missing_ok=True)
    origin = {
        "stage": stage,
        "inputs": inputs,
        "code": module_digests(code),
        "libraries": VERSIONS,
        "device": study.device,
        "threads": study.threads,
        "processes": team.count,
        "seconds": round(seconds, 2),
    }
    write_json(partial / "origin.json", origin)
    partial.rename(folder)


#: stages whose inputs name no other result, so that their key here can be computed
ADOPTABLE = ("denoiser", "encoder", "splits", "state")


def adopt(study: Study, folder: Path) -> list[str]:
    """Copy finished networks and splits of another machine into the cache of a study.

    Their key here differs, since it covers the versions of the libraries; `origin.json` keeps those
    of the machine that made them. What the cache already holds is left as it is.

    Args:
        study: provides the cache folder.
        folder: a cache folder, or a part of one: it holds `<stage>/<key>/origin.json`.

    Returns:
        `<stage>/<key>` of every result that was copied.

    Raises:
        StudyError: the folder holds no finished networks or splits, or one that other code made;
            then nothing is copied.
    """
    origins = [
        file for stage in ADOPTABLE for file in sorted(folder.glob(f"{stage}/*/origin.json"))
    ]
    if not origins:
        raise StudyError(
            f"{folder} holds no finished networks: name the cache folder of the other machine, "
            "or a folder with some of its subfolders, such as denoiser"
        )
    places = {file.parent: _place_here(study, file) for file in origins}
    return [
        os.fspath(place.relative_to(study.cache))
        for source, place in places.items()
        if _copy_result(source, place)
    ]


def _place_here(study: Study, file: Path) -> Path:
    """Return the folder that a result of another machine has in the cache of a study.

    Args:
        study: provides the cache folder.
        file: origin.json of the result.
    """
    origin = read_json(file)
    made_by = origin.get("code", {})
    own = module_digests(set(made_by) & set(SOURCES))
    differing = [name for name in made_by if made_by[name] != own.get(name)]
    if not made_by or differing:
        what = f"other code ({', '.join(differing)})" if differing else "an older version"
        raise StudyError(
            f"{file.parent} was made by {what}: "
            "use the same revision of this package on both machines"
        )
    key = digest(origin["stage"], origin["inputs"], code_digest(made_by))
    return study.cache / origin["stage"] / key


def _copy_result(source: Path, place: Path) -> bool:
    """Copy a finished result, unless it is there; return whether it was copied."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):  # it may be in the making here
        if place.exists():
            return False
        shutil.rmtree(_partial(place), ignore_errors=True)
        copy = place.with_name(f"{place.name}.copied")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        copy.rename(place)
    return True


def computed(
    study: Study,
    stage: str,
    inputs: dict[str, Any],
    code: Iterable[str],
    compute: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Return the result of `compute`; later calls read it from the cache.

    Args:
        study, stage, inputs, code: as for `keep`.
        compute: returns a dictionary of NumPy arrays, tables and JSON values. Nothing is pickled,
            so an array or the column of a table must be of one type.

    Raises:
        ValueError: an array holds Python objects.
        StudyError: the disk is full or cannot be written.
    """
    inputs = inputs | {"stored_as": STORED_AS}
    folder = keep(study, stage, inputs, code, lambda folder: store_values(folder, compute()))
    return load_values(folder)


def store_values(folder: Path, values: dict[str, Any]) -> None:
    """Store arrays, tables and JSON values in a folder; see `load_values`.

    Raises:
        ValueError: an array holds Python objects, which only pickle could store.
    """
    arrays, others = {}, {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            _require_plain_values(name, value)
            arrays[f"{ARRAY_PREFIX}{name}"] = value
        elif isinstance(value, pd.DataFrame):
            value.to_parquet(folder / f"{name}.parquet")
        else:
            others[name] = value
    np.savez(folder / "arrays.npz", **arrays)
    write_json(folder / "rest.json", others)


#: avoids clashes with the arguments of `numpy.savez`, such as "file"
ARRAY_PREFIX = "array_"


def _require_plain_values(name: str, array: np.ndarray) -> None:
    if array.dtype.hasobject:
        raise ValueError(
            f"{name} is an array of Python objects, which cannot be stored: "
            "convert it to numbers, Booleans or strings"
        )


def load_values(folder: Path) -> dict[str, Any]:
    """Return the values that `store_values` wrote to a folder."""
    values = read_json(folder / "rest.json")
    with np.load(folder / "arrays.npz") as arrays:
        values |= {name.removeprefix(ARRAY_PREFIX): arrays[name] for name in arrays}
    for file in folder.glob("*.parquet"):
        values[file.stem] = pd.read_parquet(file)
    return values
