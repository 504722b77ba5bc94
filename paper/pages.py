"""The results as static pages that need nothing from outside: executed notebooks, claims, tables, cards, PDF."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from compare import AGAIN, read_table

from plankton_study.profile import ROOT, StudyError
from plankton_study.report import SYNTHETIC

PAPER = ROOT / "paper"
MAIN_FIGURES = ("layers_and_noise", "balanced_differences")
SHOWN_APART = ("ledger", "balanced", "origin")  # tables
CARDS = ("model_card", "data_card")


def build(folder: Path, site: Path) -> Path:
    """Write the pages of a results folder; return the front page.

    Raises:
        StudyError: the folder lacks its PDF, or the executed notebooks.
    """
    from nbconvert import HTMLExporter  # a second, which the PDF need not wait for
    from nbconvert.filters import markdown2html

    for needed in (folder / "paper.pdf", folder / "notebooks"):
        if not needed.exists():
            raise StudyError(f"{folder} lacks {needed.name}: {AGAIN}")
    beside = site.with_name(f".{site.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(folder / "figures", beside / "figures", ignore=shutil.ignore_patterns("*.svg", ".*"))
    shutil.copy(folder / "paper.pdf", beside)
    books = [_about(path) for path in sorted((folder / "notebooks").glob("[0-9]*.ipynb")) if "failed" not in path.name]
    known = {"pages": books, "synthetic": synthetic(folder), "highlight": _highlight()}
    page = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined).from_string(
        (PAPER / "page.html").read_text(encoding="utf-8")
    )
    exporter = HTMLExporter(template_name="basic")
    for book in books:
        body, _ = exporter.from_notebook_node(book["notebook"])
        body = re.sub(r'(href="[^":/]+)\.ipynb"', r'\1.html"', body)  # of one notebook to another
        _write(beside, book["name"], page.render(known, title=book["title"], body=body))
    for name in CARDS:
        body = markdown2html(card(folder, name))
        _write(beside, name, page.render(known, title=name.replace("_", " ").capitalize(), body=body))
    _write(beside, "index", page.render(known, title="plankton_study", body="", **_front(folder)))
    shutil.rmtree(site, ignore_errors=True)
    return beside.replace(site) / "index.html"


def card(folder: Path, name: str) -> str:
    """Return paper/<name>.md filled in with the results of a folder: {{ number("...") }} and {{ table("...") }}."""

    def number(wanted: str) -> str:
        entry = stored_number(folder, wanted)
        return f"{entry['text']} {entry['unit']}".strip()

    def table(wanted: str) -> str:
        return markdown_table(read_table(folder / "tables" / f"{wanted}.csv"))

    text = (PAPER / f"{name}.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    facts = json.loads((folder / "provenance" / "table_origin.json").read_text(encoding="utf-8"))["provenance"]
    return environment.from_string(text).render(number=number, table=table, run=facts, synthetic=synthetic(folder))


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def caption(folder: Path, kind: str, name: str) -> str:
    """Return the caption that a figure or table was made with."""
    return json.loads((folder / "provenance" / f"{kind}_{name}.json").read_text(encoding="utf-8"))["caption"]


def synthetic(folder: Path) -> bool:
    """Say whether the results are of drawn organisms."""
    return SYNTHETIC in caption(folder, "table", "ledger")


def cost(folder: Path) -> str:
    """Say what training a run's networks cost."""
    names = ("networks_trained", "training_time", "machine")
    number, took, machine = (stored_number(folder, name)["text"] for name in names)
    return f"training its {number} networks took {took} ({machine})"


def stored_number(folder: Path, name: str) -> dict[str, Any]:
    """Return a number of a run: value, interval, unit and text."""
    return json.loads((folder / "numbers" / f"{name}.json").read_text(encoding="utf-8"))


def _front(folder: Path) -> dict[str, Any]:
    tables = {path.stem: _table(path) for path in sorted((folder / "tables").glob("*.csv"))}
    lead = f"This run ({stored_number(folder, 'run_size')['text']}; {folder.parent.name}) trains a denoiser without "
    lead += "labels, freezes it, reads its inner layers at several noise levels and fits a linear classifier on each. "
    lead += f"Intervals are 95 %; {cost(folder)}."
    figures = [{"name": name, "caption": caption(folder, "figure", name)} for name in MAIN_FIGURES]
    rest = [
        {"caption": caption(folder, "table", name), "html": html}
        for name, html in tables.items()
        if name not in SHOWN_APART
    ]
    return {
        "lead": lead,
        "figures": figures,
        "main": f"<p>{caption(folder, 'table', 'balanced')}</p>{tables['balanced']}",
        "ledger": f"<p>{caption(folder, 'table', 'ledger')}</p>{tables['ledger']}",
        "origin": tables["origin"],
        "tables": rest,
        "cite": citation(),
    }


def citation() -> str:
    """Return the BibTeX entry of the paper whose experiments are rebuilt, from CITATION.cff."""
    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(f"{{{author['family-names']}}}" for author in cited["authors"])  # names of two words
    number = cited["identifiers"][0]["value"]
    lines = {"title": cited["title"], "author": authors, "journal": f"{cited['journal']} preprint {number}"}
    lines["year"] = cited["year"]
    return "@article{nieto2026,\n" + "".join(f"  {key} = {{{value}}},\n" for key, value in lines.items()) + "}"


def _table(path: Path) -> str:
    return f'<div class="scroll">{read_table(path).to_html(index=False, border=0)}</div>'


def _about(path: Path) -> dict[str, Any]:
    notebook = nbformat.read(path, 4)
    first = notebook.cells[0].source
    question = re.search(r"^\*([^*].+?)\*$", first, re.M | re.S)
    title = first.splitlines()[0].removeprefix("# ")
    short = path.stem[3:].replace("_", " ")
    facts = {"name": path.stem, "title": title, "short": short, "question": question[1] if question else ""}
    return facts | {"notebook": notebook}


def _highlight() -> str:
    from pygments.formatters import HtmlFormatter

    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    css = f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"
    return re.sub(r"background(-color)?: *#[0-9a-fA-F]+;?", "", css)  # the page has its own


def _write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.html").write_text(text, encoding="utf-8")
