"""Notebooks: their skeleton, the length of cells, and that a checked cell really is checked."""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from examples import ROOT, exercises

from plankton_study.run.profile import read_profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.stem[0].isdigit()]
CHECKED = {"nbval-check-output", "keep_output"}
MOST_COLUMNS, MEDIAN_LINES = 88, 5


def name_of(path: Path) -> str:
    return path.stem


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tags_of(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def words_of(path: Path) -> str:
    cells = nbformat.read(path, 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_the_skeleton(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    title = notebook.cells[0].source
    number = path.stem[:2] if path in NUMBERED else "Guide"
    assert title.startswith(f"# {number} · ")
    assert "?*" in title, "a question in italics follows the title"
    words = words_of(path)
    assert "**Change this.**" in words
    assert "**Next:**" in words
    (parameters,) = [cell for cell in notebook.cells if "parameters" in tags_of(cell)]
    assert set(re.findall(r"^(\w+) = None", parameters.source, re.M)) == {"profile", "seed"}


def test_most_notebooks_ask_to_change_a_setting():
    assert len(exercises()) >= 11


@pytest.mark.parametrize(("name", "profile"), exercises().items())
def test_the_setting_of_an_exercise_is_a_valid_profile(name, profile, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(profile, encoding="utf-8")
    changed = read_profile(str(file)).model_dump(exclude={"name", "title", "extends"})
    assert changed != read_profile("demo").model_dump(exclude={"name", "title", "extends"})


@pytest.mark.parametrize("path", NUMBERED, ids=name_of)
def test_a_notebook_says_what_its_run_shows(path):
    if path.stem not in ("00_one_image", "16_verdicts", "18_look_for_yourself"):
        assert "What this run shows" in words_of(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+\.(?:ipynb|md|py|toml))\)", words_of(path))
    assert links
    assert all((path.parent / link).is_file() for link in links)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_cells_are_short(path):
    sources = [cell.source for cell in code_cells(path)]
    assert statistics.median(len(source.splitlines()) for source in sources) <= MEDIAN_LINES
    lines = [line for source in sources for line in source.splitlines()]
    assert [line for line in lines if len(line) > MOST_COLUMNS] == []


@pytest.mark.parametrize("path", NUMBERED, ids=name_of)
def test_words_come_before_code(path):
    """Not more than four cells of code follow one another without a word between them."""
    longest = run = 0
    for cell in nbformat.read(path, 4).cells:
        run = run + 1 if cell.cell_type == "code" else 0
        longest = max(longest, run)
    assert longest <= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_checked_cells_are_committed_with_their_output_and_others_without(path):
    checked = 0
    for cell in code_cells(path):
        tags = tags_of(cell)
        assert not tags & CHECKED or tags >= CHECKED, "both tags or none"
        assert bool(cell.outputs) == (tags >= CHECKED), cell.source
        checked += tags >= CHECKED
    assert checked >= 1


def test_a_planted_wrong_value_fails(tmp_path):
    """The committed output of 01's first checked cell is changed by one digit."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_data.ipynb", 4)
    checked = [cell for cell in notebook.cells if tags_of(cell) >= CHECKED]
    output = checked[0].outputs[0]
    notebook.cells = notebook.cells[: notebook.cells.index(checked[0]) + 1]
    nbformat.write(notebook, tmp_path / "right.ipynb")
    right = output["text"] if "text" in output else output["data"]["text/plain"]
    wrong = re.sub(r"\d(?!.*\d)", lambda digit: str((int(digit[0]) + 1) % 10), right, count=1)
    assert wrong != right
    if "text" in output:
        output["text"] = wrong
    else:
        output["data"]["text/plain"] = wrong
    nbformat.write(notebook, tmp_path / "wrong.ipynb")

    answers = {name: run_nbval(tmp_path, f"{name}.ipynb") for name in ("right", "wrong")}
    assert answers["right"].returncode == 0, answers["right"].stdout[-3000:]
    assert answers["wrong"].returncode == 1
    assert "FAILED wrong.ipynb::Cell" in answers["wrong"].stdout
    assert "mismatch" in answers["wrong"].stdout


def run_nbval(folder: Path, name: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["-p", "no:cacheprovider", "-q", name]
    environment = {
        **os.environ,
        "PLANKTON_PROFILE": "smoke",
        "PLANKTON_SEED": "0",
        "PLANKTON_DATA": "",
        "PLANKTON_CACHE": str(folder / "cache"),
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
