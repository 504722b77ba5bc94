"""The text of the manuscript: no result is typed, and what it cites is made by a notebook."""

import json
import re
from pathlib import Path

import pytest

from plankton_study.report.stored import cited_results

ROOT = Path(__file__).resolve().parents[2]
TEXTS = sorted((ROOT / "paper").glob("*.typ"))
SAVERS = {"figure": "save_figure", "table": "save_table", "number": "save_number"}
# the paper's best probe and resolution, the interval, PlanktonSet 1.0, bounds of measures, an
# example, the rules
MOST_WORDS_OF_ABSTRACT, MOST_WORDS_OF_CONCLUSION = 180, 400
ALLOWED = {"92.13", "16", "95", "1.0", "0", "100", "8", "5", "3", "64"}


def prose() -> str:
    """Return the manuscript without what may hold digits.

    That is comments, formulas, calls, labels, references and sizes of figures.
    """
    text = "".join(path.read_text(encoding="utf-8") for path in TEXTS if path.stem != "style")
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"\$[^$]*\$", "", text)
    return re.sub(r"#?\w+-of\([^)]*\)|<\w+>|@\w+|#import[^\n]*", "", text)


def typed_results(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)) - ALLOWED


def test_the_manuscript_holds_no_typed_result():
    typed = typed_results(prose())
    assert not typed, f"numbers typed into the manuscript: {sorted(typed)}"


def test_a_typed_result_would_be_found():
    assert typed_results(prose() + " The probe reaches 61.4 % accuracy.") == {"61.4"}


def word_count(text: str) -> int:
    """Return the number of words, each cited value counted as two."""
    calls = r"#[\w-]+\((?:[^()]|\([^()]*\))*\)"
    return len(re.sub(calls, "one two", text).replace("#", " ").split())


def test_the_abstract_and_the_conclusions_are_short():
    (abstract,) = re.findall(
        r"abstract: \[\n(.*?)\n  \],\n", (ROOT / "paper/paper.typ").read_text(), re.DOTALL
    )
    for path in (ROOT / "paper").glob("reading*.typ"):
        text = path.read_text(encoding="utf-8")
        (answer,) = re.findall(r"#let answer = \[(.*?)\n?\]\n", text, re.DOTALL)
        assert word_count(abstract) + word_count(answer) <= MOST_WORDS_OF_ABSTRACT, path.name
        conclusion = text.partition("#let conclusion = [")[2]
        assert 0 < word_count(conclusion) <= MOST_WORDS_OF_CONCLUSION, path.name


def lost_semicolons(text: str) -> list[str]:
    """Return calls with a semicolon behind: Typst takes it for the call's end, and prints none."""
    return re.findall(r"#[\w-]+\((?:[^()]|\([^()]*\))*\);", text)


def test_no_semicolon_of_the_manuscript_is_lost():
    assert lost_semicolons('#number-of("taxa"); then') == ['#number-of("taxa");']
    assert not lost_semicolons('#number-of("taxa")\\; then')
    lost = {path.name: lost_semicolons(path.read_text(encoding="utf-8")) for path in TEXTS}
    assert not any(lost.values()), lost


@pytest.fixture(scope="module")
def code() -> str:
    """The code of all notebooks."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    books = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    cells = [cell for book in books for cell in book["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def names_made(code: str, kind: str) -> tuple[set[str], list[str]]:
    """Return the names under which notebooks save a kind of result.

    Returns:
        The plain names, and patterns of names that a loop fills in.
    """
    plain = re.findall(rf'\.{SAVERS[kind]}\(\s*"(\w+)"', code)
    patterns = re.findall(rf'\.{SAVERS[kind]}\(\s*f"([^"]+)"', code)
    return set(plain), [re.sub(r"\{\w+\}", r"\\w+", pattern) for pattern in patterns]


@pytest.mark.parametrize("kind", SAVERS)
def test_every_cited_result_is_made_by_a_notebook(code, kind):
    plain, patterns = names_made(code, kind)
    cited = {name for cited_kind, name in cited_results() if cited_kind == kind}
    assert cited
    for name in cited - plain:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_files_of_the_package_that_texts_name_exist():
    texts = [*TEXTS, *sorted((ROOT / "paper").glob("*_card.md"))]
    named = {
        path for text in texts for path in re.findall(r"plankton_study/[\w./]+", text.read_text())
    }
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
