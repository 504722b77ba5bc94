"""The results of a run as self-contained static pages, and its model and data cards."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from agreement import AGAIN

from plankton_study.report.explorer.page import DATA, explorer_fragment
from plankton_study.report.formatting import with_unit
from plankton_study.report.results import CAPTIONS_FILE, SYNTHETIC
from plankton_study.report.stored import JOINED, PAPER, StoredRun, executed_notebooks
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT

#: the figures of the front page; runs of earlier versions lack the second one
MAIN_FIGURES = ("examples", "all_encoders", "layers_and_noise")
#: the main table, and the one that runs of earlier versions have instead
MAIN_TABLE, EARLIER_MAIN_TABLE = "main", "balanced"
#: what a rule says of a claim, in plain words
IN_WORDS = {"met": "supported", "refuted": "not supported", "undecided": "open"}
CARDS = ("model_card", "data_card")
#: a claim, and the place in parentheses where it is judged
CLAIM = re.compile(r"(.*?)(?: \((.*)\))?")
#: the caption below a figure of a notebook's page; and a block of code
CAPTION = re.compile(r"<p><em>([^<]*)</em></p>")
CODE = re.compile(r'(<div class="highlight hl-ipython3"><pre>.*?</pre></div>)', re.DOTALL)
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
    for folder in (run.folder, run.folder / JOINED):
        if (folder / "figures").is_dir():
            target = partial / "figures"
            shutil.copytree(folder / "figures", target, ignore=not_shown, dirs_exist_ok=True)
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

    def write(name: str, title: str, body: str, before: Any = None, after: Any = None) -> None:
        text = page.render(common, title=title, body=body, before=before, after=after)
        (folder / f"{name}.html").write_text(text, encoding="utf-8")

    exporter = HTMLExporter(template_name="basic")
    figures = run.names("figures", ".png")
    provenance = {
        run.caption("figure", name): folded_provenance(run, "figure", name) for name in figures
    }
    names = {book["name"] for book in books}
    for before, book, after in zip([None, *books], books, [*books[1:], None]):
        body, _ = exporter.from_notebook_node(book["notebook"])
        body = _fold_code(_link_to_pages(_add_provenance(body, provenance), names))
        write(book["name"], book["title"], body, before, after)
    if has_explorer:
        body = f"<h1>Look for yourself</h1>{explorer_fragment(run.folder)}"
        write("explorer", "Look for yourself", body)
    for name in CARDS:
        write(name, name.replace("_", " ").capitalize(), markdown2html(card(run, name)))
    front = _template(PAPER / "front.html").render(common, **_front_page(run, books))
    write("index", "plankton_study", front)


def folded_provenance(run: StoredRun, kind: str, name: str) -> str:
    """Return what a figure or table was made from, as a piece of HTML to unfold."""
    text = json.dumps(run.entry(kind, name)["provenance"], indent=1, ensure_ascii=False)
    pre = f"<pre>{escape(text, quote=False)}</pre>"
    return f'<details class="provenance"><summary>provenance</summary>{pre}</details>'


def _add_provenance(body: str, provenance: dict[str, str]) -> str:
    """Add its provenance below the caption of each figure.

    Args:
        body: of a notebook's page.
        provenance: caption of a figure → what to add.
    """
    return CAPTION.sub(lambda match: match[0] + provenance.get(unescape(match[1]), ""), body)


def _fold_code(body: str) -> str:
    """Fold the code of a notebook's page: readers come for the text and the figures."""
    return CODE.sub(r'<details class="code"><summary>code</summary>\1</details>', body)


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


def _front_page(run: StoredRun, books: list[dict[str, Any]]) -> dict[str, Any]:
    lead = (
        f"This run ({run.number_text('run_size')}; {run.folder.parent.name}) trains a denoiser "
        "without labels, freezes it, reads its inner layers at several noise levels and fits a "
        f"linear classifier on each. Intervals are 95 %; {cost_text(run)}."
    )
    figures = run.names("figures", ".png")
    tables = {name: _shown_table(run, name) for name in run.names("tables", ".csv")}
    main = MAIN_TABLE if MAIN_TABLE in tables else EARLIER_MAIN_TABLE
    apart = {name: tables.pop(name) for name in (main, "ledger", "origin")}
    return {
        "answer": [escape(sentence, quote=False) for sentence in answer(run)],
        "lead": escape(lead),
        "figures": [
            {
                "name": name,
                "caption": escape(run.caption("figure", name)),
                "provenance": folded_provenance(run, "figure", name),
            }
            for name in MAIN_FIGURES
            if name in figures
        ],
        "claims": claim_cards(run),
        "main": apart[main],
        "ledger": apart["ledger"],
        "origin": apart["origin"],
        "groups": _tables_by_notebook(tables, books),
        "cite": escape(citation(), quote=False),
    }


