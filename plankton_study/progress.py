"""Progress that suits its reader: a bar at a terminal, a log line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class progress:
    """Count steps of something long.

    Args:
        what: what is being done, such as "training".
        total: number of steps.
        done: steps finished before, by a run that was interrupted.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done, self.first = what, total, done, done
        self.started = self.told = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=what, leave=False)

    def update(self, steps: int = 1) -> None:
        """Count `steps` more; tell when half a minute has passed since the last word."""
        self.done += steps
        if self.bar is not None:
            self.bar.update(steps)
        elif (now := time.monotonic()) - self.told >= 30:
            self.told = now
            rate = (self.done - self.first) / (now - self.started)
            left = (self.total - self.done) / rate if rate else 0
            print(f"{self.what}: {self.done} of {self.total}, about {left:.0f} s left", flush=True)

    def __enter__(self) -> progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
