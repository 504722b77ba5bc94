"""The cache: each costly thing lies in a folder named by the hash of what made it, and is whole or absent."""

import ast
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from plankton_study.profile import PACKAGE, StudyError
from plankton_study.study import ALONE, Study


def digest(*parts: Any) -> str:
    """Return 20 hex digits that name JSON values, bytes or NumPy arrays."""
    total = hashlib.sha256()
    for part in parts:
        if hasattr(part, "tobytes"):
            part = f"{part.dtype}{part.shape}".encode() + part.tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=str).encode()
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:20]


def _syntax(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):  # a constant alone, as a docstring is, does nothing
            node.body = [b for b in body if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))]
    return ast.dump(tree)


# Of the code that runs, not of what an editor makes of the files meanwhile.
CODE = {file.stem: digest(_syntax(file.read_text(encoding="utf-8"))) for file in PACKAGE.glob("*.py")}
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "kornia", "pytorch-metric-learning")
VERSIONS = {name: version(name) for name in (*LIBRARIES, "numpy", "scikit-learn", "pillow")}


def code_digest(modules: Iterable[str]) -> str:
    """Return the hash of package modules' syntax trees without docstrings and comments, and of the main libraries.

    A reworded comment never retrains a model; a changed statement or a new version of a library always does.
    """
    return digest({name: CODE[name] for name in modules}, VERSIONS)


def keep(
    study: Study, stage: str, what: dict, code: Iterable[str], make: Callable[[Path], None], resume: bool = False
) -> Path:
    """Return the finished folder of a stage, `<cache>/<stage>/<key>`, making it first if the cache does not hold it.

    Args:
        study: gives the cache, and the processes that work together.
        stage: a folder name, such as "denoiser".
        what: JSON values that determine the result and its key, together with the package modules named in `code`;
            device, threads and number of processes are only recorded, in its `origin.json`.
        make: fills an empty folder; the first process of an `accelerate launch` calls it while the others wait.
        resume: the folder may hold the `checkpoint.pt` that a killed call left, and every process calls `make`.

    Raises:
        StudyError: the disk is full or cannot be written.
    """
    folder, team = study.cache / stage / digest(stage, what, code_digest(code)), study.team
    if team.num_processes == 1 and folder.is_dir():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    lock = FileLock(str(folder) + ".lock") if team.is_main_process else nullcontext()
    team.wait_for_everyone()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock:  # two notebooks may want the same thing: one makes it
            team.wait_for_everyone()
            if not folder.is_dir():
                if team.is_main_process:
                    if partial.exists() and not resume:
                        shutil.rmtree(partial)
                    partial.mkdir(exist_ok=True)
                    need_room(partial, 1 << 20)
                team.wait_for_everyone()
                started = time.monotonic()
                if resume:
                    make(partial)
                elif team.is_main_process:
                    study.__dict__["team"] = ALONE  # for whatever `make` keeps: the others wait here
                    try:
                        make(partial)
                    finally:
                        study.__dict__["team"] = team
                team.wait_for_everyone()
                if team.is_main_process:
                    (partial / "checkpoint.pt").unlink(missing_ok=True)  # only now is all saved that it was for
                    seconds = round(time.monotonic() - started, 2)
                    origin = {"stage": stage, "what": what, "device": study.device, "threads": study.threads}
                    origin |= {"processes": team.num_processes, "seconds": seconds}
                    write_json(partial / "origin.json", origin)
                    partial.rename(folder)
            team.wait_for_everyone()
            return folder
    except OSError as error:
        raise disk_error(error, folder) from error


def computed(study: Study, stage: str, what: dict, code: Iterable[str], compute: Callable[[], dict]) -> dict[str, Any]:
    """Return what `compute` returns, from the cache once it was computed; the other arguments are those of `keep`.

    Its values may be NumPy arrays, tables (with columns of one type each) and JSON values.
    """

    def make(folder: Path) -> None:
        rest = compute()
        for name in [name for name, value in rest.items() if isinstance(value, pd.DataFrame)]:
            rest.pop(name).to_parquet(folder / f"{name}.parquet")
        np.savez(folder / "arrays.npz", **{k: rest.pop(k) for k in list(rest) if isinstance(rest[k], np.ndarray)})
        write_json(folder / "rest.json", rest)

    folder = keep(study, stage, what, [*code, "store"], make)
    with np.load(folder / "arrays.npz") as arrays:
        found = json.loads((folder / "rest.json").read_text(encoding="utf-8")) | dict(arrays)
    return found | {file.stem: pd.read_parquet(file) for file in folder.glob("*.parquet")}


def disk_error(error: OSError, path: Path) -> Exception:
    """Translate a full, read-only or foreign disk into a StudyError; return any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
        return error
    return StudyError(f"{path} was not written ({error.strerror}): make room or set PLANKTON_CACHE to another folder")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is whole or absent, with sorted keys."""
    plain = lambda v: v.item() if isinstance(v, np.generic) else str(v)  # noqa: E731
    write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=plain) + "\n")


def write(path: Path, content: str | bytes) -> None:
    """Write a file, text in UTF-8, that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error


def need_room(folder: Path, size: int) -> None:
    """Raise StudyError unless a folder can hold `size` bytes: a memory-mapped file would only crash on a full disk."""
    if (free := shutil.disk_usage(folder).free + 512 * sum(f.stat().st_blocks for f in folder.iterdir())) < size:
        raise disk_error(OSError(errno.ENOSPC, f"no space left: {size} bytes needed, {free} free"), folder)
