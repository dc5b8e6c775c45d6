"""Checks every row of a CSV against its dataset's contract, and reports the problems by row and column."""

import csv
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from catalog.spec import Dataset
from serving.errors import MAX_DETAILS, Detail, shorten
from serving.uploads.columns import Column, columns_of
from serving.uploads.csv_lines import CsvLines
from serving.uploads.errors import FormatError, TooLargeError

# Longest cell, in characters: names and genres are far shorter.
MAX_CELL = 4096
# Rows of a dataset.
MAX_ROWS = 1_000_000
# Rows are checked and stored in blocks of so many, or of about so many characters.
_BLOCK_ROWS, _BLOCK_SIZE = 5000, 8 << 20
# After so many problems the file is wrong as a whole, and the rest is not checked.
_MAX_PROBLEMS = 10_000
# Stands for a column's name where a problem is of the whole row.
_ROW = "row"


class CsvRow(NamedTuple):
    """One row of the file. Rows are counted as in a spreadsheet, where the header is row 1."""

    number: int
    line: int
    cells: list[str]


class Problem(NamedTuple):
    """What is wrong with one cell, or, with the column `row`, with a whole row."""

    row: CsvRow
    column: str
    text: str

    def detail(self) -> Detail:
        """Return the problem as a detail of an error, with the line where rows and lines differ."""
        number, line, _ = self.row
        field = f"{number}.{self.column}" if self.column != _ROW else str(number)
        return Detail(field, self.text if line == number else f"{self.text} (line {line})")


class CsvChecker:
    """Reads a CSV of one dataset; `blocks` yields its rows if all of them are good."""

    def __init__(self, lines: CsvLines, dataset: Dataset, max_rows: int) -> None:
        """Read and check the header. Raises `UploadError` when it is not the contract's."""
        csv.field_size_limit(MAX_CELL)
        self._lines, self._dataset, self._max_rows = lines, dataset, max_rows
        self._contract: TypeAdapter[list[BaseModel]] = TypeAdapter(list[dataset.row])  # type: ignore[name-defined]
        self._problems: list[Problem] = []
        self._rows = self._read_rows()
        self._header = next((row.cells for row in self._rows if row.cells), [])
        if not self._header:
            raise FormatError("The file is empty. Send a CSV with a header line.", "no_rows")
        known = columns_of(dataset)
        _check_header(self._header, known, dataset)
        self.columns = tuple(column for column in known if column.name in self._header)
        self.count = 0

    def blocks(self) -> Iterator[list[list[Any]]]:
        """Yield blocks of rows, as one list of values for each of `columns`.

        After the first problem nothing more is yielded; at the end of the file, or when there are enough
        problems, all of them are raised as one `UploadError`.
        """
        for block in self._read_blocks():
            values = self._check(block)
            if not self._problems:
                yield values
            elif len(self._problems) >= _MAX_PROBLEMS:
                break
        if self._problems:
            raise self._invalid_rows()
        if not self.count:
            raise FormatError("The file has a header and no rows.", "no_rows")

    def _read_rows(self) -> Iterator[CsvRow]:
        # Without `strict` a stray quote silently swallows what follows.
        reader = csv.reader(self._lines, strict=True)
        number = 0
        while True:
            line = self._lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _unreadable(line, str(error)) from None
            self._lines.end_row()
            number += 1
            yield CsvRow(number, line, cells)

    def _read_blocks(self) -> Iterator[list[CsvRow]]:
        block: list[CsvRow] = []
        size, width = 0, len(self._header)
        for row in self._rows:
            # The header is row 1. Empty lines count, or any number of them would be free.
            if row.number > self._max_rows + 1:
                raise TooLargeError(
                    f"The file has more than {self._max_rows} rows, the most a dataset may have."
                )
            self.count += bool(row.cells)
            if len(row.cells) == width:
                block.append(row)
                size += sum(map(len, row.cells))
            elif row.cells:
                text = f"has {len(row.cells)} cells, and the header has {width}"
                self._problems.append(Problem(row, _ROW, text))
                if len(self._problems) >= _MAX_PROBLEMS:
                    return
            if len(block) >= _BLOCK_ROWS or size >= _BLOCK_SIZE:
                yield block
                block, size = [], 0
        if block:
            yield block

    def _check(self, block: list[CsvRow]) -> list[list[Any]]:
        """Return the values of a block by column, and note its problems."""
        cells = dict(zip(self._header, zip(*(row.cells for row in block), strict=True), strict=True))
        values: dict[str, list[Any]] = {}
        problems: dict[tuple[int, str], str] = {}
        for column in self.columns:
            values[column.name], unreadable = column.read(cells[column.name])
            problems |= {(index, column.name): text for index, text in unreadable.items()}
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        try:
            self._contract.validate_python(rows)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_context=False, include_input=False):
                index, name = int(problem["loc"][0]), str((*problem["loc"], _ROW)[1])
                cell = f"{_shown(cells[name][index])}: " if name in cells else ""
                # An unreadable cell breaks the contract as well, but its own problem is easier to understand.
                problems.setdefault((index, name), f"{cell}{problem['msg']}")
        self._problems += [Problem(block[index], name, text) for (index, name), text in problems.items()]
        return list(values.values())

    def _invalid_rows(self) -> FormatError:
        """Return the error for all problems: how many in each column, and the first of them one by one."""
        problems, rows = sorted(self._problems), self.count
        counts = Counter(problem.column for problem in problems).most_common()
        first_row = {problem.column: problem.row.number for problem in reversed(problems)}
        by_column = [
            Detail(name, f"{count} of {rows} rows have a problem here, the first is row {first_row[name]}")
            for name, count in counts
        ]
        rest = " The rest of the file was not looked at." if len(problems) >= _MAX_PROBLEMS else ""
        return FormatError(
            f"{len(problems)} problem{'s' * (len(problems) != 1)} in {rows} rows of the dataset "
            f"{self._dataset.name!r} ({', '.join(f'{name} {count}' for name, count in counts)}); nothing was "
            f"stored.{rest} The details count them by column and name the first "
            f"{len(problems[:MAX_DETAILS])}, as ROW.COLUMN; the header is row 1. Correct them or leave those "
            "rows out, and send the file again.",
            "invalid_rows",
            [*by_column, *(problem.detail() for problem in problems[:MAX_DETAILS])],
        )


