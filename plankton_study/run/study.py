"""One study: its profile, seed, folders and device. A notebook loads it first."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from plankton_study.run.errors import StudyError
from plankton_study.run.files import ROOT
from plankton_study.run.machine import choose_device, set_up_torch
from plankton_study.run.profile import read_profile
from plankton_study.run.schema import Profile

DEFAULT_PROFILE = "demo"


@dataclass(frozen=True)
class Study:
    """The profile, seed, folders and device that every step needs.

    Attributes:
        profile: everything that the run depends on except seed, data and machine.
        seed: the training seed.
        cache: the folder of cached results.
        data: the folder that holds the image sets, if the user named one.
        device: the torch device: cpu, cuda or mps.
        threads: number of threads of this process.
        results_root: the folder with one folder of results for each run.
    """

    profile: Profile
    seed: int
    cache: Path
    data: Path | None
    device: str
    threads: int
    results_root: Path

    @property
    def results(self) -> Path:
        """The folder of the live results of this profile and seed."""
        return self.results_root / run_name(self.profile.name, self.seed)


def run_name(profile: str, seed: int) -> str:
    """Return the name of a run's folder: "demo" for seed 0, "demo-seed1" for seed 1."""
    if seed == 0:
        return profile
    return f"{profile}-seed{seed}"


def load_study(profile: str | None = None, seed: int | None = None) -> Study:
    """Return the study of a profile, and set up this process for it.

    This sets the number of torch threads, and allows the Hugging Face Hub if the profile does.

    Args:
        profile: a name or the path of a TOML file; None means $PLANKTON_PROFILE, else "demo".
        seed: the training seed; None means $PLANKTON_SEED, else 0.

    Raises:
        StudyError: the profile is missing or invalid, or $PLANKTON_DATA is not a folder.
    """
    name = profile or os.environ.get("PLANKTON_PROFILE") or DEFAULT_PROFILE
    checked = read_profile(name)
    if seed is None:
        seed = _whole_number("PLANKTON_SEED", default=0, minimum=0)
    data = _data_folder()
    threads = _threads()
    _allow_hub(checked.hub)
    device = choose_device()
    set_up_torch(threads)
    cache = Path(os.environ.get("PLANKTON_CACHE") or ROOT / ".cache").resolve()
    return Study(checked, seed, cache, data, device, threads, ROOT / "paper" / "results")


def _data_folder() -> Path | None:
    folder = os.environ.get("PLANKTON_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise StudyError(
            f"the data folder {folder} does not exist: "
            "pass an existing folder as DATA=… or $PLANKTON_DATA"
        )
    return Path(folder)


def _threads() -> int:
    """Return this process's number of threads, and set it for libraries imported later."""
    cores = os.cpu_count() or 1
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    default = max(cores // processes_here, 1)
    threads = _whole_number("PLANKTON_THREADS", default, minimum=1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    return threads


def _whole_number(variable: str, default: int, minimum: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) < minimum:
        raise StudyError(f"{variable}={text} is not a whole number of at least {minimum}")
    return int(text)


def _allow_hub(allowed: bool) -> None:
    """Allow or block the Hugging Face Hub, also for libraries that are already imported."""
    offline = "0" if allowed else "1"
    os.environ["HF_HUB_OFFLINE"] = offline
    os.environ["HF_DATASETS_OFFLINE"] = offline
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            sys.modules[name].HF_HUB_OFFLINE = not allowed