def answer(run: StoredRun) -> list[str]:
    """Return what a run found, in three sentences."""
    seeds = run.number_text("ledger_seeds")
    if MAIN_TABLE in run.names("tables", ".csv"):
        table = run.texts(MAIN_TABLE).set_index("encoder")["natural, one cell (%)"]
    else:  # runs of earlier versions
        table = run.texts("seeds").set_index("encoder")["natural (%)"]
    scores = {name: percent_text(text) for name, text in table.items()}
    labels, without = (run.number_text(f"natural_{kind}_name") for kind in ("supervised", "ssl"))
    return [
        f"A linear probe on the frozen denoiser, which saw {with_unit(run.number('images_seen'))} "
        f"without labels (many repeatedly), tells {with_unit(run.number('taxa'))} apart with a "
        f"macro-F1 of {scores['diffusion']} (natural labels, {seeds}); with random weights it is "
        f"{scores['random U-Net']}.",
        f"Under the same rules, the best other encoder that learnt without labels, {without}, has "
        f"{scores[without]}, and the best that learnt from labels, {labels}, {scores[labels]}.",
        verdict_text(run),
    ]


def percent_text(score: str) -> str:
    """Return a score of a table, such as "54.2 [47.3, 59.2]", with its unit."""
    value, _, interval = score.partition(" ")
    return f"{value} % {interval}".rstrip()


def verdict_text(run: StoredRun) -> str:
    """Return what the rules say of the paper's claims, and whether the run may judge them."""
    verdicts = run.number_text("ledger_verdicts")
    if verdicts != "none":
        words = in_plain_words(verdicts)
        is_decided = "supported" in words  # or "not supported"
        meaning = "" if is_decided else " So this run neither supports nor contradicts them."
        return f"The verdicts on the paper's claims: {words}.{meaning}"
    by_rule = in_plain_words(run.number_text("ledger_summary"))
    return (
        "This run may judge none of the paper's claims (the ledger says why); by the rules alone "
        f"they would be {by_rule}."
    )


def in_plain_words(summary: str) -> str:
    """Return a summary of the ledger, such as "1 met, 5 refuted", in the words of the cards."""
    return re.sub(r"[a-z]+", lambda word: IN_WORDS.get(word[0], word[0]), summary)


def claim_cards(run: StoredRun) -> list[dict[str, Any]]:
    """Return the claims with what the rule says of each, place by place, as escaped text."""
    cards: dict[str, list[dict[str, str]]] = {}
    for row in run.texts("ledger").to_dict("records"):
        title, place = claim_and_place(row["claim"])
        word = row["by the rule"]
        words = {"name": escape(place), "word": IN_WORDS.get(word, word)}
        cards.setdefault(title, []).append(words)
    return [{"title": escape(title), "places": places} for title, places in cards.items()]


def claim_and_place(claim: str) -> tuple[str, str]:
    """Return a claim of the ledger without its place, and the place, "" if it has none."""
    return CLAIM.fullmatch(claim).groups(default="")


def _shown_table(run: StoredRun, name: str) -> dict[str, str]:
    html = run.texts(name).to_html(index=False, border=0)
    return {
        "name": name,
        "caption": escape(run.caption("table", name)),
        "provenance": folded_provenance(run, "table", name),
        "html": f'<div class="scroll">{html}</div>',
    }


def _tables_by_notebook(
    tables: dict[str, dict[str, str]], books: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the tables in groups, each with the title of the notebook that makes them."""
    titles = {book["name"]: book["title"] for book in books}
    made_by: dict[str, list[dict[str, str]]] = {}
    for name, table in tables.items():
        made_by.setdefault(notebook_of_result(name), []).append(table)
    return [
        {"title": titles.get(notebook, "Others"), "tables": made_by[notebook]}
        for notebook in sorted(made_by)
    ]


def notebook_of_result(name: str) -> str:
    """Return the notebook that makes a figure or table, as captions.toml says; "" for others."""
    return _notebooks_of_results().get(name, "")


@cache
def _notebooks_of_results() -> dict[str, str]:
    """Return result → notebook, from the headings of captions.toml."""
    notebooks, notebook = {}, ""
    for line in CAPTIONS_FILE.read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"# (\d\d_\w+)", line)
        result = re.match(r"(\w+) = ", line)
        if heading:
            notebook = heading[1]
        elif result:
            notebooks[result[1]] = notebook
    return notebooks


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
