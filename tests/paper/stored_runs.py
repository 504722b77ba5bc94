"""Copies of the published demonstration, for tests that change stored results."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from plankton_study.report.stored import StoredRun

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "paper" / "published" / "demo"
VERDICTS = "16_verdicts.ipynb"
#: of a run, what `make compare` reads
NUMBERS_AND_TABLES = ("numbers", "tables", "values", "provenance", "joined")

# the programs that lie beside the manuscript
sys.path.insert(0, str(ROOT / "paper"))
agreement, build, pages, publishing = map(
    importlib.import_module, ("agreement", "build", "pages", "publishing")
)


def copy_run(target: Path, parts: Iterable[str] = NUMBERS_AND_TABLES) -> StoredRun:
    """Copy parts of the published demonstration to a folder, all of them writable."""
    for part in parts:
        shutil.copytree(PUBLISHED / part, target / part)
    return StoredRun(target)


def copy_manuscript(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Copy the manuscript and what README needs, and let the programs take it for their own.

    Returns the copy's paper folder. It holds no results; the executed notebooks that a run must
    have are those of the published demonstration.
    """
    unused = shutil.ignore_patterns("published", "results", "site", "__pycache__")
    paper = Path(shutil.copytree(ROOT / "paper", folder / "paper", ignore=unused))
    (folder / "notebooks").mkdir()
    for path in pages.notebooks_of(StoredRun(PUBLISHED)):
        (folder / "notebooks" / path.name).touch()
    for program in (build, pages, publishing):
        patch.setattr(program, "ROOT", folder)
    for program in (build, pages):
        patch.setattr(program, "PAPER", paper)
    patch.setattr(build, "README", folder / "README.md")
    return paper


def change_json(path: Path, **changes: Any) -> None:
    """Write other values into a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def change_provenance(paths: Iterable[Path], **changes: Any) -> None:
    """Write other facts into the provenance of results."""
    for path in paths:
        made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        change_json(path, provenance=made | changes)
