"""Tables as spreadsheets and EcoTaxa write them: their encoding, separator and line ends."""

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas as pd

from plankton_study.images.reading.records import number_of
from plankton_study.images.reading.said import say
from plankton_study.run.errors import StudyError, first_sentence

#: in the order in which they are preferred
SEPARATORS = ("\t", ";", ",")
#: lines from which the separator is found
SAMPLED_LINES = 50
NAMES_OF_SEPARATORS = {"\t": "tab", ";": "semicolon", ",": "comma"}


class TextTable:
    """A table that is read as text.

    The encoding is UTF-16 or UTF-8 if the file begins with their mark, else UTF-8 if all of it is,
    else Windows-1252 or Latin-1, which is said. The separator is a tab, a semicolon or a comma,
    whichever gives all lines the same number of cells.

    Args:
        file: the table.

    Attributes:
        file: the table.
        header: the names of its columns.

    Raises:
        StudyError: the file is no table.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._text = _decoded(file)
        self._separator = _separator(self._text)
        self.header = next(self._rows(), (1, []))[1]

    def read(self, columns: dict[str, str]) -> pd.DataFrame:
        """Return some columns as texts, where an empty cell is "".

        Blank rows are skipped. Rows with more cells than the header are counted, which is said.

        Args:
            columns: name in the result → name in the header.

        Returns:
            The columns, and "line", the line of each row in the file.
        """
        positions = {key: self.header.index(name) for key, name in columns.items()}
        cells: dict[str, list[str]] = {key: [] for key in columns}
        lines, long_lines = [], []
        for line, row in islice(self._rows(), 1, None):
            if not any(cell.strip() for cell in row):
                continue
            if any(cell.strip() for cell in row[len(self.header) :]):
                long_lines.append(line)
            for key, position in positions.items():
                cells[key].append(row[position] if position < len(row) else "")
            lines.append(line)
        if long_lines:
            count = number_of(len(long_lines), "row")
            say(
                f"{self.file}: {count} with more cells than the header, the first is line "
                f"{long_lines[0]}: the cells beyond it are left out"
            )
        return pd.DataFrame(cells, dtype=object).assign(line=lines)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the cells of each row; the first one is the header."""
        lines = io.StringIO(self._text, newline="")
        # strict, or a single quotation mark would swallow all rows after it
        reader = csv.reader(lines, delimiter=self._separator, strict=True)
        last = 1
        try:
            for row in reader:
                yield reader.line_num, row
                last = reader.line_num
        except csv.Error as error:
            raise StudyError(
                f"{self.file} is no readable table after line {last}, with the separator "
                f"{NAMES_OF_SEPARATORS[self._separator]} ({error}): correct the quotation marks "
                "there, or export it again"
            ) from None


def _decoded(file: Path) -> str:
    """Return the text of a table, with a line feed at the end of each line."""
    content = file.read_bytes()
    if content.startswith(b"PK") or content.startswith(b"\xd0\xcf\x11\xe0"):
        raise StudyError(
            f"{file} is a workbook of a spreadsheet program: save its sheet as CSV in UTF-8"
        )
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise StudyError(
                f"{file} is no readable table in UTF-16 ({first_sentence(error)}): "
                "export it again in UTF-8"
            ) from None
        text = _decoded_from_one_byte(file, content)
    if "\0" in text:
        raise StudyError(f"{file} is no table, since it holds binary data: export it as CSV")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded_from_one_byte(file: Path, content: bytes) -> str:
    """Return a text in Windows-1252, as Excel writes it, or else in Latin-1."""
    encoding, name = "cp1252", "Windows-1252"
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        encoding, name = "latin-1", "Latin-1"
    say(f"{file}: read in the encoding {name}, since it is not in UTF-8")
    return content.decode(encoding)


def _separator(text: str) -> str:
    """Return the separator that gives all sampled lines the same number of cells, above one.

    Without such a separator, the one that divides the header into most cells.
    """
    sample = text.splitlines()[:SAMPLED_LINES]
    widths = {
        separator: [len(row) for row in csv.reader(sample, delimiter=separator) if row]
        for separator in SEPARATORS
    }
    for separator, numbers in widths.items():
        if numbers and numbers[0] > 1 and len(set(numbers)) == 1:
            return separator
    return max(SEPARATORS, key=lambda separator: widths[separator][:1])
