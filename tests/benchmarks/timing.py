"""Fair timing: calls that are compared run in turn, several times, after a warm-up."""

import time
from collections.abc import Callable

import numpy as np


def time_in_turn(calls: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, np.ndarray]:
    """Return name → (rounds,) seconds.

    Each call first runs once to warm up. Then every round runs each call once. The order is
    reversed from one round to the next, so no call always comes first.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        names = list(calls) if number % 2 else list(reversed(calls))
        for name in names:
            seconds[name].append(seconds_of(calls[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def result_row(
    section: str,
    what: str,
    values: np.ndarray | float,
    aim: str = "",
    met: bool | None = None,
    unit: str = "×",
) -> dict:
    """Return one row of the results.

    Args:
        section: the part of the benchmark.
        what: says what was measured.
        values: one for each round; the row holds their median and range.
        aim: in words; empty if there is none.
        met: whether the values reach the aim; None if there is none.
        unit: of the values; "×" is a ratio of times or rates.
    """
    return {
        "section": section,
        "what": what,
        "median": float(np.median(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
        "unit": unit,
        "aim": aim,
        "met": None if met is None else bool(met),
    }
