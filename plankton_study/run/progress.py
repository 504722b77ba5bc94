"""Progress display: a bar in a terminal, otherwise a line every 30 seconds."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

#: format of the lines printed without a terminal; they are removed from executed notebooks
LINE = "{desc}: {n_fmt} of {total_fmt}, about {remaining} left\n"
SECONDS_BETWEEN_LINES = 30


def progress(label: str, work: Sequence[Any] | int, done: int = 0) -> tqdm:
    """Return a progress display.

    Args:
        label: says what is being done.
        work: items to iterate over, or a number of steps that the caller counts with `update`.
        done: steps that an earlier, interrupted run has finished.
    """
    options: dict[str, Any] = {"desc": label, "initial": done}
    if isinstance(work, int):
        options["total"] = work
    else:
        options["iterable"] = work
    is_first_process = int(os.environ.get("RANK", 0)) == 0
    options["disable"] = not is_first_process
    if sys.stderr.isatty():
        return tqdm(**options, leave=False)
    pause = {"delay": SECONDS_BETWEEN_LINES, "mininterval": SECONDS_BETWEEN_LINES}
    return tqdm(**options, **pause, file=sys.stdout, bar_format=LINE)
