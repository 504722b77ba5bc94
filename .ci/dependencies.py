"""What each notebook depends on, as rules for make: computed from imports and metadata.

A notebook depends on the modules that it imports, on the modules that these import, and on the
data files beside them (catalogue.toml). It runs after the notebooks that its metadata names:
`"plankton_study": {"after": ["04_encoders"]}`, or "all". A notebook that says nothing runs after
those that compare the encoders.

The Makefile runs this file before anything is installed, so it needs nothing but the standard
library.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "plankton_study"
AFTER_BY_DEFAULT = ["05_long_tail"]
DATA_ENDINGS = (".toml", ".csv")


def module_file(name: str, root: Path) -> Path | None:
    """Return the file of a module of the package; None if there is no such module."""
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported_modules(source: str, root: Path) -> set[Path]:
    """Return the files of the package's modules that a source imports."""
    files = set()
    for name in _imported_names(ast.parse(source)):
        if name.split(".")[0] == PACKAGE:
            file = module_file(name, root)
            if file is not None:
                files.add(file)
    return files


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that may be a module: `from a import b` may mean the module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def data_files(folder: Path) -> set[Path]:
    """Return the data files that lie beside a module, such as catalogue.toml."""
    return {file for file in folder.iterdir() if file.suffix in DATA_ENDINGS}


def all_needed(source: str, root: Path) -> set[Path]:
    """Return all files of the package that a source needs, directly or through others."""
    needed: set[Path] = set()
    waiting = imported_modules(source, root)
    while waiting:
        file = waiting.pop()
        needed.add(file)
        needed |= data_files(file.parent)
        waiting |= imported_modules(file.read_text(encoding="utf-8"), root) - needed
    return needed


def notebook_source(book: dict) -> str:
    """Return the code of a notebook without magics."""
    lines = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            lines += "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if line[:1] not in ("%", "!"))


def runs_after(name: str, wishes: dict[str, list[str]]) -> list[str]:
    """Return the notebooks that must have run before one.

    Args:
        name: of the notebook.
        wishes: name of a notebook → those that its metadata names, or "all": every notebook that
            does not run after it.
    """
    if "all" in wishes[name]:
        return [other for other in wishes if other != name and name not in wishes[other]]
    return [other for other in wishes[name] if other in wishes and other != name]


def rules(root: Path) -> str:
    """Return the rules of all numbered notebooks."""
    files = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    books = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    wishes = {
        name: book["metadata"].get(PACKAGE, {}).get("after", AFTER_BY_DEFAULT)
        for name, book in books.items()
    }
    lines = ["# Written by .ci/dependencies.py from imports and metadata; do not edit."]
    for name, book in books.items():
        before = [f"$(DONE)/{other}.ipynb" for other in runs_after(name, wishes)]
        needed = all_needed(notebook_source(book), root)
        modules = sorted(path.relative_to(root).as_posix() for path in needed)
        lines.append(f"$(DONE)/{name}.ipynb: {' '.join([*before, *modules])}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rules(ROOT))
