"""The dependencies of each notebook, as rules for make, computed from imports and metadata.

A notebook depends on the modules that it imports, on the modules that these import, and on the
data files next to them (such as catalogue.toml). It runs after the notebooks that its metadata
names: `"plankton_study": {"after": ["04_encoders"]}`, or "all". By default, a notebook runs after
those that compare the encoders. "all" does not mean notebooks with `"aside": true`, from which no
claim follows.

The Makefile runs this file before anything is installed, so it uses only the standard library.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "plankton_study"
AFTER_BY_DEFAULT = ["04_encoders", "05_long_tail"]
DATA_ENDINGS = (".toml", ".csv")


def module_files(name: str, root: Path) -> set[Path]:
    """Return the files that an import of a module of the package runs.

    These are the module and the `__init__.py` of the packages that hold it; none if there is no
    such module.
    """
    parts = name.split(".")
    path = root.joinpath(*parts)
    own = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    if parts[0] != PACKAGE or not own:
        return set()
    holding = [root.joinpath(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts))]
    return {own[0], *(file for file in holding if file.is_file())}


def imported_modules(source: str, root: Path, name: str = "<source>") -> set[Path]:
    """Return the files of the package's modules that a source imports.

    Raises:
        SyntaxError: the source is not valid Python; the error names `name`.
    """
    tree = ast.parse(source, name)
    return set().union(*(module_files(module, root) for module in _imported_names(tree)))


@cache
def modules_imported_by(file: Path, root: Path) -> frozenset[Path]:
    """Return the files of the package's modules that a file imports; each file is read once."""
    return frozenset(imported_modules(file.read_text(encoding="utf-8"), root, str(file)))


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that may be a module: `from a import b` may import the module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def data_files(folder: Path) -> set[Path]:
    """Return the data files in the folder of a module, such as catalogue.toml."""
    return {file for file in folder.iterdir() if file.suffix in DATA_ENDINGS}


def all_needed(source: str, root: Path, name: str = "<source>") -> set[Path]:
    """Return all files of the package that a source needs, directly or indirectly."""
    needed: set[Path] = set()
    waiting = imported_modules(source, root, name)
    while waiting:
        file = waiting.pop()
        needed.add(file)
        needed |= data_files(file.parent)
        waiting |= modules_imported_by(file, root) - needed
    return needed


def notebook_source(book: dict) -> str:
    """Return the code of a notebook without magics."""
    lines = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            lines += "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if line[:1] not in ("%", "!"))


def runs_after(wishes: dict[str, list[str]], aside: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return for each notebook the notebooks that must run before it.

    Args:
        wishes: name of a notebook → the notebooks named in its metadata, or "all": every notebook
            that neither says "all" itself nor runs after one that does.
        aside: notebooks that "all" does not mean.

    Raises:
        ValueError: notebooks wait for each other.
    """
    last = {name for name, names in wishes.items() if "all" in names}
    after_last = set(last)
    for _ in wishes:  # no chain of notebooks can be longer
        after_last |= {name for name, names in wishes.items() if after_last & set(names)}
    before_last = [name for name in wishes if name not in {*after_last, *aside}]
    before = {}
    for name, names in wishes.items():
        wanted = before_last if name in last else names
        before[name] = [other for other in wanted if other in wishes and other != name]
    _refuse_circles(before)
    return before


def _refuse_circles(before: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        circle = ", ".join(error.args[1][1:])
        raise ValueError(
            f"the notebooks {circle} wait for each other: correct 'after' in their metadata"
        ) from None


def read_notebook(file: Path) -> dict:
    """Return a notebook.

    Raises:
        ValueError: the file is not a notebook.
    """
    try:
        book = json.loads(file.read_text(encoding="utf-8"))
        return {"cells": book["cells"], "metadata": book["metadata"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a readable notebook ({error}): restore it") from None


def rules(root: Path) -> str:
    """Return the rules of all numbered notebooks.

    Raises:
        ValueError: a notebook cannot be read, or notebooks wait for each other.
        SyntaxError: a module or a notebook is not valid Python.
    """
    files = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    books = {file.stem: read_notebook(file) for file in files}
    about = {name: book["metadata"].get(PACKAGE, {}) for name, book in books.items()}
    wishes = {name: own.get("after", AFTER_BY_DEFAULT) for name, own in about.items()}
    aside = [name for name, own in about.items() if own.get("aside")]
    before = runs_after(wishes, aside)
    lines = ["# Written by .ci/dependencies.py from imports and metadata; do not edit."]
    for name, book in books.items():
        executed = [f"$(DONE)/{other}.ipynb" for other in before[name]]
        needed = all_needed(notebook_source(book), root, f"notebooks/{name}.ipynb")
        modules = sorted(path.relative_to(root).as_posix() for path in needed)
        lines.append(f"$(DONE)/{name}.ipynb: {' '.join([*executed, *modules])}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the rules; return an exit status."""
    try:
        sys.stdout.write(rules(ROOT))
    except SyntaxError as error:
        message = f"{error.filename}, line {error.lineno}, is not valid Python: {error.msg}"
        print(f"error: {message}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
