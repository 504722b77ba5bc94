"""Where a result comes from: code, profile, data, versions, machine."""

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
#: what the results of one run have in common
RUN_KEYS = ("config", "seed", "revision", "dirty")


def provenance(study: Study, inputs: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a result belongs to.

    Args:
        study: gives profile, seed and machine.
        inputs: digests of the images that it was made from.
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
        # numbers are the same to the digit where these are
        "instructions": get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {**VERSIONS, "matplotlib": version("matplotlib")},
        "seconds": round(time.monotonic() - STARTED, 1),
    }


@cache
def code_revision() -> tuple[str | None, bool | None]:
    """Return the git revision, and whether there are changes that no commit holds.

    make takes both once for a run, since files may change meanwhile; outside of make they are
    those of now. Without git they are unknown.
    """
    revision = os.environ.get("PLANKTON_REVISION")
    if revision is not None:
        return revision or None, os.environ.get("PLANKTON_DIRTY") == "1"
    try:
        head = _git("rev-parse", "HEAD")
        return head.strip(), bool(_git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
