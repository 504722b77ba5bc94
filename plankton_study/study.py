"""One study: its profile, seed, folders and device.

A notebook starts with `s = study.load(profile, seed)` and passes `s` to whatever it calls.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from plankton_study.profile import ROOT, Profile, StudyError, read_profile


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
        """The folder of this profile's live results."""
        return ROOT / "paper" / "results" / self.profile.name

    @cached_property
    def device(self) -> str:
        """The torch device: $PLANKTON_DEVICE, else CUDA, else Apple's MPS, else the CPU."""
        import torch

        torch.set_num_threads(self.threads)
        if wanted := os.environ.get("PLANKTON_DEVICE"):
            if wanted not in ("cpu", "cuda", "mps"):
                raise StudyError(f"PLANKTON_DEVICE={wanted} is no device: give cpu, cuda or mps")
            return wanted
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    @cached_property
    def revision(self) -> dict[str, Any]:
        """Git revision and dirty flag, taken once a run by make, or now outside make."""
        if "PLANKTON_REVISION" in os.environ:
            dirty = os.environ.get("PLANKTON_DIRTY") == "1"
            return {"revision": os.environ["PLANKTON_REVISION"] or None, "dirty": dirty}
        git = ["git", "-C", str(ROOT)]
        try:
            head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
            dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return {"revision": None, "dirty": None}
        return {"revision": head.strip(), "dirty": bool(dirty.strip())}


def load(profile: str | None = None, seed: int | None = None) -> Study:
    """Return the study of a profile; a notebook's first call.

    Args:
        profile: name or path; None means $PLANKTON_PROFILE, else "demo".
        seed: the training seed; None means $PLANKTON_SEED, else 0.

    Raises:
        StudyError: the profile is missing or wrong, or $PLANKTON_DATA is not a folder.
    """
    checked = read_profile(profile or os.environ.get("PLANKTON_PROFILE") or "demo")
    _switch_hub(checked.hub)
    threads = _whole("PLANKTON_THREADS", os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    data = Path(os.environ["PLANKTON_DATA"]) if os.environ.get("PLANKTON_DATA") else None
    if data is not None and not data.is_dir():
        raise StudyError(f"the data folder {data} does not exist: pass an existing folder as DATA=… or $PLANKTON_DATA")
    seed = _whole("PLANKTON_SEED", 0) if seed is None else seed
    cache = Path(os.environ.get("PLANKTON_CACHE") or ROOT / ".cache")
    return Study(checked, seed, cache.resolve(), data, threads)


def _whole(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise StudyError(f"{variable}={text} is not a whole number")
    return int(text)


def _switch_hub(on: bool) -> None:
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = str(int(not on))
    for name in ("huggingface_hub.constants", "datasets.config"):  # read the variable when they were imported
        if name in sys.modules:
            sys.modules[name].HF_HUB_OFFLINE = not on
