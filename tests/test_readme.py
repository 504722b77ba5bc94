"""README and the guide: short, true, and their examples run. Profiles: test_example_profiles.py."""

import re
from pathlib import Path

import examples
import pytest
from examples import README, ROOT

MOST_WORDS = 1_200
TEXTS = [ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md"))]
TEXTS += [ROOT / "tests" / "benchmarks" / "README.md"]


def test_readme_is_short():
    assert len(README.split()) <= MOST_WORDS


def test_readme_begins_with_the_question_a_picture_and_the_answer():
    order = ["encoder for", "examples.png", "layers_and_noise.png", "**The answer", "make paper"]
    places = [README.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_to_files(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    broken = [link for link in links if not is_there(path.parent, link)]
    assert broken == []


def is_there(folder: Path, link: str) -> bool:
    return link.startswith("https://") or (folder / link).exists()


def test_every_target_that_is_shown_exists():
    targets = set(re.findall(r"\bmake ([a-z]+)\b", README + examples.guide_text()))
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"paper", "lab", "test", "pdf", "publish", "compare", "site"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", rules, re.M)] == []


def test_stored_numbers_are_read_as_the_guide_shows(monkeypatch):
    (code,) = [
        block for block in examples.blocks(examples.guide_text(), "python") if "run." in block
    ]
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {"Path": Path}
    *statements, expression = code.strip().splitlines()
    exec("\n".join(statements), names)
    scores = eval(expression, names)
    assert scores.loc["diffusion", "low"] < scores.loc["diffusion", "value"]
    assert scores.loc["diffusion", "value"] < scores.loc["diffusion", "high"]


def test_the_software_is_cited_as_citation_file_says():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "2601.13416" in citation
    assert "2601.13416" in README
