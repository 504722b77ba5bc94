"""Build outputs from stored results: python paper/build.py pdf|publish|compare|site PROFILE."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import agreement
import pages
import pandas as pd
import publishing
import typst
from agreement import AGAIN

from plankton_study.report.results import NOT_IN_PROFILE
from plankton_study.report.stored import JOINED_RESULTS, PAPER, StoredRun
from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT

README = ROOT / "README.md"
RESULTS_START, RESULTS_END = "<!-- results: {name} -->", "<!-- /results -->"


def stored_run(name: str) -> StoredRun:
    """Return the live run if there is one, else the published one.

    Raises:
        StudyError: there is neither.
    """
    for kind in ("results", "published"):
        folder = PAPER / kind / name
        if (folder / "figures").is_dir():  # seeds other than 0 are published without figures
            return StoredRun(folder)
    raise StudyError(f"there are no results {name!r}: {AGAIN}")


def pdf(name: str) -> Path:
    """Typeset the manuscript from a run's stored results, in seconds; return the PDF's path.

    Raises:
        StudyError: a result that the manuscript cites is missing.
    """
    return typeset(stored_run(name))


def typeset(run: StoredRun) -> Path:
    """Typeset the manuscript from a run."""
    try:
        inputs = _typst_inputs(run)
        content = typst.compile(PAPER / "paper.typ", root=ROOT, sys_inputs=inputs)
    except (typst.TypstError, StudyError) as error:
        first_line = str(error).splitlines()[0]
        raise StudyError(f"the PDF cannot be typeset from {run.folder}: {first_line}") from None
    partial = run.folder / ".paper.pdf"
    partial.write_bytes(content)
    return partial.replace(run.folder / "paper.pdf")


def _typst_inputs(run: StoredRun) -> dict[str, str]:
    """Return what the manuscript is told about a run."""
    state = run.folder.parent.name
    inputs = {
        "results": f"/{run.folder.relative_to(ROOT).as_posix()}",
        "state": state,
        "profile": run.name,
        "texts": json.dumps(manuscript_texts(run)),
    }
    reading = f"reading_{run.name}.typ"
    if state == "published" and (PAPER / reading).is_file():
        # this text is about one published run; other runs are described by their ledger only
        inputs["reading"] = reading
    return inputs


def manuscript_texts(run: StoredRun) -> dict[str, object]:
    """Return the texts of all stored numbers, which the manuscript cannot format itself.

    Returns:
        "numbers": "0" → name → text of this run; and training seed → name → text of the other
        published seeds;
        "tables", "figures": the names of the tables and figures of this run;
        "left-out": those that are not part of its profile, as "tables/shift";
        "words": what a rule says → the same in plain words;
        "claims": claim and place of each row of the ledger;
        "joined": those that combine all seeds, as "tables/ledger".
    """
    runs = {"0": run} | _published_with_other_seeds(run.name)
    numbers = {
        seed: {name: _cited_text(other, name) for name in other.names("numbers", ".json")}
        for seed, other in runs.items()
    }
    return {
        "numbers": numbers,
        "tables": run.names("tables", ".csv"),
        "figures": run.names("figures", ".svg"),
        "left-out": left_out(run),
        "words": pages.IN_WORDS,
        "claims": [list(pages.claim_and_place(claim)) for claim in run.texts("ledger")["claim"]],
        "joined": sorted(f"{kind}s/{name}" for kind, name in JOINED_RESULTS),
    }


def left_out(run: StoredRun) -> list[str]:
    """Return the results that are not part of a run's profile, as "tables/shift"."""
    tables = run.names("tables", ".csv")
    figures = run.names("figures", ".svg")
    empty = [f"tables/{name}" for name in tables if is_empty(run.texts(name))]
    return empty + [f"figures/{name}" for name in figures if run.entry("figure", name).get("empty")]


def is_empty(table: pd.DataFrame) -> bool:
    """Return whether a stored table only says that it is not part of the profile."""
    return table.to_numpy().tolist() == [[NOT_IN_PROFILE]]


