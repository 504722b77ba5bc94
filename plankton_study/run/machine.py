"""The machine: its device, its threads, and the processes of one `accelerate launch`."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from plankton_study.run.errors import StudyError

DEVICES = ("cpu", "cuda", "mps")
# options of glibc's mallopt
M_MMAP_MAX = -4
M_TRIM_THRESHOLD = -1


def choose_device() -> str:
    """Return the torch device: $PLANKTON_DEVICE, else CUDA, else Apple's MPS, else the CPU.

    Raises:
        StudyError: $PLANKTON_DEVICE is not a device.
    """
    import torch

    requested = os.environ.get("PLANKTON_DEVICE")
    if requested and requested not in DEVICES:
        raise StudyError(f"PLANKTON_DEVICE={requested} is not a device: use {', '.join(DEVICES)}")
    if requested:
        return requested
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def set_up_torch(threads: int) -> None:
    """Set the number of torch threads, and let the process keep memory that it frees.

    Requesting memory from the system for every new activation would take a seventh of the time of
    a training step. Only glibc has this option; other systems are left unchanged.
    """
    import torch

    torch.set_num_threads(threads)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass(frozen=True)
class Processes:
    """The processes that share the work: how many, which one this is, and how to wait for all."""

    count: int
    index: int
    wait: Callable[[], None]

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints the messages."""
        return self.index == 0

    @property
    def own_share(self) -> slice:
        """The part of a batch, or of a list, that belongs to this process."""
        return slice(self.index, None, self.count)


def _no_wait() -> None:
    """Return immediately: a single process has no others to wait for."""


SINGLE_PROCESS = Processes(count=1, index=0, wait=_no_wait)
_works_alone: ContextVar[bool] = ContextVar("works_alone", default=False)


def processes() -> Processes:
    """Return the processes of this `accelerate launch` or `torchrun`, or the single one."""
    if _works_alone.get() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return SINGLE_PROCESS
    return _launched_processes()


@contextmanager
def working_alone() -> Iterator[None]:
    """Let this process work alone while the others wait for it."""
    token = _works_alone.set(True)
    try:
        yield
    finally:
        _works_alone.reset(token)


@cache
def _launched_processes() -> Processes:
    from accelerate import PartialState

    # the other processes may have to wait for hours while one of them reads images
    state = PartialState(cpu=choose_device() == "cpu", timeout=timedelta(days=7))
    return Processes(state.num_processes, state.process_index, state.wait_for_everyone)
