"""The package stays small enough to be read in an afternoon."""

import ast
from pathlib import Path

FILES = sorted((Path(__file__).resolve().parent.parent / "plankton_study").glob("*.py"))


def code_lines(source: str) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and n not in docstrings
        for n, line in lines
    )


def test_lines_of_code_are_counted():
    source = '"""Two\nlines."""\n\n# why\nx = 1  # why\n\n\ndef f():\n    """One."""\n    return (\n        x\n    )\n'
    assert code_lines(source) == 5


def test_no_file_is_long_and_all_are_short_together():
    assert max(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES) <= 300
    assert sum(code_lines(file.read_text(encoding="utf-8")) for file in FILES) <= 2725
