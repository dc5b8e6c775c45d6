"""A Pydantic contract held against columns of rows, many at a time.

Ranges and types are looked at column by column, and what meets them all is good for sure. Every other row is
shown to Pydantic, which alone says that a row is broken, and why: the two can never disagree.
"""

from collections.abc import Callable, Iterable
from typing import Any

import annotated_types as at
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

Mask = npt.NDArray[np.bool_]
Check = Callable[[Any], Mask]

# Settings of a contract that do not change what is valid in columns of the exact type.
_HARMLESS = {"extra", "strict", "title", "json_schema_extra", "frozen", "arbitrary_types_allowed"}
_HARMLESS |= {"protected_namespaces", "use_attribute_docstrings", "from_attributes"}
# Beyond it float64 holds no longer every whole number, and a bound could be met by rounding.
_EXACT = 2**53
_BOUNDS = (at.Ge, at.Gt, at.Le, at.Lt)
# Columns that could hold an annotation's values; what is not named here may be anything.
_TYPES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", pa.types.is_boolean),
    int: ("whole numbers", pa.types.is_integer),
    float: ("numbers", lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind)),
    str: ("texts", lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)),
}


class RowRules:
    """The rules of one contract, for Arrow's record batches."""

    def __init__(self, contract: type[BaseModel]) -> None:
        self._contract = contract
        self._rows: TypeAdapter[Any] = TypeAdapter(list[contract])  # type: ignore[valid-type]
        plain = _is_plain(contract)
        self._checks: dict[str, Check | None] = {
            name: _check(field) if plain else None for name, field in contract.model_fields.items()
        }

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return the columns that the contract needs and `names` lacks."""
        present = set(names)
        fields = self._contract.model_fields.items()
        return [name for name, field in fields if field.is_required() and name not in present]

    def wrong_types(self, schema: Any) -> list[str]:
        """Return a sentence for each column of a `pyarrow.Schema` that cannot hold what the contract asks."""
        problems = []
        for name, field in self._contract.model_fields.items():
            known = _TYPES.get(field.annotation)
            if known is None or name not in schema.names:
                continue
            kind = _value_type(schema.field(name).type)
            # A column of nothing but nulls has no type of its own.
            if not known[1](kind) and not pa.types.is_null(kind):
                problems.append(f"{name} is of type {kind}, and {known[0]} are asked for")
        return problems

    def broken(self, batch: Any) -> dict[int, str]:
        """Return the rows of a `pyarrow.RecordBatch` that break the contract: their place, and why.

        Columns that the contract does not name are not looked at.
        """
        columns = {name: _decoded(batch.column(name)) for name in self._checks if name in batch.schema.names}
        unsure = np.flatnonzero(~self._certain(columns, batch.num_rows))
        if not len(unsure):
            return {}
        taken = pa.array(unsure)
        values = {name: _values(column.take(taken)) for name, column in columns.items()}
        records = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        if not records:  # none of the contract's columns is there
            records = [{} for _ in unsure]
        reasons: dict[int, str] = {}
        try:
            self._rows.validate_python(records)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False, include_context=False):
                row, *where = problem["loc"]
                place = int(unsure[int(row)])
                reasons.setdefault(place, f"{'.'.join(map(str, where))}: {problem['msg']}")
        return reasons

    def _certain(self, columns: dict[str, Any], rows: int) -> Mask:
        good = np.ones(rows, dtype=np.bool_)
        for name, check in self._checks.items():
            if check is None or name not in columns:
                return np.zeros(rows, dtype=np.bool_)
            good &= check(columns[name])
        return good


def _is_plain(contract: type[BaseModel]) -> bool:
    """Whether nothing but its fields decides what is valid."""
    rules = contract.__pydantic_decorators__
    own = (rules.validators, rules.field_validators, rules.root_validators, rules.model_validators)
    hooks = ("__get_pydantic_core_schema__", "__init__")
    return (
        not any(own)
        and contract.__pydantic_post_init__ is None
        and not contract.__pydantic_root_model__
        and set(contract.model_config) <= _HARMLESS
        and all(getattr(contract, name).__qualname__ == f"BaseModel.{name}" for name in hooks)
    )


def _check(field: FieldInfo) -> Check | None:
    """Return what says of a column which values are good for sure, or None where Pydantic must look."""
    kind = field.annotation
    if kind not in _TYPES or field.validation_alias is not None or field.discriminator is not None:
        return None
    bounds = []
    shortest, longest = 0, None
    for rule in field.metadata:
        if isinstance(rule, _BOUNDS) and kind in (int, float):
            bounds.append(rule)
        elif isinstance(rule, at.MinLen) and kind is str:
            shortest = rule.min_length
        elif isinstance(rule, at.MaxLen) and kind is str:
            longest = rule.max_length
        elif vars(rule).keys() <= {"allow_inf_nan", "strict"} and vars(rule):
            pass  # only finite numbers, of the exact type, are good for sure anyway
        else:
            return None
    if kind is str:
        return lambda column: _text(column, shortest, longest)
    if kind is bool:
        return _truth
    return lambda column: _number(column, bounds, whole=kind is int)


def _truth(column: Any) -> Mask:
    return _present(column) if pa.types.is_boolean(column.type) else _none(column)


def _text(column: Any, shortest: int, longest: int | None) -> Mask:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return _none(column)
    good = _present(column)
    if shortest or longest is not None:
        lengths = _numpy(pc.fill_null(pc.utf8_length(column), -1))
        good &= lengths >= shortest
        if longest is not None:
            good &= lengths <= longest
    return good


def _number(column: Any, bounds: list[Any], *, whole: bool) -> Mask:
    integer = pa.types.is_integer(column.type)
    if not integer and (whole or not pa.types.is_floating(column.type)):
        return _none(column)
    good = _present(column)
    values = _numpy(pc.fill_null(column, 0) if column.null_count else column)
    # A bound of Python's is compared as float64: float32 would round it.
    if not integer:
        values = values.astype(np.float64, copy=False)
        good &= np.isfinite(values)
    else:
        good &= (values <= _EXACT) & (values >= (0 if values.dtype.kind == "u" else -_EXACT))
    with np.errstate(invalid="ignore"):
        for bound in bounds:
            if isinstance(bound, at.Ge):
                good &= values >= bound.ge
            elif isinstance(bound, at.Gt):
                good &= values > bound.gt
            elif isinstance(bound, at.Le):
                good &= values <= bound.le
            else:
                good &= values < bound.lt
    return good


def _present(column: Any) -> Mask:
    if not column.null_count:
        return np.ones(len(column), dtype=np.bool_)
    return _numpy(column.is_valid())


def _none(column: Any) -> Mask:
    return np.zeros(len(column), dtype=np.bool_)


def _numpy(column: Any) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    # What Arrow hands out without a copy is read-only.
    return values if values.flags.writeable or values.dtype != np.bool_ else values.copy()


def _values(column: Any) -> list[Any]:
    """Return Python's values; what is not there of floating point numbers is NaN, as pandas reads it."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type) and column.null_count:
        return [float("nan") if value is None else value for value in values]
    return values


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decoded(column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
