"""Does a live run agree with the published one? Number by number, by a rule that is stated here and nowhere else.

A value with a 95 % interval (or ± standard error) agrees if it lies inside the other run's interval (or two standard
errors), whichever way round: both runs predict the same images, so what moves is training and rounding. Counts of
images and taxa must be the same. What a run chose among near equals, and bare values without an interval, are shown
when they differ, but judge nothing. Times and provenance are of the machine and are not compared.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from plankton_study.profile import StudyError

AGAIN = "run `make paper` with this PROFILE and SEED first"
INTERVAL = re.compile(r"([+-]?[\d.]+)(?: points)? \[(-?[\d.]+), (-?[\d.]+)\]")
NUMERIC = r"[+-]?\d[\d.,]*(%| ±.*| .*\[.*)?"
SPREAD = re.compile(r"([+-]?[\d.]+) ± ([\d.]+)")
COUNTS = {"splits", "removed"}  # tables of counts, beside the whole numbers under numbers/
OF_THE_MACHINE = {"seconds", "device"}  # columns
# rows that are themselves chosen, a spread that is not over images, what other tables say too
SKIPPED = {"origin", "daily", "near_best", "cluster_all", "cluster_split", "cluster_merged", "claims", "seeds"}
JUDGED = ("differs", "missing")


class Shown(NamedTuple):
    """A published value: how it is shown, and its value with the bounds it must agree within, if it has any."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    exact: bool = False  # a count


def parse(text: str) -> Shown:
    """Read the text of a table's cell."""
    if found := INTERVAL.search(text):
        return Shown(text, *map(float, found.groups()))
    if found := SPREAD.search(text):
        value, error = map(float, found.groups())
        return Shown(text, value, value - 2 * error, value + 2 * error)
    return Shown(text)


def read_table(path: Path) -> pd.DataFrame:
    """Return a stored table as it is shown: texts, and empty ones where nothing stands."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def values(folder: Path) -> dict[str, Shown]:
    """Return everything a results folder says: "number NAME", or "table NAME, ROW, COLUMN" → what is shown."""
    found = {}
    for path in sorted((folder / "numbers").glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        bounds = (entry["value"], entry["low"], entry["high"]) if entry["low"] is not None else ()
        found[f"number {path.stem}"] = Shown(entry["text"], *bounds, exact=isinstance(entry["value"], int))
    for path in sorted((folder / "tables").glob("*.csv")):
        if path.stem in SKIPPED:
            continue
        table = read_table(path)
        numeric = [column for column in table if table[column].str.fullmatch(NUMERIC).any()]
        leading = list(table.columns[: table.columns.get_loc(numeric[0])]) if numeric else []
        names = [column for column in leading if column != "cell"]  # what was selected names no row
        if table.duplicated(names or None).any():  # unless every cell has one
            names = leading
        for at, row in table.iterrows():
            label = ", ".join(row[c] for c in names) or f"row {at + 1}"
            for column in (c for c in table if c not in {*names, *OF_THE_MACHINE} and row[c]):
                for part, text in enumerate(row[column].split("; ")):  # a claim may rest on several differences
                    what = f"table {path.stem}, {label}, {column}{f', {part + 1}' if part else ''}"
                    if what in found:
                        raise StudyError(f"{path} has several rows {label!r}: they cannot be told apart")
                    found[what] = parse(text)._replace(exact=path.stem in COUNTS)
    return found


def verdict(published: Shown, live: Shown | None) -> str:
    """Return "same", "agrees", "differs", "missing", or "other choice" where there is no interval to judge by."""
    if live is None:
        return "missing"
    if live.text == published.text:
        return "same"
    if published.low is None:
        return "differs" if published.exact else "other choice"
    if live.low is None:
        return "differs"
    inside = published.low <= live.value <= published.high or live.low <= published.value <= live.high
    return "agrees" if inside else "differs"


def agreement(published: Path, live: Path) -> pd.DataFrame:
    """Compare two results folders; columns what, published, live, verdict.

    Raises:
        StudyError: one of them is missing, or they are runs of different profiles or seeds.
    """
    made = []
    for folder in (published, live):
        facts = sorted((folder / "provenance").glob("number_*.json"))
        if not facts:
            raise StudyError(f"{folder} holds no results: {AGAIN if folder == live else 'nothing was published as it'}")
        entry = json.loads(facts[0].read_text(encoding="utf-8"))["provenance"]
        made.append((entry["config"], entry["seed"], entry["device"], entry.get("instructions", "unknown")))
    if made[0][:2] != made[1][:2]:
        raise StudyError(f"{live} was run with another profile or seed than {published}: nothing to compare")
    before, now = values(published), values(live)
    rows = [
        (what, shown.text, now[what].text if what in now else "", verdict(shown, now.get(what)))
        for what, shown in before.items()
    ]
    table = pd.DataFrame(rows, columns=["what", "published", "live", "verdict"])
    table.attrs["machines"] = [f"{device}, {instructions}" for *_, device, instructions in made]
    return table


def summary(table: pd.DataFrame) -> str:
    """Return what differs, line by line, and one sentence about all."""
    lines = [f"{r.verdict:>12}  {r.what}: {r.published} → {r.live}" for r in table.itertuples() if r.verdict != "same"]
    counts = table["verdict"].value_counts()
    judged = int(counts.reindex(JUDGED, fill_value=0).sum())
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    whole = "all published numbers hold" if not judged else f"{judged} published numbers do not hold"
    published, live = table.attrs.get("machines", ("", ""))
    if published != live:
        lines.append(f"published on another kind of machine ({published}) than this run's ({live}): training magnifies")
        lines.append("what they round otherwise, and intervals over test images do not tell how much")
    return "\n".join([*lines, f"{len(table)} values ({said}): {whole}"])
