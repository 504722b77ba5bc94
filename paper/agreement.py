"""Does a live run agree with the published one? This module defines the rule for each value.

On the same kind of machine, with the same code and libraries, a run is repeated exactly: every
value must be the same. Elsewhere rounding differs, and training amplifies it, so that a network is
trained once more. Then:

- Values with a 95 % interval agree if one of them lies inside the other run's interval, or if they
  differ by no more than two trainings do; values with a standard error in the same way, within two
  standard errors. How far trainings of the same network lie apart is measured: by the published
  runs of other seeds. A few seeds measure it roughly, so one estimate in a hundred may lie beyond.
- Encoders that are not trained give nearly the same scores everywhere: at least half of their
  scores lie within one point. If not, those that do not differ.
- The loss of the first batch is the same everywhere, up to rounding. It tells whether a network was
  trained from the same seed on the same images.
- Counts of images, taxa and parameters must be the same, also those that an estimate is based on.
- Selections among nearly equal candidates, and numbers without an interval, are shown if they
  differ, but do not count as disagreement.
- Values that depend on the machine, such as seconds, are not compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from plankton_study.questions.claims import COMPETITIVE
from plankton_study.report import tidy
from plankton_study.report.formatting import stored_text
from plankton_study.report.stored import JOINED, MAKING_KEYS, STUDY_KEYS, StoredRun
from plankton_study.run.errors import StudyError
from plankton_study.run.files import read_json

AGAIN = "run `make paper` with this PROFILE and SEED first"

#: tables whose rows are themselves a selection, and tables that repeat values of other tables
NOT_COMPARED = {
    "cells",
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
BEYOND = "beyond"  # what trainings were seen to differ by
#: share of the estimates that may lie beyond. Most lie within an interval anyway; of the others
#: one in twenty is expected to
MAY_BE_BEYOND = 0.01
#: verdicts for published values that do not hold
FAILED = (DIFFERS, MISSING)
STANDARD_ERRORS = 2
#: the seeds of a profile that must be published to know how far trainings lie apart
SEEDS_NEEDED = 3
#: what the median score of untrained encoders may differ by on another machine. Single scores may
#: differ more, where rounding selects another cell or strength
ROUNDING = 0.01
#: relative difference of a first batch's loss on another machine: in the same precision, or not
ROUNDING_OF_LOSS = 1e-3
ROUNDING_OF_LOSS_ACROSS_PRECISIONS = 2e-2
FIRST_LOSS = "first loss"
#: multiples of the standard deviation that a new training may lie from the mean of the others: of
#: one value over few seeds by Student's t at 95 %, of the median over a whole table 4
PROBABILITY = 0.95
FACTOR_OF_TABLE = 4
#: a value that lies further beyond, by this factor, never agrees
FAR_BEYOND = 2
#: tables of scores that depend on nothing but features, labels and the selected cell
PROBE_TABLES = ("probes", "balanced", "natural", "label_scores")
#: facts of the provenance that are equal on machines that repeat a run exactly
MACHINE = ("device", "threads", "processor", "instructions", "versions", "code", "precision")

#: what a table says where an estimate would mean nothing
NO_ESTIMATE = "none"
#: how a difference to the supervised encoder that is best on validation images is named, which may
#: be another encoder in another run
BEST_SUPERVISED = "best supervised"

#: kinds of values with an interval or a standard error
UNCERTAIN = (tidy.ESTIMATE, tidy.MEAN)

Values = dict[str, dict[str, Any]]


def all_values(run: StoredRun) -> Values:
    """Return all numbers and table values of a run.

    Returns:
        "number NAME" or "table NAME, ROW, QUANTITY" → kind, value, low, high, error, n, p, text;
        and of a table's value table, quantity and encoder ("" if its row has none).

    Raises:
        StudyError: rows of a table have the same keys.
    """
    values: Values = {}
    for path in sorted((run.folder / "numbers").glob("*.json")):
        values[f"number {path.stem}"] = _value_of_number(path.stem, read_json(path))
    for path in sorted((run.folder / "values").glob("*.csv")):
        if path.stem not in NOT_COMPARED:
            _add_table(values, path)
    return values


def _value_of_number(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    value = {key: entry[key] for key in ("kind", "value", "low", "high", "n", "p")}
    return value | {
        "error": None,
        "text": stored_text(entry),
        "table": "",
        "quantity": name,
        "encoder": "",
    }


def _add_table(values: Values, path: Path) -> None:
    table = tidy.read_tidy(path)
    keys = [column for column in table if column not in tidy.VALUE_COLUMNS]
    for row in table.to_dict("records"):
        if path.stem == "joined_claims" and row["claim"] in COMPETITIVE:
            row["rival"] = BEST_SUPERVISED
        names = ", ".join(row[key] for key in keys)
        name = f"table {path.stem}, {names}, {row['quantity']}"
        if name in values:
            raise StudyError(
                f"{path} has several values {name!r}, which cannot be distinguished: "
                "name more keys in save_table"
            )
        fields = ("kind", "value", "low", "high", "error", "n", "p", "quantity")
        values[name] = {field: row[field] for field in fields}
        values[name] |= {"text": _text_of(row), "table": path.stem}
        values[name]["encoder"] = row["encoder"] if "encoder" in keys else ""


def _text_of(row: dict[str, Any]) -> str:
    if row["kind"] == tidy.ESTIMATE:
        return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    if row["kind"] == tidy.MEAN:
        return f"{row['value']:.3f} ± {row['error']:.3f}"
    if row["kind"] == tidy.CHOICE:
        return row["text"]
    return f"{row['value']:.6g}"


# --- how far two trainings lie apart


class Trainings:
    """How much each value of a profile varies between training seeds.

    Args:
        seeds: the values of each published seed.
    """

    def __init__(self, seeds: list[Values]) -> None:
        lines = {}
        for name, value in seeds[0].items():
            numbers = [values[name]["value"] for values in seeds if name in values]
            is_known = len(numbers) == len(seeds) and all(map(_is_number, numbers))
            if value["kind"] in UNCERTAIN and is_known:
                mean, spread = float(np.mean(numbers)), float(np.std(numbers, ddof=1))
                lines[name] = (value["table"], value["quantity"], mean, spread)
        columns = ["table", "quantity", "mean", "spread"]
        table = pd.DataFrame.from_dict(lines, "index", columns=columns)
        of_table = table.groupby(["table", "quantity"])["spread"].transform("median")
        number = len(seeds)
        own_factor = float(t.ppf((1 + PROBABILITY) / 2, number - 1))
        reach = np.maximum(own_factor * table["spread"], FACTOR_OF_TABLE * of_table)
        self.mean = table["mean"]
        self._reach = reach * (1 + 1 / number) ** 0.5

    def reach(self, name: str) -> float:
        """Return how far a new training may lie from the mean of the published ones.

        The standard deviation over few seeds is uncertain: by chance they may lie close together.
        So the median of the values of the same quantity and table counts as well.
        """
        return self._reach.get(name, 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and np.isfinite(value)


# --- the rule


class Rule:
    """Judges live values by published ones.

    Args:
        seeds: the values of every published seed that may be joined with the first.
        published, live: all values of the two runs.
        is_repetition: whether the two runs must give exactly the same values.
        same_precision: whether both runs computed in the same precision.
    """

    def __init__(
        self,
        seeds: list[Values],
        published: Values,
        live: Values,
        is_repetition: bool = False,
        same_precision: bool = True,
    ) -> None:
        self.published = published
        self.live = live
        self.is_repetition = is_repetition
        self.rounding_of_loss = (
            ROUNDING_OF_LOSS if same_precision else ROUNDING_OF_LOSS_ACROSS_PRECISIONS
        )
        self.trainings = Trainings(seeds) if len(seeds) >= SEEDS_NEEDED else None
        self.moved = self._moved_scores_of_untrained_encoders()

    def _moved_scores_of_untrained_encoders(self) -> set[str]:
        """Return the scores of untrained encoders that differ, if most of them do."""
        trained = {
            value["encoder"] for value in self.published.values() if value["quantity"] == FIRST_LOSS
        }
        if not trained:  # runs of earlier versions do not know their first losses
            return set()
        distances = {}
        for name, published in self.published.items():
            live = self.live.get(name)
            is_score = published["kind"] == tidy.ESTIMATE and not _is_number(published["p"])
            is_untrained = published["encoder"] not in trained | {""}
            is_compared = published["table"] in PROBE_TABLES and live is not None
            if is_score and is_untrained and is_compared and _is_number(live["value"]):
                distances[name] = abs(live["value"] - published["value"])
        if not distances or np.median(list(distances.values())) <= ROUNDING:
            return set()
        return {name for name, distance in distances.items() if distance > ROUNDING}

    def judge_all(self) -> dict[str, str]:
        """Return the verdict on every published value that is compared."""
        compared = {
            name: value for name, value in self.published.items() if value["kind"] != tidy.MEASURED
        }
        verdicts = {name: self.judge(name) for name in compared}
        beyond = [name for name, verdict in verdicts.items() if verdict == BEYOND]
        estimates = [name for name, value in compared.items() if value["kind"] in UNCERTAIN]
        if len(beyond) > MAY_BE_BEYOND * len(estimates):
            verdicts |= dict.fromkeys(beyond, DIFFERS)
        return verdicts

    def judge(self, name: str) -> str:
        """Return whether a live value agrees with the published one."""
        published, live = self.published[name], self.live.get(name)
        if live is None:
            return MISSING
        if live["text"] == published["text"] and _same_count(published, live):
            return SAME
        if self.is_repetition:
            return DIFFERS
        return self._judge_elsewhere(name, published, live)

    def _judge_elsewhere(self, name: str, published: dict[str, Any], live: dict[str, Any]) -> str:
        """Judge values that differ, where they need not be the same."""
        if published["quantity"] == FIRST_LOSS:
            return AGREES if self._is_same_training(published, live) else DIFFERS
        kinds = {published["kind"], live["kind"]}
        if kinds == {tidy.ESTIMATE}:
            return self._judge_estimate(name, published, live)
        if kinds == {tidy.MEAN}:
            return self._judge_mean(name, published, live)
        must_hold = published["kind"] in (*UNCERTAIN, tidy.COUNT)
        return DIFFERS if must_hold and live["text"] != NO_ESTIMATE else OTHER_CHOICE

    def _judge_mean(self, name: str, published: dict[str, Any], live: dict[str, Any]) -> str:
        if not _is_number(published["error"]):
            return OTHER_CHOICE
        return AGREES if _errors_hold(published, live) else self._judge_training(name, live)

    def _is_same_training(self, published: dict[str, Any], live: dict[str, Any]) -> bool:
        difference = abs(live["value"] - published["value"])
        return difference <= self.rounding_of_loss * abs(published["value"])

    def _judge_estimate(self, name: str, published: dict[str, Any], live: dict[str, Any]) -> str:
        if not _same_count(published, live):
            return DIFFERS
        if not _is_number(published["low"]):  # such as a share of a few cells
            return OTHER_CHOICE
        if name in self.moved:
            return DIFFERS
        return AGREES if _intervals_hold(published, live) else self._judge_training(name, live)

    def _judge_training(self, name: str, live: dict[str, Any]) -> str:
        """Return whether a value lies where another training of the same network may lie."""
        if self.trainings is None or name not in self.trainings.mean:
            return DIFFERS
        distance = abs(live["value"] - self.trainings.mean[name])
        reach = self.trainings.reach(name)
        if distance > FAR_BEYOND * reach:
            return DIFFERS
        return AGREES if distance <= reach else BEYOND


def _same_count(published: dict[str, Any], live: dict[str, Any]) -> bool:
    """Return whether two estimates are based on equally many images."""
    counts = [value["n"] for value in (published, live)]
    if not all(map(_is_number, counts)):
        return True
    # of a share among the best cells, n is itself a result of training
    return counts[0] == counts[1] or not _is_number(published["low"])


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
        A row for each published value; columns value (its name), published, live and verdict.
        Attributes: "machines", the kinds of machine on which the two ran; "seeds", the number of
        published seeds.

    Raises:
        StudyError: a run is missing, or the two have different profiles, seeds or images.
    """
    before = _origin(published, "nothing was published under this name")
    now = _origin(live, AGAIN)
    if any(before[key] != now[key] for key in ("config", "seed")):
        raise StudyError(
            f"{live.folder} was run with another profile or seed than {published.folder}: {AGAIN}"
        )
    if before["inputs"] != now["inputs"]:
        raise StudyError(
            f"{live.folder} was run on other images, labels or parts than {published.folder}: "
            "compare the sets before the results"
        )
    values, live_values = all_values(published), all_values(live)
    if _joined_seeds(published) == _joined_seeds(live):
        values |= all_values(StoredRun(published.folder / JOINED))
        live_values |= all_values(StoredRun(live.folder / JOINED))
    seeds = [all_values(run) for run in published_seeds(published)]
    same_precision = before.get("precision") == now.get("precision")
    is_repetition = _is_repetition(before, now)
    rule = Rule(seeds, values, live_values, is_repetition, same_precision)
    lines = []
    for name, verdict in rule.judge_all().items():
        other = live_values.get(name)
        lines.append((name, values[name]["text"], other["text"] if other else "", verdict))
    table = pd.DataFrame(lines, columns=["value", "published", "live", "verdict"])
    table.attrs["machines"] = [_machine(before), _machine(now)]
    table.attrs["is_repetition"] = is_repetition
    table.attrs["seeds"] = len(seeds)
    return table


