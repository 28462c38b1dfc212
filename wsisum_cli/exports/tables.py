"""CSV tables: written so that a spreadsheet runs nothing that a file name or a label says, read within bounds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: With these a spreadsheet takes a cell for a formula, or skips them and looks at what follows. The wide forms are
#: those of East Asian keyboards.
FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|nan)")
MAX_BYTES = 1 << 27  # of a table that is read; a manifest of 500,000 slides has half as many
MAX_ROWS = 2_000_000
RETURN = re.compile("\r\n?")  # which csv leaves bare, so that it would end the row
#: In front of a cell, it makes a spreadsheet show the rest as text.
QUOTE = "'"


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells, the header first. Text that a spreadsheet would take for a formula has a quote in front."""
    return "".join(csv_lines(rows))


def csv_lines(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The same, row by row."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in rows:
        writer.writerow([plain_cell(cell) for cell in row])
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def plain_cell(cell: Any) -> Any:
    """Numbers stay as they are, negative ones as well, and so do those that are formatted already."""
    if not isinstance(cell, str) or (cell[:1].isascii() and cell[:1].isalnum() and "\r" not in cell):
        return cell
    cell = RETURN.sub("\n", cell) if "\r" in cell else cell
    return QUOTE + cell if FORMULA.match(cell.lstrip(QUOTE)) and not NUMBER.fullmatch(cell) else cell


def as_written(cell: str) -> str:
    """A cell without the quote that `plain_cell` puts in front."""
    return cell[1:] if cell.startswith(QUOTE) and FORMULA.match(cell.lstrip(QUOTE)) else cell


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the line, and the cells, of each row that is not empty; the header comes first.

    Raises csv.Error for what is no table, or larger than one, UnicodeDecodeError, OSError.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        if not path.is_file():
            raise csv.Error("it is no file")
        if (found := path.stat().st_size) > MAX_BYTES:
            raise csv.Error(f"it has {found} bytes, expected at most {MAX_BYTES}")
        reader = csv.reader(without_nul(file))
        for count, cells in enumerate(filter(None, reader)):
            if count > MAX_ROWS:
                raise csv.Error(f"it has more than {MAX_ROWS} rows")
            yield reader.line_num, [as_written(cell) for cell in cells]


def without_nul(lines: Iterable[str]) -> Iterator[str]:
    """The lines; a file that holds the character NUL is no text. Raises csv.Error."""
    for line in lines:
        if "\0" in line:
            raise csv.Error("it holds a NUL character")
        yield line
