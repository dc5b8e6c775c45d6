"""From a request's JSON to the rows a model reads. Nothing here knows of HTTP or of a web framework."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, Field, RootModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from registry.model_format.onnx_model import Rows
from serving.errors import (
    MAX_DETAILS,
    Detail,
    InvalidInputError,
    TooManyRowsError,
    UnreadableInputError,
    describe,
)

_LIST = re.compile(rb"[ \t\r\n]*\[")
# So many fields Pydantic may find fault with at once; each costs it about 5 µs, or 20 when it is unknown.
_MANY_FIELDS = 10_000
# A number's longest text is 24 characters; around it stand quotes, a colon, a comma, and white space.
_BYTES_PER_FIELD = 40
_BYTES_PER_ROW = 32
_LARGEST = float(np.finfo(np.float32).max)
_REPEATED = "It is there more than once"
_TOO_LARGE = "Input should be a number that fits 32-bit floating point"


def object_bytes(fields: Iterable[str]) -> int:
    """Return the bytes that an object of numbers can need, each at its longest and indented."""
    return _BYTES_PER_ROW + sum(len(json.dumps(field)) + _BYTES_PER_FIELD for field in fields)


def is_list(body: bytes | bytearray) -> bool:
    """Whether a body is a JSON list, if it is JSON at all; its beginning is enough to say so."""
    return _LIST.match(body) is not None


def most_fields_of(body: bytes | bytearray) -> int:
    """Return an upper bound of the fields in a JSON text, without parsing it: each field has a colon."""
    return body.count(b":")


def read_object(name: str, request: type[BaseModel], body: bytes | bytearray) -> list[BaseModel]:
    """Return the one object in a body; raises `UnreadableInputError` or `InvalidInputError`."""
    try:
        # Pydantic's own JSON parser: it bounds nesting, and its errors name the field.
        rows = [request.model_validate_json(body)]
    except ValidationError as error:
        _refuse(name, error, empty=not body)
    _require_each_once(name, rows, body, listed=False)
    return rows


def read_list(
    name: str, request: type[BaseModel], body: bytes | bytearray, max_rows: int, most_fields: int = 0
) -> list[BaseModel]:
    """Return the objects in a body, 1 to `max_rows`; one that is not valid refuses them all.

    An object has at most `most_fields`, or as many as `request` names.

    Raises `UnreadableInputError`, `InvalidInputError`, whose fields begin with the object's index, counted
    from 0 (`3.energy`), or `TooManyRowsError`.
    """
    most_fields = most_fields or len(request.model_fields)
    if most_fields_of(body) > max(_MANY_FIELDS, max_rows * most_fields):
        _refuse_crowded(name, most_fields, body, max_rows)
    try:
        rows = _list_of(request, max_rows).validate_json(body)
    except ValidationError as error:
        _refuse(name, error, max_rows=max_rows)
    if not rows:
        raise InvalidInputError.of(name, [Detail("body", "The list is empty; send at least one object")])
    _require_each_once(name, rows, body, listed=True)
    return rows


def to_matrix(
    name: str,
    requests: Sequence[BaseModel],
    features: Sequence[str],
    *,
    values_of: Callable[[dict[str, Any]], Any],
    listed: bool,
    numbers: Sequence[int] = (),
) -> Rows:
    """Return requests as float32 of shape (requests, features); booleans become 0 and 1.

    `values_of` returns the features' values from the attributes of a request.
    What float32 cannot hold is refused with `InvalidInputError`, by index as well when it was `listed`; by
    that of `numbers`, where requests are but some of a list.
    """

    def at(row: int) -> int:
        return numbers[row] if numbers else row

    values = list(map(values_of, map(vars, requests)))
    if len(values) == 1 and len(features) > 1 and _fit(values[0]):
        return np.array(values, dtype=np.float32)
    try:
        exact = np.array(values, dtype=np.float64).reshape(len(requests), len(features))
    except OverflowError:  # an integer beyond float64, where a contract sets no bound
        where = (
            [str(at(index)) for index, row in enumerate(values) if _overflows(row)] if listed else ["body"]
        )
        raise InvalidInputError.of(name, [Detail(field, _TOO_LARGE) for field in where]) from None
    with np.errstate(over="ignore"):
        rows = exact.astype(np.float32)
    if not np.isfinite(rows).all():
        bad = np.argwhere(~np.isfinite(rows)).tolist()
        fields = [f"{at(row)}.{features[column]}" if listed else features[column] for row, column in bad]
        raise InvalidInputError.of(name, [Detail(field, _TOO_LARGE) for field in fields])
    return rows


def _fit(row: Iterable[float]) -> bool:
    # For one row this is faster than NumPy's functions. A sum that is NaN is not smaller.
    try:
        return sum(map(abs, row)) <= _LARGEST
    except OverflowError:  # an integer beyond float64
        return False


@lru_cache(256)  # what a swap made useless is forgotten
def _list_of(request: type[BaseModel], max_rows: int) -> TypeAdapter[list[BaseModel]]:
    return TypeAdapter(Annotated[list[request], Field(max_length=max_rows)])  # type: ignore[valid-type, arg-type]


def _overflows(row: object) -> bool:
    try:
        np.array(row, dtype=np.float64)
    except OverflowError:
        return True
    return False


def _require_each_once(
    name: str, rows: Sequence[BaseModel], body: bytes | bytearray, *, listed: bool
) -> None:
    """Refuse a field that an object has twice: Pydantic takes the last, other parsers the first."""
    fields = sum([len((row.root if isinstance(row, RootModel) else row).model_fields_set) for row in rows])
    if most_fields_of(body) <= fields:
        return
    parsed = json.loads(body, object_pairs_hook=list)
    details: list[Detail] = []
    for index, pairs in enumerate(parsed if listed else [parsed]):
        times = Counter(field for field, _ in pairs)
        where = f"{index}." if listed else ""
        details += [Detail(f"{where}{field}", _REPEATED) for field, count in times.items() if count > 1]
    if details:
        raise InvalidInputError.of(name, details)


def _refuse(name: str, error: ValidationError, *, empty: bool = False, max_rows: int = 0) -> NoReturn:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    if problems[0]["type"] == "too_long" and not problems[0]["loc"]:
        raise TooManyRowsError.of(max_rows) from None
    details = describe(problems[:MAX_DETAILS])
    if problems[0]["type"] == "json_invalid":
        _refuse_unreadable("it is empty" if empty else details[0].problem.removeprefix("Invalid JSON: "))
    raise InvalidInputError.of(name, details, len(problems)) from None


def _refuse_unreadable(what: str) -> NoReturn:
    raise UnreadableInputError(
        f"The body is not JSON: {what}. Send one JSON object with the model's features, or a list of them.",
        [Detail("body", what)],
    ) from None


def _refuse_crowded(name: str, most: int, body: bytes | bytearray, max_rows: int) -> NoReturn:
    # More fields than a full list has. Pydantic would make an error of each, up to half a second in which
    # no other request is answered; to say what is wrong takes less.
    try:
        rows = from_json(body)
    except ValueError as error:
        _refuse_unreadable(str(error))
    if len(rows) > max_rows:
        raise TooManyRowsError.of(max_rows)
    crowded = [str(i) for i, row in enumerate(rows) if isinstance(row, dict) and len(row) > most]
    problem = f"It has more fields than the {most} that the model reads"
    details = [Detail(row, problem) for row in crowded]
    rest = Detail("body", f"It has more fields than {max_rows} objects of this model have")
    raise InvalidInputError.of(name, details or [rest])