def _published_with_other_seeds(profile: str) -> dict[str, StoredRun]:
    """Return training seed → published run, for every seed of a profile but 0."""
    folders = sorted((PAPER / "published").glob(f"{profile}-seed*"))
    return {folder.name.rpartition("-seed")[2]: StoredRun(folder) for folder in folders}


def _cited_text(run: StoredRun, name: str) -> str:
    """Return a stored number as cited in the manuscript: with its percent sign."""
    text = run.number_text(name)
    is_number = not isinstance(run.number(name)["value"], str)
    if is_number and run.number(name)["unit"] == "%":
        return f"{text}\N{NO-BREAK SPACE}%"
    return text


def publish(name: str) -> Path:
    """Copy a finished run to paper/published/, and update the texts about it; return its folder.

    Raises:
        StudyError: the run is incomplete, or mixes several runs.
    """
    live = StoredRun(PAPER / "results" / name)
    if not (live.folder / "paper.pdf").is_file():
        raise StudyError(f"{live.folder} holds no finished run: {AGAIN}")
    target = publishing.publish_run(live, PAPER / "published")
    profile = live.entry("table", "claims")["provenance"]["profile"]
    first = PAPER / "published" / profile
    if (first / "figures").is_dir():
        present(StoredRun(first))
    return target


def present(published: StoredRun) -> None:
    """Update the texts about a published run: its cards, its PDF, and the section in README."""
    for name in pages.CARDS:
        text = pages.card(published, name)
        (published.folder / f"{name}.md").write_text(text, encoding="utf-8")
    typeset(published)  # again, since the live PDF says that it is unpublished
    readme = README.read_text(encoding="utf-8")
    README.write_text(with_results(readme, published), encoding="utf-8")


def with_results(readme: str, run: StoredRun) -> str:
    """Return README with an updated section on results, if that section is about this run."""
    start = RESULTS_START.format(name=run.name)
    if start not in readme:
        return readme
    section = f"{start}\n\n{results_section(run)}\n\n{RESULTS_END}"
    pattern = f"{re.escape(start)}.*?{re.escape(RESULTS_END)}"
    return re.sub(pattern, lambda _: section, readme, flags=re.DOTALL)


def results_section(run: StoredRun) -> str:
    """Return README's section about a published run, from the template readme_results.md."""
    main = run.texts("main").set_index("encoder")

    def score(encoder: str, column: str) -> str:
        """Return a macro-F1 over all seeds with its interval, as the main table has it."""
        return main.loc[encoder, f"{column} (%)"]

    def denoiser_minutes() -> str:
        costs = run.values("denoiser_cost")
        seconds = costs[costs["quantity"] == "seconds"]["value"].iloc[0]
        return f"{seconds / 60:.0f}"

    words = {"score": score, "denoiser_minutes": denoiser_minutes}
    return pages.render(PAPER / "readme_results.md", run, **words).strip()


def compare(name: str) -> str:
    """Return which published numbers a live run does not reproduce.

    Raises:
        StudyError: there is nothing to compare, or a number is not reproduced.
    """
    published, live = (StoredRun(PAPER / kind / name) for kind in ("published", "results"))
    table = agreement.compare_runs(published, live)
    text = agreement.summary(table)
    if table["verdict"].isin(agreement.FAILED).any():
        raise StudyError(text)
    return text


def site(name: str) -> Path:
    """Write a run's stored results as static pages to paper/site/; return the front page."""
    return pages.build_site(stored_run(name), PAPER / "site")


ACTIONS: dict[str, Callable[[str], Path | str]] = {
    "pdf": pdf,
    "publish": publish,
    "compare": compare,
    "site": site,
}


def main(arguments: list[str]) -> int:
    """Run `python paper/build.py ACTION NAME`; return an exit status."""
    if len(arguments) != 2 or arguments[0] not in ACTIONS:
        print(f"usage: python paper/build.py {'|'.join(ACTIONS)} PROFILE", file=sys.stderr)
        return 2
    action, name = arguments
    try:
        answer = ACTIONS[action](name)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(answer.relative_to(ROOT) if isinstance(answer, Path) else answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
