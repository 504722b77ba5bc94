"""Provenance of a result: code, profile, data, versions, machine."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from typing import Any

from plankton_study.run.cache import VERSIONS, digest
from plankton_study.run.files import ROOT
from plankton_study.run.study import Study

STARTED = time.monotonic()
#: keys that all results of one run share
RUN_KEYS = ("config", "seed", "revision", "dirty")


def provenance(study: Study, inputs: Iterable[str] = ()) -> dict[str, Any]:
    """Return the provenance of a result.

    Args:
        study: provides profile, seed and machine.
        inputs: digests of the images that the result was computed from.
    """
    from torch.backends.cpu import get_cpu_capability

    revision, is_dirty = code_revision()
    return {
        "revision": revision,
        "dirty": is_dirty,
        "profile": study.profile.name,
        "config": digest(study.profile.model_dump(mode="json")),
        "seed": study.seed,
        "inputs": sorted(inputs),
        "device": study.device,
        "threads": study.threads,
        "processor": platform.processor() or platform.machine(),
        # processors with the same instruction set give exactly the same numbers
        "instructions": get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {**VERSIONS, "matplotlib": version("matplotlib")},
        "seconds": round(time.monotonic() - STARTED, 1),
    }


#: what shapes results: other files, such as a profile beside the package, do not make a run dirty
SHAPES_RESULTS = (
    "plankton_study",
    "notebooks",
    "paper",
    "environment.yml",
    "pyproject.toml",
    "Makefile",
)


@cache
def code_revision() -> tuple[str | None, bool | None]:
    """Return the git revision, and whether what shapes results has uncommitted changes.

    `make` determines both once at the start of a run, since files may change during it; without
    `make` they are the current ones. Without git they are unknown.
    """
    revision = os.environ.get("PLANKTON_REVISION")
    if revision is not None:
        return revision or None, os.environ.get("PLANKTON_DIRTY") == "1"
    try:
        head = _git("rev-parse", "HEAD")
        return head.strip(), bool(_git("status", "--porcelain", "--", *SHAPES_RESULTS))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
