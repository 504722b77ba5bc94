"""Progress that suits its reader: a bar at a terminal, a log line every half minute elsewhere."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm


def progress(what: str, items: Sequence[Any] | int, done: int = 0) -> tqdm:
    """Return an iterator over `items` that shows how far it is; with a number, a context whose `update(steps)` counts.

    `done` steps were finished by a run that was interrupted.
    """
    shown = {"initial": done, "desc": what, "disable": int(os.environ.get("RANK", 0)) > 0}  # one of several tells
    shown |= {"total": items} if isinstance(items, int) else {"iterable": items}
    if sys.stderr.isatty():
        return tqdm(**shown, leave=False)
    line = "{desc}: {n_fmt} of {total_fmt}, about {remaining} left\n"
    return tqdm(**shown, file=sys.stdout, delay=30, mininterval=30, bar_format=line)
