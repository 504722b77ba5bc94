"""Fair timing: things to compare run in turn, several times, after a warm-up."""

import time
from collections.abc import Callable

import numpy as np


def side_by_side(kinds: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, np.ndarray]:
    """Return name → (rounds,) seconds. Every round runs each kind once, in an order that turns from round to round."""
    names = list(kinds)
    for name in names:
        kinds[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            started = time.perf_counter()
            kinds[name]()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def row(
    section: str,
    what: str,
    values: np.ndarray,
    aim: str = "",
    met: bool | None = None,
    unit: str = "×",
) -> dict:
    """Return one line of the table: median and range of the rounds, the aim, and whether the median meets it."""
    median, low, high = float(np.median(values)), float(np.min(values)), float(np.max(values))
    line = {
        "section": section,
        "what": what,
        "median": median,
        "low": low,
        "high": high,
        "unit": unit,
        "aim": aim,
    }
    return line | {"met": None if met is None else bool(met)}
