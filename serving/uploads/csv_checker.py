"""Holds every row of a CSV against its dataset's contract, and says what is wrong where."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from catalog.spec import Dataset
from serving.errors import MAX_DETAILS, Detail, shorten
from serving.uploads.columns import Column, columns_of
from serving.uploads.csv_lines import Lines
from serving.uploads.errors import FormatError, TooLargeError
from serving.uploads.settings import UploadSettings

# Rows are checked in blocks of so many, or of about so many bytes.
_BLOCK_ROWS, _BLOCK_BYTES = 1000, 2 << 20
# After so many problems the rest is not looked at: the file is wrong as a whole.
_ENOUGH = 10_000
_ROW = "row"


@dataclass(frozen=True)
class _Record:
    """One row of the file. Rows are counted as in a spreadsheet, where the header is row 1."""

    row: int
    line: int
    cells: list[str]


class Report:
    """What is wrong with the rows: how many cells of each column, and the first of them one by one."""

    def __init__(self) -> None:
        self.total = 0
        self._columns: Counter[str] = Counter()
        self._first: dict[str, int] = {}
        self._shown: list[tuple[int, Detail]] = []

    def add(self, record: _Record, column: str, problem: str) -> None:
        """Note a problem of one cell, or, with the column `row`, of a row as a whole."""
        self.total += 1
        self._columns[column] += 1
        self._first[column] = min(record.row, self._first.get(column, record.row))
        if len(self._shown) < MAX_DETAILS:
            field = f"{record.row}.{column}" if column != _ROW else str(record.row)
            where = f" (line {record.line})" if record.line != record.row else ""
            self._shown.append((record.row, Detail(field, f"{problem}{where}")))

    def error(self, dataset: Dataset, rows: int) -> FormatError:
        """Return the refusal of a file of which `rows` rows were looked at."""
        counts = [
            Detail(name, f"{count} of {rows} rows have a problem here, the first is row {self._first[name]}")
            for name, count in self._columns.most_common()
        ]
        what = ", ".join(f"{name} {count}" for name, count in self._columns.most_common())
        rest = " The rest of the file was not looked at." if self.total >= _ENOUGH else ""
        return FormatError(
            f"{self.total} problem{'s' * (self.total != 1)} in {rows} rows of the dataset "
            f"{dataset.name!r} ({what}); nothing was "
            f"stored.{rest} The details count them by column and name the first {len(self._shown)}, as "
            "ROW.COLUMN; the header is row 1. Correct them or leave those rows out, and send the file again.",
            "invalid_rows",
            [*counts, *(detail for _, detail in sorted(self._shown, key=itemgetter(0)))],
        )


class Checker:
    """Reads a CSV of one dataset; `blocks` yields its good rows, and raises if there is a bad one."""

    def __init__(self, lines: Lines, dataset: Dataset, settings: UploadSettings) -> None:
        """Read and check the header. Raises `UploadError` when it is not the contract's."""
        csv.field_size_limit(settings.serving_upload_max_cell)
        self._lines, self._dataset, self._settings = lines, dataset, settings
        self._row = 0
        # Strict: otherwise a stray quote silently swallows what follows.
        self._reader = csv.reader(lines, strict=True)
        self._rows: TypeAdapter[list[BaseModel]] = TypeAdapter(list[dataset.row])  # type: ignore[name-defined]
        self._header = self._read_header()
        known = columns_of(dataset)
        _check_header(self._header, known, dataset)
        self.columns = tuple(column for column in known if column.name in self._header)
        self.count = 0

    def blocks(self) -> Iterator[list[list[Any]]]:
        """Yield blocks of rows, as one list of values for each of `columns`.

        After the first bad row nothing more is yielded; at the end, or when there are enough of them, all
        are raised as one `UploadError`.
        """
        report = Report()
        for block in self._read_blocks(report):
            values = self._check(block, report)
            if report.total >= _ENOUGH:
                break
            if not report.total:
                yield values
        if report.total:
            raise report.error(self._dataset, self.count)
        if not self.count:
            raise FormatError("The file has a header and no rows.", "no_rows")

    def _read_header(self) -> list[str]:
        for header in self._records():
            if header.cells:
                return header.cells
        raise FormatError("The file is empty. Send a CSV with a header line.", "no_rows")

    def _records(self) -> Iterator[_Record]:
        line = self._lines.number + 1
        while (cells := self._next(line)) is not None:
            self._row += 1
            yield _Record(self._row, line, cells)
            line = self._lines.number + 1

    def _next(self, line: int) -> list[str] | None:
        try:
            cells = next(self._reader, None)
        except csv.Error as error:
            raise self._unreadable(line, str(error)) from None
        self._lines.end_row()
        return cells

    def _unreadable(self, line: int, why: str) -> FormatError | TooLargeError:
        most = self._settings.serving_upload_max_cell
        if "field larger" in why:
            return TooLargeError(
                f"A cell of the row in line {line} is longer than {most} characters. Does a quote stay open?"
            )
        if "new-line" in why:
            why = "a CR stands alone outside of quotes; end lines with LF or CR LF"
        elif "unexpected end" in why:
            why = "a quote is opened and never closed"
        return FormatError(f"The CSV cannot be read at the row that begins in line {line}: {why}.")

    def _read_blocks(self, report: Report) -> Iterator[list[_Record]]:
        block: list[_Record] = []
        size, width, most = 0, len(self._header), self._settings.serving_upload_max_rows
        for record in self._records():
            if record.row > most + 1:  # the header is row 1; empty lines count, or they would be free
                raise TooLargeError(f"The file has more than {most} rows, the most a dataset may have.")
            if not record.cells:
                continue
            self.count += 1
            if len(record.cells) != width:
                report.add(record, _ROW, f"has {len(record.cells)} cells, and the header has {width}")
                if report.total >= _ENOUGH:
                    return
                continue
            block.append(record)
            size += sum(map(len, record.cells))
            if len(block) >= _BLOCK_ROWS or size >= _BLOCK_BYTES:
                yield block
                block, size = [], 0
        if block:
            yield block

    def _check(self, block: list[_Record], report: Report) -> list[list[Any]]:
        cells = dict(zip(self._header, zip(*(record.cells for record in block), strict=True), strict=True))
        values: list[list[Any]] = []
        problems: dict[tuple[int, str], str] = {}
        for column in self.columns:
            read, wrong = column.read(cells[column.name])
            values.append(read)
            problems |= {(index, column.name): problem for index, problem in wrong.items()}
        for where, problem in self._contract_problems(values):
            # A cell that could not be read breaks the contract, too, in less helpful words.
            problems.setdefault(where, _in_words(problem, cells.get(where[1]), where[0]))
        for (index, name), problem in sorted(problems.items()):
            report.add(block[index], name, problem)
        return values

    def _contract_problems(self, values: list[list[Any]]) -> list[tuple[tuple[int, str], str]]:
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        try:
            self._rows.validate_python(rows)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return [((int(e["loc"][0]), str((*e["loc"], _ROW)[1])), e["msg"]) for e in found]
        return []


