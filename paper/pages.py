"""The results of a run as self-contained static pages, and its model and data cards."""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from agreement import AGAIN

from plankton_study.report.explorer.page import DATA, explorer_fragment
from plankton_study.report.formatting import with_unit
from plankton_study.report.results import SYNTHETIC
from plankton_study.report.stored import JOINED, PAPER, StoredRun, executed_notebooks
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT

MAIN_FIGURES = ("layers_and_noise", "balanced_differences")
#: tables that the front page shows in full, outside the list of all tables
SHOWN_APART = ("ledger", "balanced", "origin")
CARDS = ("model_card", "data_card")
#: a link from one notebook to another
LINK_TO_NOTEBOOK = re.compile(r'<a href="([^":/]+)\.ipynb"[^>]*>(.*?)</a>')


def build_site(run: StoredRun, site: Path) -> Path:
    """Write the pages of a run; return the front page.

    Raises:
        StudyError: the run lacks its PDF, or the executed notebooks.
    """
    for needed in ("paper.pdf", "notebooks"):
        if not (run.folder / needed).exists():
            raise StudyError(f"{run.folder} lacks {needed}: {AGAIN}")
    partial = site.with_name(f".{site.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    not_shown = shutil.ignore_patterns("*.svg", ".*")
    shutil.copytree(run.folder / "figures", partial / "figures", ignore=not_shown)
    shutil.copy(run.folder / "paper.pdf", partial)
    _write_pages(run, partial)
    shutil.rmtree(site, ignore_errors=True)
    return partial.replace(site) / "index.html"


def _write_pages(run: StoredRun, folder: Path) -> None:
    from nbconvert import HTMLExporter  # here, since it takes a second to import
    from nbconvert.filters import markdown2html

    books = [_about_notebook(path) for path in notebooks_of(run)]
    has_explorer = (run.folder / DATA).is_file()  # runs of earlier versions have none
    common = {
        "pages": books,
        "synthetic": is_synthetic(run),
        "highlight": _highlight_css(),
        "has_explorer": has_explorer,
    }
    page = _template(PAPER / "page.html")
    exporter = HTMLExporter(template_name="basic")
    names = {book["name"] for book in books}
    for book in books:
        body, _ = exporter.from_notebook_node(book["notebook"])
        body = _link_to_pages(body, names)
        _write(folder, book["name"], page.render(common, title=book["title"], body=body))
    if has_explorer:
        body = f"<h1>Look for yourself</h1>{explorer_fragment(run.folder)}"
        _write(folder, "explorer", page.render(common, title="Look for yourself", body=body))
    for name in CARDS:
        body = markdown2html(card(run, name))
        title = name.replace("_", " ").capitalize()
        _write(folder, name, page.render(common, title=title, body=body))
    front = page.render(common, title="plankton_study", body="", **_front_page(run))
    _write(folder, "index", front)


def _link_to_pages(body: str, names: set[str]) -> str:
    """Let links to executed notebooks lead to their pages; others, as to the guide, are text."""

    def link(match: re.Match[str]) -> str:
        name, text = match.groups()
        return f'<a href="{name}.html">{text}</a>' if name in names else text

    return LINK_TO_NOTEBOOK.sub(link, body)


def notebooks_of(run: StoredRun) -> list[Path]:
    """Return the executed notebooks of a run, and of the results that combine all seeds."""
    return executed_notebooks(run.folder) + executed_notebooks(run.folder / JOINED)


def _template(path: Path) -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(path.read_text(encoding="utf-8"))


def render(path: Path, run: StoredRun, **words: Any) -> str:
    """Render a template of this folder with the results of a run.

    The template may use `number("name")`, `table("name")`, `run` (the provenance) and
    `synthetic`.
    """

    def number(name: str) -> str:
        return escape(with_unit(run.number(name)), quote=False)

    def table(name: str) -> str:
        return markdown_table(run.texts(name))

    origin = run.entry("table", "claims")["provenance"]
    words |= {"run": origin, "synthetic": is_synthetic(run)}
    return _template(path).render(number=number, table=table, **words)


def card(run: StoredRun, name: str) -> str:
    """Return the model card or the data card of a run."""
    return render(PAPER / f"{name}.md", run)


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join("| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows)


def _markdown_cell(value: Any) -> str:
    return escape(str(value), quote=False).replace("|", r"\|")


def is_synthetic(run: StoredRun) -> bool:
    """Return whether the results are from synthetic images."""
    return SYNTHETIC in run.caption("table", "claims")


def cost_text(run: StoredRun) -> str:
    """Return the cost of training a run's networks, as a clause."""
    number, time = run.number_text("networks_trained"), run.number_text("training_time")
    return f"training its {number} networks took {time} ({run.number_text('machine')})"


def _front_page(run: StoredRun) -> dict[str, Any]:
    tables = {name: _html_table(run, name) for name in run.names("tables", ".csv")}
    lead = (
        f"This run ({run.number_text('run_size')}; {run.folder.parent.name}) trains a denoiser "
        "without labels, freezes it, reads its inner layers at several noise levels and fits a "
        f"linear classifier on each. Intervals are 95 %; {cost_text(run)}."
    )

    def caption(kind: str, name: str) -> str:
        return escape(run.caption(kind, name))

    return {
        "lead": escape(lead),
        "figures": [{"name": name, "caption": caption("figure", name)} for name in MAIN_FIGURES],
        "main": f"<p>{caption('table', 'balanced')}</p>{tables['balanced']}",
        "ledger": f"<p>{caption('table', 'ledger')}</p>{tables['ledger']}",
        "origin": tables["origin"],
        "tables": [
            {"caption": caption("table", name), "html": html}
            for name, html in tables.items()
            if name not in SHOWN_APART
        ],
        "cite": escape(citation(), quote=False),
    }


def _html_table(run: StoredRun, name: str) -> str:
    return f'<div class="scroll">{run.texts(name).to_html(index=False, border=0)}</div>'


def citation() -> str:
    """Return the BibTeX entry of the paper that this study reproduces, from CITATION.cff."""
    import yaml

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = yaml.safe_load(text)["preferred-citation"]
    number = cited["identifiers"][0]["value"]
    fields = {
        "title": cited["title"],
        # in braces, since a family name may consist of two words
        "author": " and ".join(f"{{{author['family-names']}}}" for author in cited["authors"]),
        "journal": f"{cited['journal']} preprint {number}",
        "year": cited["year"],
    }
    lines = [f"  {key} = {{{value}}}," for key, value in fields.items()]
    return "\n".join(["@article{nieto2026,", *lines, "}"])


def _about_notebook(path: Path) -> dict[str, Any]:
    notebook = nbformat.read(path, 4)
    first = notebook.cells[0].source
    question = re.search(r"^\*([^*].+?)\*$", first, re.MULTILINE | re.DOTALL)
    return {
        "name": path.stem,
        "title": escape(first.splitlines()[0].removeprefix("# ")),
        "short": path.stem[3:].replace("_", " "),
        "question": escape(question[1], quote=False) if question else "",
        "notebook": notebook,
    }


def _highlight_css() -> str:
    """Return the colours of code, light and dark, without backgrounds: the page has its own."""
    from pygments.formatters import HtmlFormatter

    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    css = f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"
    return re.sub(r"background(-color)?: *#[0-9a-fA-F]+;?", "", css)


def _write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.html").write_text(text, encoding="utf-8")