def _is_repetition(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the same code ran on the same model of processor.

    GPUs do not repeat sums in the same order, and some systems do not name their processor.
    """
    is_same = all(before.get(key) == now.get(key) for key in MACHINE)
    return is_same and "code" in before and now["device"] == "cpu" and now["processor"] != ""


def published_seeds(first: StoredRun) -> list[StoredRun]:
    """Return the published runs that differ from a run in nothing but the seed, and itself."""
    origin = first.entry("table", "claims")["provenance"]
    same = ("profile", *STUDY_KEYS, *MAKING_KEYS)
    runs = [first]
    for path in sorted(first.folder.parent.glob(f"{origin['profile']}*/values/claims.csv")):
        run = StoredRun(path.parents[1])
        other = run.entry("table", "claims")["provenance"]
        is_same = all(other.get(key) == origin.get(key) for key in same) and "code" in other
        if is_same and other["seed"] != origin["seed"]:
            runs.append(run)
    return runs


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
    parts = [origin[key] for key in ("device", "processor", "instructions")]
    return ", ".join([*parts, f"{origin['threads']} threads"])


def summary(table: pd.DataFrame) -> str:
    """Return the differences, one per line, and one sentence about all values."""
    lines = []
    for row in table[table["verdict"] != SAME].itertuples():
        lines.append(f"{row.verdict:>12}  {row.value}: {row.published} → {row.live}")
    published, live = table.attrs["machines"]
    if table.attrs["is_repetition"]:
        lines.append(f"both runs on the same kind of machine ({live}): values must be the same")
    else:
        lines.append(
            f"published on {published}; this run on {live}, or with other code or libraries: "
            f"values may differ as {_tolerance(table.attrs['seeds'])}"
        )
    counts = table["verdict"].value_counts()
    failed = int(table["verdict"].isin(FAILED).sum())
    verdict = "all published numbers hold"
    if failed:
        verdict = f"published numbers that do not hold: {failed}"
    parts = ", ".join(f"{count} {word}" for word, count in counts.items())
    lines.append(f"{len(table)} values ({parts}): {verdict}")
    return "\n".join(lines)


def _tolerance(seeds: int) -> str:
    if seeds >= SEEDS_NEEDED:
        return f"trainings do, measured on {seeds} published seeds"
    return (
        "their intervals over test images allow; to include how far trainings lie apart, publish "
        f"{SEEDS_NEEDED} seeds"
    )
