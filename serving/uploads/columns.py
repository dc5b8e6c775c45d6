"""From a dataset's contract to what a CSV of it has: columns, and how to read their cells."""

import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from catalog.spec import Dataset
from serving.errors import shorten

Kind = Literal["boolean", "integer", "number", "text"]
# What is read from a cell, and what is wrong with the cells that could not be read, by their index.
Read = tuple[list[Any], dict[int, str]]

_KINDS: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_INT64 = 1 << 63
# Spreadsheets run what begins with one of these, also full-width, also behind white space, quotes and what
# cannot be seen; a tab or CR in front makes some of them skip to it.
_FORMULA = re.compile(
    r"[\s\"'`´‘’‚‛“”„«»\x00-\x1f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff]*"
    r"(?:[=+\-@＝＋－＠﹢﹣﹫﹦]|(?<=[\t\r]))"
)
_IS_FORMULA = "begins like a formula (=, +, -, @, tab or CR), which a spreadsheet would run; change the text"


@dataclass(frozen=True)
class Column:
    """One column of a contract."""

    name: str
    kind: Kind
    required: bool

    def read(self, cells: Sequence[str]) -> Read:
        """Return the cells' values. An empty cell of a column that is not text is None."""
        return _READERS[self.kind](cells)


def columns_of(dataset: Dataset) -> tuple[Column, ...]:
    """Return the columns of a dataset's contract in its order.

    Raises `ValueError` for a type that no CSV cell can be read as.
    """
    found = []
    for name, field in dataset.row.model_fields.items():
        if (kind := _kind(field.annotation)) is None:
            raise ValueError(f"its column {name} is neither a number, true or false, nor text")
        found.append(Column(name, kind, field.is_required()))
    return tuple(found)


def _kind(annotation: Any) -> Kind | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = {_kind(one) for one in arguments if one is not type(None)}
        return "number" if kinds == {"integer", "number"} else kinds.pop() if len(kinds) == 1 else None
    if origin is Literal:
        kinds = {_KINDS.get(type(one)) for one in arguments}
        return kinds.pop() if len(kinds) == 1 else None
    return _KINDS.get(annotation)


def _reader(read: Callable[[str], Any], wanted: str) -> Callable[[Sequence[str]], Read]:
    def read_all(cells: Sequence[str]) -> Read:
        values: list[Any] = []
        problems: dict[int, str] = {}
        for index, cell in enumerate(cells):
            # Some programs write a space after the comma; in text it may mean something, here it cannot.
            text, value = cell.strip(" "), None
            if text and (value := read(text)) is None:
                problems[index] = f"{shorten(cell)!r} is not {wanted}"
            values.append(value)
        return values, problems

    return read_all


def _integer(text: str) -> int | None:
    value = int(text) if _INTEGER.fullmatch(text) else None
    return value if value is not None and -_INT64 <= value < _INT64 else None


def _number(text: str) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text) else None
    return value if value is not None and isfinite(value) else None


def _boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text.lower())


def _texts(cells: Sequence[str]) -> Read:
    problems = {
        index: f"{shorten(cell)!r} {_IS_FORMULA}" for index, cell in enumerate(cells) if _FORMULA.match(cell)
    }
    return list(cells), problems


_READERS: dict[Kind, Callable[[Sequence[str]], Read]] = {
    "boolean": _reader(_boolean, "true or false"),
    "integer": _reader(_integer, "a whole number"),
    "number": _reader(_number, "a number"),
    "text": _texts,
}
