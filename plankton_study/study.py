"""One study, its profile, seed, folders and device: a notebook loads it first and passes it to whatever it calls."""

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from plankton_study.profile import ROOT, StudyError, read_profile
from plankton_study.schema import Profile

ALONE = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True, wait_for_everyone=tuple)


@dataclass(frozen=True)
class Study:
    """What every step needs: the profile, the training seed and the folders."""

    profile: Profile
    seed: int
    cache: Path
    data: Path | None
    threads: int

    @property
    def results(self) -> Path:
        """The folder of the live results of this profile and seed."""
        return ROOT / "paper" / "results" / f"{self.profile.name}{f'-seed{self.seed}' if self.seed else ''}"

    @cached_property
    def device(self) -> str:
        """The torch device: $PLANKTON_DEVICE, else CUDA, else Apple's MPS, else the CPU."""
        import torch

        torch.set_num_threads(self.threads)
        # keep what is freed: fetching the memory of activations anew costs a training step a seventh of its time
        with suppress(OSError, AttributeError):  # where there is glibc
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        device = os.environ.get("PLANKTON_DEVICE") or found
        if device not in ("cpu", "cuda", "mps"):
            raise StudyError(f"PLANKTON_DEVICE={device} is no device: give cpu, cuda or mps")
        return device

    @cached_property
    def team(self) -> Any:
        """The processes of one `accelerate launch` (Accelerate's PartialState); a single one without it."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return ALONE
        from accelerate import PartialState

        return PartialState(cpu=self.device == "cpu", timeout=timedelta(days=7))  # others wait while one reads images

    @cached_property
    def revision(self) -> dict[str, Any]:
        """Git revision and dirty flag, taken once a run by make, or now outside make."""
        if (revision := os.environ.get("PLANKTON_REVISION")) is not None:
            return {"revision": revision or None, "dirty": os.environ.get("PLANKTON_DIRTY") == "1"}
        run = partial(subprocess.check_output, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
        try:
            revision = run(["git", "rev-parse", "HEAD"]).strip()
            return {"revision": revision, "dirty": bool(run(["git", "status", "--porcelain"]))}
        except (OSError, subprocess.CalledProcessError):
            return {"revision": None, "dirty": None}


def load(profile: str | None = None, seed: int | None = None) -> Study:
    """Return the study of a profile (else $PLANKTON_PROFILE, else "demo"); a notebook's first call.

    Arguments: `profile` is a name or path; `seed` is of training, None means $PLANKTON_SEED, else 0.
    Raises: StudyError if the profile is missing or wrong, or $PLANKTON_DATA is not a folder.
    """
    checked = read_profile(profile or os.environ.get("PLANKTON_PROFILE") or "demo")
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = str(int(not checked.hub))
    for name in {"huggingface_hub.constants", "datasets.config"} & set(sys.modules):  # they read it when imported
        sys.modules[name].HF_HUB_OFFLINE = not checked.hub
    threads = _whole("PLANKTON_THREADS", max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    data = Path(os.environ["PLANKTON_DATA"]) if os.environ.get("PLANKTON_DATA") else None
    if data and not data.is_dir():
        raise StudyError(f"the data folder {data} does not exist: pass an existing folder as DATA=… or $PLANKTON_DATA")
    cache = Path(os.environ.get("PLANKTON_CACHE") or ROOT / ".cache").resolve()
    return Study(checked, _whole("PLANKTON_SEED", 0) if seed is None else seed, cache, data, threads)


def _whole(variable: str, default: int, least: int = 0) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise StudyError(f"{variable}={text} is no whole number from {least} on")
    return int(text)
