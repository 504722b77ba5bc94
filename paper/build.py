"""Typeset the manuscript from stored results, and publish a finished run: python paper/build.py pdf|publish PROFILE."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import typst

from plankton_study import report
from plankton_study.profile import ROOT, StudyError


def stored(name: str) -> Path:
    """Return the folder of a profile's results: live ones if there are any, else the published ones."""
    for kind in ("results", "published"):
        folder = ROOT / "paper" / kind / name
        if (folder / "provenance").is_dir():
            return folder
    raise StudyError(f"there are no results of the profile {name!r}: run `make paper PROFILE={name}` first")


def pdf(name: str) -> Path:
    """Typeset the manuscript from a profile's stored results, in seconds; return the PDF's path.

    Raises:
        StudyError: a result that the manuscript cites is missing.
    """
    folder = stored(name)
    where = "/" + folder.relative_to(ROOT).as_posix()
    facts = {"results": where, "state": folder.parent.name, "profile": name}
    target = folder / "paper.pdf"
    try:
        content = typst.compile(ROOT / "paper" / "paper.typ", root=ROOT, sys_inputs=facts)
    except typst.TypstError as error:
        raise StudyError(f"the PDF cannot be typeset from {folder}: {str(error).splitlines()[0]}") from None
    beside = target.with_name(".paper.pdf")
    beside.write_bytes(content)
    return beside.replace(target)


def publish(name: str) -> Path:
    """Copy a finished, complete run to paper/published/; return the folder.

    Raises:
        StudyError: a cited result is missing or belongs to another run, or a notebook has not been executed.
    """
    live = ROOT / "paper" / "results" / name
    if not (live / "paper.pdf").is_file():
        raise StudyError(f"{live} holds no finished run: run `make paper PROFILE={name}` first")
    made = {json.loads(p.read_text())["provenance"]["config"] for p in (live / "provenance").glob("*.json")}
    if missing := [
        f"{kind} {n}" for kind, n in report.cited() if not (live / "provenance" / f"{kind}_{n}.json").is_file()
    ]:
        raise StudyError(f"the run in {live} lacks {', '.join(missing)}: run `make paper PROFILE={name}` again")
    if len(made) > 1:
        raise StudyError(
            f"{live} mixes results of {len(made)} versions of the profile: `make clean PROFILE={name}`, run again"
        )
    target = ROOT / "paper" / "published" / name
    beside = target.with_name(f".{name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(live, beside, ignore=shutil.ignore_patterns(".*", "*.failed.ipynb", "*.partial"))
    shutil.rmtree(target, ignore_errors=True)
    return beside.replace(target)


def main(arguments: list[str]) -> int:
    """Run `python paper/build.py pdf|publish NAME`."""
    actions = {"pdf": pdf, "publish": publish}
    if len(arguments) != 2 or arguments[0] not in actions:
        print("usage: python paper/build.py pdf|publish PROFILE", file=sys.stderr)
        return 2
    try:
        print(actions[arguments[0]](arguments[1]).relative_to(ROOT))
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
