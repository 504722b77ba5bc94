"""The exact pins of environment.yml: check them, list them for pip, refresh them.

The Makefile runs this file by its path before anything is installed, so only the standard library is imported
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

# One resolution for every platform and Python, with a single version of each package wherever one exists.
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
# torch's own build pins these exactly; listed here, a machine without a GPU would download gigabytes in vain.
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")


def read(path: Path = ENVIRONMENT) -> list[str]:
    """Return the pip requirement lines of an environment file, `-e .` included."""
    section = path.read_text(encoding="utf-8").partition(HEAD)[2]
    return [line.removeprefix(INDENT) for line in section.splitlines() if line.startswith(INDENT)]


def missing(lines: list[str]) -> list[str]:
    """Return the lines that the running interpreter lacks; those for other platforms do not count."""
    from packaging.requirements import Requirement

    out = []
    for line in lines:
        if line == THIS:  # an editable install of another checkout would run that other code
            spec = importlib.util.find_spec("plankton_study")
            if spec is None or Path(spec.origin or "").resolve().parent != ROOT / "plankton_study":
                out.append(line)
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            try:
                held = pin.specifier.contains(
                    importlib.metadata.version(pin.name), prereleases=True
                )
            except importlib.metadata.PackageNotFoundError:
                held = False
            if not held:
                out.append(line)
    return out


def clean(resolved: str) -> list[str]:
    """Return a resolution without torch's own pins and without local versions such as `+cpu`."""
    lines = [
        re.sub(r"(==[^\s+;]+)\+[^\s;]+", r"\1", line.strip()) for line in resolved.splitlines()
    ]
    return [
        line
        for line in dict.fromkeys(lines)
        if line and not line.startswith((*LEFT_TO_TORCH, "#", "-"))
    ]


def refresh() -> None:
    """Resolve the ranges of pyproject.toml anew and write the pins into environment.yml."""
    resolved = subprocess.run(
        RESOLVE, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    top = ENVIRONMENT.read_text(encoding="utf-8").partition(HEAD)[0]
    text = top + HEAD + "".join(f"{INDENT}{line}\n" for line in [*clean(resolved), THIS])
    partial = ENVIRONMENT.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(ENVIRONMENT)


def main(command: str = "") -> int:
    """Run one command; the answer is an exit status."""
    if command == "list":
        print("\n".join(read()))
    elif command == "refresh":
        try:
            refresh()
        except (OSError, subprocess.CalledProcessError) as error:
            print(
                f"error: the pins could not be refreshed, environment.yml is unchanged: {error}",
                file=sys.stderr,
            )
            return 1
        print(f"{len(read()) - 1} pins in {ENVIRONMENT.name}")
    elif command == "check":
        try:
            lines = missing(read())
        except ImportError:  # without `packaging`, which is pinned, the pins are not held either
            lines = ["packaging"]
        print("\n".join(f"not held: {line}" for line in lines) or "every pin is held")
        return int(bool(lines))
    else:
        print("usage: python plankton_study/pins.py check|list|refresh", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2]))
