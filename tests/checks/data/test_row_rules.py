"""Columns and Pydantic, held against each other: the same rows are broken, for the same reason."""

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from catalog.contract import request_model
from catalog.loader import get_model
from checks.data.row_rules import RowRules


class Thing(BaseModel):
    """Every kind of rule that is looked at by columns."""

    model_config = ConfigDict(strict=True)

    share: float = Field(ge=0.1, lt=0.7, allow_inf_nan=False)
    free: float
    count: int = Field(gt=-3, le=5)
    heavy: bool
    name: str = Field(min_length=1, max_length=3)


class Odd(BaseModel):
    """Rules that only Pydantic knows."""

    size: float = Field(multiple_of=0.5)
    code: str = Field(pattern="^[a-c]+$")
    price: Decimal | None = None

    @field_validator("size")
    @classmethod
    def _not_three(cls, value: float) -> float:
        if value == 3:
            raise ValueError("three is right out")
        return value


def oracle(contract: type[BaseModel], records: list[dict[str, Any]]) -> dict[int, str]:
    """What Pydantic says of each row by itself."""
    reasons = {}
    rows: TypeAdapter[Any] = TypeAdapter(list[contract])  # type: ignore[valid-type]
    for place, record in enumerate(records):
        try:
            rows.validate_python([record])
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            reasons[place] = f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}"
    return reasons


NUMBERS = st.one_of(
    st.sampled_from([0.1, np.nextafter(0.1, 0), 0.7, float(np.float32(0.7)), 0.0, -0.0]),
    st.floats(),
    st.none(),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "share": NUMBERS,
            "free": NUMBERS,
            "count": st.one_of(st.integers(-4, 6), st.integers(-(2**63), 2**63 - 1), st.none()),
            "heavy": st.one_of(st.booleans(), st.none()),
            "name": st.one_of(st.text(max_size=4), st.none()),
        }
    ),
    min_size=1,
    max_size=20,
)
SCHEMA = pa.schema(
    {
        "share": pa.float64(),
        "free": pa.float64(),
        "count": pa.int64(),
        "heavy": pa.bool_(),
        "name": pa.string(),
    }
)


@given(ROWS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_same_rows_are_broken_for_the_same_reason(records: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(records, schema=SCHEMA)
    # What is not there of a floating point number is NaN, as pandas reads it.
    seen = [
        {**row, **{key: float("nan") for key in ("share", "free") if row[key] is None}} for row in records
    ]
    assert RowRules(Thing).broken(batch) == oracle(Thing, seen)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16(), pa.int32(), pa.uint64(), pa.int8()])
def test_any_width_of_a_number(kind: Any) -> None:
    values = [0, 1, 2, 3, 100] if pa.types.is_integer(kind) else [0.1, 0.69, 0.7, 0.5, np.nan]
    shares = pa.array(np.array(values).astype(kind.to_pandas_dtype()), kind)
    rest = {"free": 1.0, "count": 1, "heavy": True, "name": "a"}
    names = {"share": shares, **{name: pa.array([value] * 5) for name, value in rest.items()}}
    batch = pa.RecordBatch.from_pydict(names)
    records = [{"share": value, **rest} for value in shares.to_pylist()]
    assert RowRules(Thing).broken(batch) == oracle(Thing, records)


def test_a_bound_beyond_what_float64_holds_exactly_is_kept() -> None:
    class Large(BaseModel):
        count: int = Field(le=2**53)

    batch = pa.RecordBatch.from_pydict({"count": [2**53, 2**53 + 1]})
    assert list(RowRules(Large).broken(batch)) == [1]


def test_rules_that_only_pydantic_knows_are_asked_of_it() -> None:
    records = [
        {"size": 1.0, "code": "abc", "price": Decimal("1.50")},
        {"size": 3.0, "code": "a", "price": None},
        {"size": 0.7, "code": "a", "price": None},
        {"size": 1.0, "code": "d", "price": None},
    ]
    broken = RowRules(Odd).broken(pa.RecordBatch.from_pylist(records))
    assert broken == oracle(Odd, records)
    assert sorted(broken) == [1, 2, 3]


def test_texts_by_dictionary_are_read() -> None:
    names = pa.array(["a", "", "b"]).dictionary_encode()
    rest = {"share": [0.5] * 3, "free": [0.0] * 3, "count": [1] * 3, "heavy": [True] * 3}
    assert list(RowRules(Thing).broken(pa.RecordBatch.from_pydict({**rest, "name": names}))) == [1]


def test_columns_that_cannot_hold_the_contract_are_named() -> None:
    schema = pa.schema({"share": pa.string(), "count": pa.float64(), "heavy": pa.int8(), "name": pa.null()})
    rules = RowRules(Thing)
    assert rules.missing(schema.names) == ["free"]
    assert [line.split(" ")[0] for line in rules.wrong_types(schema)] == ["share", "count", "heavy"]
    assert rules.wrong_types(SCHEMA) == []


def test_the_catalogues_contracts_are_looked_at_by_columns() -> None:
    """Ten million rows shown to Pydantic one by one would take minutes."""
    for name in ("genre", "energy", "popularity", "clusters"):
        rules = RowRules(request_model(get_model(name)))
        assert all(check is not None for check in rules._checks.values())
    row = get_model("genre").dataset.row
    assert all(check is not None for check in RowRules(row)._checks.values())
