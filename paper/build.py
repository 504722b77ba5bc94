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
    return _typeset(stored(name), name)


def _typeset(folder: Path, name: str) -> Path:
    where = "/" + folder.relative_to(ROOT).as_posix()
    facts = {"results": where, "state": folder.parent.name, "profile": name}
    try:
        content = typst.compile(ROOT / "paper" / "paper.typ", root=ROOT, sys_inputs=facts)
    except typst.TypstError as error:
        raise StudyError(f"the PDF cannot be typeset from {folder}: {str(error).splitlines()[0]}") from None
    beside = folder / ".paper.pdf"
    beside.write_bytes(content)
    return beside.replace(folder / "paper.pdf")


def publish(name: str) -> Path:
    """Copy a finished, complete run to paper/published/; return the folder.

    Raises:
        StudyError: a cited result is missing or belongs to another run, or a notebook has not been executed.
    """
    live = ROOT / "paper" / "results" / name
    again = f"run `make paper PROFILE={name}` first"
    if not (live / "paper.pdf").is_file():
        raise StudyError(f"{live} holds no finished run: {again}")
    books = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    if unrun := sorted(books - {path.stem for path in (live / "notebooks").glob("*.ipynb")}):
        raise StudyError(f"{live} lacks the executed notebooks {', '.join(unrun)}: {again}")
    made = {}
    for kind, result in report.cited():
        path = live / "provenance" / f"{kind}_{result}.json"
        if not path.is_file():
            raise StudyError(f"{live} lacks the {kind} {result}: {again}")
        facts = json.loads(path.read_text())["provenance"]
        made[facts["config"], facts["seed"], facts["revision"]] = result
    if len(made) > 1:
        raise StudyError(
            f"{live} mixes results of {len(made)} runs ({', '.join(made.values())}): `make clean`, then {again}"
        )
    target = ROOT / "paper" / "published" / name
    beside = target.with_name(f".{name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(live, beside, ignore=shutil.ignore_patterns(".*", "*.failed.ipynb", "paper.pdf"))
    shutil.rmtree(target, ignore_errors=True)
    beside.replace(target)
    _typeset(target, name)  # anew: the live PDF says that it is not published
    return target


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
