"""Read CSV and Parquet files as columns of text, with the place of each row in its file.

CSV: separated by commas, semicolons, tabs or |, whichever splits the first line into the most columns; UTF-8 (with or
without a byte order mark), UTF-16 or UTF-32.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlens.core import clean
from fedlens.core.files import open_regular, read_regular
from fedlens.errors import DataError

MAX_BYTES = 2**29
"""Maximum bytes of a table: about five million rows."""

_SEPARATORS = ",;\t|"
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark → encoding; UTF-32 before UTF-16, whose mark is a prefix of it."""

_NO_TEXT = {
    b"PK\x03\x04": "an Excel or a zip file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"\x1f\x8b": "a gzip file",
    b"PAR1": "a Parquet file (which has to be named .parquet)",
}
"""First bytes of binary files that may have a wrong suffix."""

_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """columns: name → values as text, stripped; places: for each row, a line number in CSV (from 1) or a row number in
    Parquet (from 0); unit: which of the two."""

    file: Path
    names: tuple[str, ...]
    columns: dict[str, list[str]]
    places: Sequence[int]
    unit: str

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        return f"{self.unit} {self.places[row]:,}"

    def refusal(self, column: str | None, bad: Sequence[int], problem: str, way_out: str = "") -> DataError:
        """The error for invalid values of `column` in the rows `bad`; None: values that must not be shown."""
        values = None if column is None else self.columns[column]
        shown = "; ".join(
            self.place(row) + ("" if values is None else f": {clean.line(values[row], 80)!r}") for row in bad[:_SHOWN]
        )
        more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        hint = f". {way_out}" if way_out else ""
        return DataError(f"{self.file}: {problem} in {len(bad):,} of {len(self):,} rows: {shown}{more}{hint}")

    def only(self, rows: Sequence[int]) -> Table:
        """The table with some of its rows."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, places=[self.places[row] for row in rows])


def read_table(file: Path) -> Table:
    """All columns of a .parquet file, or of any other as CSV.

    Raises:
        DataError: the file is missing, not a regular file, too long, in another encoding, damaged or has no rows; the
        message names the line.
    """
    try:
        table = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    except FileNotFoundError as error:
        raise DataError(f"data.path: {file} does not exist") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read as a table: {error.strerror or error}") from error
    if not len(table):
        raise DataError(f"{file}: the table has no rows")
    return table


def _parquet(file: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with open_regular(file, MAX_BYTES) as opened:
            content = parquet.read_table(opened)
    except pa.ArrowException as error:
        raise DataError(f"{file}: cannot be read as a Parquet table: {clean.line(str(error))}") from error
    names = tuple(str(name).strip() for name in content.column_names)
    values = [[_text(value) for value in column.to_pylist()] for column in content.columns]
    return _table(file, names, values, range(content.num_rows), "row")


def _text(value: object) -> str:
    if value is None:
        return ""
    return "|".join(map(str, value)) + "|" if isinstance(value, list) else str(value).strip()


def _csv(file: Path) -> Table:
    lines = list(io.StringIO(_decoded(file), newline=""))  # split at line ends only, not at all of Unicode's separators
    header = next((number for number, line in enumerate(lines) if line.strip()), None)
    if header is None:
        raise DataError(f"{file}: the table is empty")
    if lines[header].lower().startswith("sep="):  # written and read by Excel
        header += 1
    lines = lines[header:]
    rows, places = _rows(file, lines, header)
    if not rows:
        raise DataError(f"{file}: the table is empty")
    names = tuple(name.strip() for name in rows[0])
    columns = [[row[number].strip() for row in rows[1:]] for number in range(len(names))]
    return _table(file, names, columns, places[1:], "line")


def _table(file: Path, names: tuple[str, ...], values: list[list[str]], places: Sequence[int], unit: str) -> Table:
    """Columns with the same name are left out: a caller that needs one gets an error."""
    counts = Counter(names)
    columns = {name: column for name, column in zip(names, values, strict=True) if counts[name] == 1}
    return Table(file, names, columns, places, unit)


def _decoded(file: Path) -> str:
    data = read_regular(file, MAX_BYTES)
    if what := next((what for start, what in _NO_TEXT.items() if data.startswith(start)), None):
        raise DataError(f"{file} is {what}, not a table of text: unpack it, or save it as CSV UTF-8")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _without_mark(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: line {line:,} is not {encoding.upper()} text (byte {data[error.start]:#04x}); save the table as "
            "UTF-8 (in Excel: CSV UTF-8)"
        ) from error


def _without_mark(data: bytes) -> str:
    """UTF-16 without a mark is recognised by its zero bytes: column names are usually ASCII."""
    start = data[:64]
    if len(start) >= 4 and not any(start[1::2][:8]) and all(start[::2][:8]):
        return "utf-16-le"
    if len(start) >= 4 and not any(start[::2][:8]) and all(start[1::2][:8]):
        return "utf-16-be"
    return "utf-8"


def _separator(header: str) -> str:
    """The separator in the first line; a comma if there is only one column."""
    return max(_SEPARATORS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))


def _rows(file: Path, lines: list[str], before: int) -> tuple[list[list[str]], list[int]]:
    """All rows, the header first, with the line on which each starts; `before`: lines that came before `lines`.

    Raises:
        DataError: a quotation mark is not closed, or a row and the header differ in length.
    """
    reader = csv.reader(lines, delimiter=_separator(lines[0]) if lines else ",", strict=True)
    rows: list[list[str]] = []
    places: list[int] = []
    while True:
        line = before + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{file}: line {line:,}: {_what(error)}") from error
        if row is None:
            return rows, places
        if not any(field.strip() for field in row):
            continue
        if rows:
            row = _as_long(file, line, row, len(rows[0]), before + reader.line_num)
        rows.append(row)
        places.append(line)


def _what(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return 'a quotation mark (") that is not closed'
    if "field larger" in text:
        return (
            f"a value of more than {csv.field_size_limit():,} characters: a text that is too long (shorten it), or a "
            'quotation mark (") that is not closed'
        )
    if "expected after" in text:
        return 'a quotation mark (") inside a value; write it twice, and quotation marks around the value'
    return text


def _as_long(file: Path, line: int, row: list[str], length: int, last: int) -> list[str]:
    """`row` without trailing empty fields that exceed the header's length."""
    if len(row) > length and not any(field.strip() for field in row[length:]):
        row = row[:length]
    if len(row) == length:
        return row
    why = f'; a quotation mark (") that is not closed? It goes on to line {last:,}' if last > line else ""
    raise DataError(f"{file}: line {line:,} has {len(row)} fields, and the header has {length}{why}")
