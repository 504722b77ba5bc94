"""Notebooks: their skeleton, and that a checked cell really is checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKED = {"nbval-check-output", "keep_output"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_skeleton(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    text = "\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    assert re.match(rf"# {path.stem[:2]} · ", book.cells[0].source) and "?*" in book.cells[0].source
    assert "**Change this.**" in text and "**Next:**" in text
    (parameters,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    assert set(re.findall(r"^(\w+) = None", parameters.source, re.M)) == {"profile", "seed"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short_and_define_nothing(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 16 and not re.search(r"^(def|class) ", cell.source, re.M), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_checked_cells_are_committed_with_their_output_and_others_without(path):
    checked = 0
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            assert not tags & CHECKED or tags >= CHECKED, "both tags or none"
            assert bool(cell.outputs) == (tags >= CHECKED), cell.source
            checked += tags >= CHECKED
    assert checked >= 1


def test_a_planted_wrong_value_fails(tmp_path):
    """The committed output of 01's first checked cell is changed by one digit; nbval must notice."""
    book = nbformat.read(ROOT / "notebooks" / "01_data.ipynb", 4)
    cell = next(c for c in book.cells if set(c.metadata.get("tags", [])) >= CHECKED)
    planted = re.sub(r"(\d+) images", lambda m: f"{int(m[1]) + 1} images", cell.outputs[0].text, count=1)
    assert planted != cell.outputs[0].text
    cell.outputs[0].text = planted
    keep = book.cells.index(cell) + 1
    book.cells = book.cells[:keep]
    results = {}
    for name, text in (("right", None), ("wrong", planted)):
        if text is None:
            cell.outputs[0].text = re.sub(r"(\d+) images", lambda m: f"{int(m[1]) - 1} images", planted, count=1)
        else:
            cell.outputs[0].text = text
        nbformat.write(book, tmp_path / f"{name}.ipynb")
        command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q"]
        env = {**os.environ, "PLANKTON_PROFILE": "smoke", "PLANKTON_SEED": "0", "PLANKTON_DATA": ""}
        results[name] = subprocess.run(
            [*command, f"{name}.ipynb"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
    assert results["right"].returncode == 0, results["right"].stdout[-3000:]
    assert results["wrong"].returncode == 1 and "FAILED wrong.ipynb::Cell" in results["wrong"].stdout
    assert "mismatch" in results["wrong"].stdout
