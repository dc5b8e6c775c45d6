"""The columns of a dataset's contract, and how the cells of a CSV become their values."""

import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from catalog.spec import Dataset
from serving.errors import shorten

Kind = Literal["boolean", "integer", "number", "text"]

_KINDS: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}
# Python's int() and float() also take underscores, other scripts' digits, nan and inf.
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_INT64 = range(-(1 << 63), 1 << 63)
# A spreadsheet runs a cell that begins with one of these, also full-width, also behind white space, quotes
# and invisible characters; behind a tab or CR some spreadsheets skip to it.
_FORMULA = re.compile(
    r"[\s\"'`´‘’‚‛“”„«»\x00-\x1f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff]*"
    r"(?:[=+\-@＝＋－＠﹢﹣﹫﹦]|(?<=[\t\r]))"
)
_FORMULA_PROBLEM = (
    "begins like a formula (=, +, -, @, tab or CR), which a spreadsheet would run; change the text"
)


@dataclass(frozen=True)
class Column:
    """One column of a contract."""

    name: str
    kind: Kind
    required: bool

    def read(self, cells: Sequence[str]) -> tuple[list[Any], dict[int, str]]:
        """Return the cells' values, and the problems of unreadable cells by their index.

        The value of an unreadable cell is None, and so is that of an empty cell, except in a column of text.
        """
        if self.kind == "text":
            formulas = {index: cell for index, cell in enumerate(cells) if _FORMULA.match(cell)}
            return list(cells), {
                index: f"{shorten(cell)!r} {_FORMULA_PROBLEM}" for index, cell in formulas.items()
            }
        parse, wanted = _PARSERS[self.kind]
        # Some programs write a space after the comma.
        texts = [cell.strip(" ") for cell in cells]
        values = [parse(text) if text else None for text in texts]
        unreadable = [index for index, value in enumerate(values) if value is None and texts[index]]
        return values, {index: f"{shorten(cells[index])!r} is not {wanted}" for index in unreadable}


def columns_of(dataset: Dataset) -> tuple[Column, ...]:
    """Return the columns of a dataset's contract in its order.

    Raises `ValueError` for a type that no cell of a CSV can have.
    """
    columns = []
    for name, field in dataset.row.model_fields.items():
        if (kind := _kind(field.annotation)) is None:
            raise ValueError(f"its column {name} is neither a number, true or false, nor text")
        columns.append(Column(name, kind, field.is_required()))
    return tuple(columns)


def _kind(annotation: Any) -> Kind | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = {_kind(member) for member in arguments if member is not type(None)}
        return "number" if kinds == {"integer", "number"} else kinds.pop() if len(kinds) == 1 else None
    if origin is Literal:
        kinds = {_KINDS.get(type(member)) for member in arguments}
        return kinds.pop() if len(kinds) == 1 else None
    return _KINDS.get(annotation)


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) and int(text) in _INT64 else None


def _number(text: str) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and isfinite(value) else None


def _boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text.lower())


_PARSERS: dict[Kind, tuple[Callable[[str], Any], str]] = {
    "boolean": (_boolean, "true or false"),
    "integer": (_integer, "a whole number"),
    "number": (_number, "a number"),
}
