"""The exact pins of environment.yml: check them, list them for pip, refresh them.

The Makefile runs this file before anything is installed, so only the standard library is imported
at the top.
"""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "environment.yml"
HEAD, INDENT, THIS = "  - pip:\n", "      - ", "-e ."

# One resolution for all platforms and Python versions, with a single version of each package where
# possible.
RESOLVE = [
    "uv",
    "pip",
    "compile",
    "pyproject.toml",
    "--all-extras",
    "--universal",
    "--fork-strategy",
    "fewest",
]
RESOLVE += ["--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
# torch's own builds pin these exactly; if they were listed here, machines without a GPU would
# download gigabytes that they do not need.
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")
LOCAL_VERSION = re.compile(r"(==[^\s+;]+)\+[^\s;]+")  # such as torch==2.13.0+cpu


def read(path: Path = ENVIRONMENT) -> list[str]:
    """Return the pip requirement lines of an environment file, `-e .` included."""
    section = path.read_text(encoding="utf-8").partition(HEAD)[2]
    return [line.removeprefix(INDENT) for line in section.splitlines() if line.startswith(INDENT)]


def missing(lines: list[str]) -> list[str]:
    """Return the lines that the running interpreter does not satisfy, ignoring other platforms."""
    return [line for line in lines if not _is_held(line)]


def _is_held(line: str) -> bool:
    from packaging.requirements import Requirement

    if line == THIS:
        return _is_this_checkout_installed()
    pin = Requirement(line)
    if pin.marker is not None and not pin.marker.evaluate():
        return True  # for another platform
    try:
        installed = importlib.metadata.version(pin.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return pin.specifier.contains(installed, prereleases=True)


def _is_this_checkout_installed() -> bool:
    """Return whether this checkout is installed; an editable install may belong to another one."""
    spec = importlib.util.find_spec("plankton_study")
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve().parent == ROOT / "plankton_study"


def clean(resolved: str) -> list[str]:
    """Return a resolution without torch's own pins and without local versions such as `+cpu`."""
    left_out = (*LEFT_TO_TORCH, "#", "-")
    lines = []
    for line in resolved.splitlines():
        requirement = LOCAL_VERSION.sub(r"\1", line.strip())
        if requirement and not requirement.startswith(left_out):
            lines.append(requirement)
    return list(dict.fromkeys(lines))


def refresh() -> None:
    """Resolve the ranges of pyproject.toml again and write the pins to environment.yml."""
    resolved = subprocess.run(
        RESOLVE, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    top = ENVIRONMENT.read_text(encoding="utf-8").partition(HEAD)[0]
    text = top + HEAD + "".join(f"{INDENT}{line}\n" for line in [*clean(resolved), THIS])
    partial = ENVIRONMENT.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(ENVIRONMENT)


def check() -> int:
    """Print the pins that the running interpreter does not satisfy; return 1 if there are any."""
    try:
        lines = missing(read())
    except ImportError:  # `packaging` is a pin itself, so it is missing
        lines = ["packaging"]
    print("\n".join(f"not satisfied: {line}" for line in lines) or "all pins are satisfied")
    return 1 if lines else 0


def try_refresh() -> int:
    """Refresh the pins and print how many there are; return 1 if this fails."""
    try:
        refresh()
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"error: the pins could not be refreshed, environment.yml is unchanged: {error}",
            file=sys.stderr,
        )
        return 1
    print(f"{len(read()) - 1} pins in {ENVIRONMENT.name}")
    return 0


def main(command: str = "") -> int:
    """Run one command; return an exit status."""
    if command == "list":
        print("\n".join(read()))
        return 0
    if command == "check":
        return check()
    if command == "refresh":
        return try_refresh()
    print(f"usage: python {sys.argv[0]} check|list|refresh", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2]))
