"""The examples that README and the guide show, as a reader copies them."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def guide_text() -> str:
    """Return the words of the guide notebook."""
    cells = nbformat.read(ROOT / "notebooks" / "guide_your_own_study.ipynb", 4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


PROFILES = blocks(README, "toml") + blocks(guide_text(), "toml")
EXERCISE = re.compile(r"[Ss]et\s+`([^`]+)`(?:\s+and\s+`([^`]+)`)?\s+under\s+`(\[[^`]+\])`")


def exercises() -> dict[str, str]:
    """Return notebook → the profile that its exercise asks the reader to write."""
    profiles = {}
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, 4).cells
        (text,) = [cell.source for cell in cells if "**Change this.**" in cell.source]
        for first, second, table in EXERCISE.findall(text):
            profiles[path.stem] = f'extends = "demo"\n\n{table}\n{first}\n{second}\n'
        for block in blocks(text, "toml"):
            profiles[path.stem] = block
    return profiles