def _shown(cell: str) -> str:
    return repr(shorten(cell)) if cell.strip(" ") else "is empty"


def _unreadable(line: int, problem: str) -> FormatError | TooLargeError:
    """Return the error for a row that `csv.reader` does not take, with its `problem` in words for users."""
    if "field larger" in problem:
        return TooLargeError(
            f"A cell of the row in line {line} is longer than {MAX_CELL} characters. Does a quote stay open?"
        )
    if "new-line" in problem:
        problem = "a CR stands alone outside of quotes; end lines with LF or CR LF"
    elif "unexpected end" in problem:
        problem = "a quote is opened and never closed"
    return FormatError(f"The CSV cannot be read at the row that begins in line {line}: {problem}.")


def _check_header(header: list[str], columns: tuple[Column, ...], dataset: Dataset) -> None:
    names, counts = [column.name for column in columns], Counter(header)
    wrong = {
        "missing": [column.name for column in columns if column.required and column.name not in counts],
        "there twice": [name for name, count in counts.items() if count > 1],
        "not a column of this dataset": [name for name in counts if name not in names],
    }
    details = [
        Detail(shorten(name) or "(no name)", f"is {problem}")
        for problem, cells in wrong.items()
        for name in cells
    ]
    if not details:
        return
    problems = "; ".join(f"{problem}: {_list(cells)}" for problem, cells in wrong.items() if cells)
    hint = ""
    if len(header) == 1 and (separator := next((mark for mark in ";\t|" if mark in header[0]), None)):
        hint = f" The cells seem to be separated by {separator!r}: save the file with commas."
    raise FormatError(
        f"The header does not fit the dataset {dataset.name!r}. {problems[0].upper()}{problems[1:]}.{hint} "
        f"The columns are {', '.join(names)}, in any order; leave others out.",
        "invalid_header",
        details[:MAX_DETAILS],
    )


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(shorten(name)) for name in names[:MAX_DETAILS])
    return f"{shown} and {len(names) - MAX_DETAILS} more" if len(names) > MAX_DETAILS else shown
