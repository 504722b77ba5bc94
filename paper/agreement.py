"""Does a live run agree with the published one? This module defines the rule for each value.

- Values with a 95 % interval agree if one of them lies inside the other run's interval; values
  with a standard error agree if they differ by at most two standard errors. Both runs predict the
  same images, so differences come from training and rounding only.
- Counts of images, taxa and parameters must be the same.
- Selections among nearly equal candidates, and numbers without an interval, are shown if they
  differ, but do not count as disagreement.
- Values that depend on the machine, such as seconds, are not compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from plankton_study.report import tidy
from plankton_study.report.formatting import stored_text
from plankton_study.report.stored import JOINED, StoredRun
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json

AGAIN = "run `make paper` with this PROFILE and SEED first"

#: tables whose rows are themselves a selection, and tables that repeat values of other tables
NOT_COMPARED = {
    "near_best",
    "cluster_split",
    "cluster_merged",
    "cluster_all",
    "daily",
    "claims",
    "origin",
    "ledger",
    "seeds",
}

SAME, AGREES, DIFFERS, MISSING = "same", "agrees", "differs", "missing"
OTHER_CHOICE = "other choice"
#: verdicts for published values that do not hold
FAILED = (DIFFERS, MISSING)
STANDARD_ERRORS = 2


def all_values(run: StoredRun) -> dict[str, dict[str, Any]]:
    """Return all numbers and table values of a run.

    Returns:
        "number NAME" or "table NAME, ROW, QUANTITY" → kind, value, low, high, error and text.

    Raises:
        StudyError: rows of a table have the same keys.
    """
    values: dict[str, dict[str, Any]] = {}
    for path in sorted((run.folder / "numbers").glob("*.json")):
        entry = read_json(path)
        values[f"number {path.stem}"] = _value_of_number(entry)
    for path in sorted((run.folder / "values").glob("*.csv")):
        if path.stem not in NOT_COMPARED:
            _add_table(values, path)
    return values


def _value_of_number(entry: dict[str, Any]) -> dict[str, Any]:
    value = {key: entry[key] for key in ("kind", "value", "low", "high")}
    return value | {"error": None, "text": stored_text(entry)}


def _add_table(values: dict[str, dict[str, Any]], path: Path) -> None:
    table = tidy.read_tidy(path)
    keys = [column for column in table if column not in tidy.VALUE_COLUMNS]
    for row in table.to_dict("records"):
        names = ", ".join(row[key] for key in keys)
        name = f"table {path.stem}, {names}, {row['quantity']}"
        if name in values:
            raise StudyError(
                f"{path} has several values {name!r}, which cannot be distinguished: "
                "name more keys in save_table"
            )
        values[name] = {key: row[key] for key in ("kind", "value", "low", "high", "error")}
        values[name]["text"] = _text_of(row)


def _text_of(row: dict[str, Any]) -> str:
    if row["kind"] == tidy.ESTIMATE:
        return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if row["kind"] == tidy.MEAN:
        return f"{row['value']:.3f} ± {row['error']:.3f}"
    if row["kind"] == tidy.CHOICE:
        return row["text"]
    return f"{row['value']:.6g}"


def judge(published: dict[str, Any], live: dict[str, Any] | None) -> str:
    """Return whether a live value agrees with the published one."""
    if live is None:
        return MISSING
    if live["text"] == published["text"]:
        return SAME
    kinds = {published["kind"], live["kind"]}
    if kinds == {tidy.ESTIMATE}:
        return AGREES if _intervals_hold(published, live) else DIFFERS
    if kinds == {tidy.MEAN}:
        return AGREES if _errors_hold(published, live) else DIFFERS
    if published["kind"] in (tidy.ESTIMATE, tidy.MEAN, tidy.COUNT):
        return DIFFERS
    return OTHER_CHOICE


def _intervals_hold(published: dict[str, Any], live: dict[str, Any]) -> bool:
    live_inside = published["low"] <= live["value"] <= published["high"]
    published_inside = live["low"] <= published["value"] <= live["high"]
    return live_inside or published_inside


def _errors_hold(published: dict[str, Any], live: dict[str, Any]) -> bool:
    difference = abs(published["value"] - live["value"])
    return difference <= STANDARD_ERRORS * max(published["error"], live["error"])


def compare_runs(published: StoredRun, live: StoredRun) -> pd.DataFrame:
    """Compare two runs.

    Returns:
        A row for each published value; columns value (its name), published, live and verdict. The
        attribute "machines" holds the kinds of machine on which the two ran.

    Raises:
        StudyError: a run is missing, or the two have different profiles or seeds.
    """
    before = _origin(published, "nothing was published under this name")
    now = _origin(live, AGAIN)
    if any(before[key] != now[key] for key in ("config", "seed")):
        raise StudyError(
            f"{live.folder} was run with another profile or seed than {published.folder}: {AGAIN}"
        )
    values, live_values = all_values(published), all_values(live)
    if _joined_seeds(published) == _joined_seeds(live):
        values |= all_values(StoredRun(published.folder / JOINED))
        live_values |= all_values(StoredRun(live.folder / JOINED))
    lines = []
    for name, value in values.items():
        if value["kind"] != tidy.MEASURED:
            other = live_values.get(name)
            shown = other["text"] if other else ""
            lines.append((name, value["text"], shown, judge(value, other)))
    table = pd.DataFrame(lines, columns=["value", "published", "live", "verdict"])
    table.attrs["machines"] = [_machine(before), _machine(now)]
    return table


def _origin(run: StoredRun, reason: str) -> dict[str, Any]:
    if not (run.folder / "provenance" / "table_claims.json").is_file():
        raise StudyError(f"{run.folder} holds no results: {reason}")
    return run.entry("table", "claims")["provenance"]


def _joined_seeds(run: StoredRun) -> list[str]:
    path = run.folder / JOINED / "provenance" / "table_joined_claims.json"
    if not path.is_file():
        return []
    return sorted(read_json(path)["provenance"]["joined"])


def _machine(origin: dict[str, Any]) -> str:
    return f"{origin['device']}, {origin['instructions']}"


def summary(table: pd.DataFrame) -> str:
    """Return the differences, one per line, and one sentence about all values."""
    lines = []
    for row in table[table["verdict"] != SAME].itertuples():
        lines.append(f"{row.verdict:>12}  {row.value}: {row.published} → {row.live}")
    published, live = table.attrs.get("machines", ("", ""))
    if published != live:
        lines.append(
            f"published on another kind of machine ({published}) than this run's ({live}): "
            "training amplifies rounding differences, and intervals over test images do not "
            "include this effect"
        )
    counts = table["verdict"].value_counts()
    failed = int(table["verdict"].isin(FAILED).sum())
    verdict = "all published numbers hold"
    if failed:
        verdict = f"published numbers that do not hold: {failed}"
    parts = ", ".join(f"{count} {word}" for word, count in counts.items())
    lines.append(f"{len(table)} values ({parts}): {verdict}")
    return "\n".join(lines)
