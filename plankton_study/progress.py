"""Progress that suits its reader: a bar at a terminal, a log line every half minute elsewhere."""

import sys

from tqdm import tqdm


def progress(what: str, total: int, done: int = 0) -> tqdm:
    """Return a context whose `update(steps)` counts; `done` steps were finished by a run that was interrupted."""
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, desc=what, leave=False)
    line = "{desc}: {n_fmt} of {total_fmt}, about {remaining} left\n"
    return tqdm(total=total, initial=done, desc=what, file=sys.stdout, delay=30, mininterval=30, bar_format=line)
