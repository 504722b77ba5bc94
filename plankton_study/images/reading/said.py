"""What readers decide, join and leave out is said: printed, or collected to be shown later."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def say(message: str) -> None:
    """Print a message, or add it to those that are collected."""
    collected = _collected.get()
    if collected is None:
        print(message)
    else:
        collected.append(message)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Collect what is said inside the context instead of printing it; yield the list."""
    collected: list[str] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
