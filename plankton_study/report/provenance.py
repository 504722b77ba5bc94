"""Provenance of a result: code, profile, data, versions, machine."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plankton_study.models.precision import resolved_precision
from plankton_study.run.cache import SOURCES, VERSIONS, code_digest, digest
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
    profile = study.profile
    return {
        "revision": revision,
        "dirty": is_dirty,
        "code": computing_code(),
        "profile": study.profile.name,
        "config": digest(study.profile.model_dump(mode="json")),
        "seed": study.seed,
        "inputs": sorted(inputs),
        "device": study.device,
        "threads": study.threads,
        "precision": {
            "training": resolved_precision(profile.training.precision, study.device),
            "features": resolved_precision(profile.features.precision, study.device),
        },
        "processor": processor_name(),
        "instructions": get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {**VERSIONS, "matplotlib": version("matplotlib")},
        "seconds": round(time.monotonic() - STARTED, 1),
    }


@cache
def computing_code() -> str:
    """Return the hash of all code of the package that computes, and of the libraries' versions.

    The room `report` only shows what was computed, so its modules are left out.
    """
    return code_digest(name for name in SOURCES if not name.startswith(("report.", "__")))


@cache
def processor_name() -> str:
    """Return the model of the processor; "" if the system does not say it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        parts = [facts.get(key, "") for key in ("model name", "cpu family", "model")]
        if parts[0]:
            return " ".join(part for part in parts if part)
    return ""


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