def _in_words(problem: str, cells: Sequence[str] | None, index: int) -> str:
    if cells is None:
        return problem
    return f"{shorten(cells[index])!r}: {problem}" if cells[index].strip(" ") else f"is empty: {problem}"


def _check_header(header: list[str], known: tuple[Column, ...], dataset: Dataset) -> None:
    names, given = [column.name for column in known], Counter(header)
    wrong = {
        "missing": [column.name for column in known if column.required and column.name not in given],
        "there twice": [name for name, count in given.items() if count > 1],
        "not a column of this dataset": [name for name in given if name not in names],
    }
    problems = [Detail(shorten(name) or "(no name)", f"is {what}") for what in wrong for name in wrong[what]]
    if not problems:
        return
    found = "; ".join(f"{what}: {_some(cells)}" for what, cells in wrong.items() if cells)
    hint = ""
    if len(header) == 1 and (used := next((mark for mark in ";\t|" if mark in header[0]), None)):
        hint = f" The cells seem to be separated by {used!r}: save the file with commas."
    raise FormatError(
        f"The header does not fit the dataset {dataset.name!r}. {found[0].upper()}{found[1:]}.{hint} "
        f"The columns are {', '.join(names)}, in any order; leave others out.",
        "invalid_header",
        problems[:MAX_DETAILS],
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(shorten(name)) for name in names[:MAX_DETAILS])
    return f"{shown} and {len(names) - MAX_DETAILS} more" if len(names) > MAX_DETAILS else shown
