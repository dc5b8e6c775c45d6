"""Rows held against their contract. Plain functions."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from catalog.spec import Dataset
from checks.data.row_rules import RowRules
from checks.data.sources import Table
from checks.errors import DataError

_SHOWN = 3


def validate(table: "pd.DataFrame | Table", dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that meet the dataset's contract, and a sentence for each kind of broken row.

    A `Table` is read and looked at in batches: no more is in memory than what is kept. Raises `DataError`
    when a column is missing or more than `max_rejected` of the rows are broken.
    """
    if isinstance(table, Table):
        return _validate_stream(table, dataset)
    _require(list(table.columns), len(table), dataset)
    columns = [name for name in dataset.row.model_fields if name in table.columns]
    records = table[columns].to_dict("records")
    broken: dict[int, str] = {}
    try:
        TypeAdapter(list[dataset.row]).validate_python(records)  # type: ignore[name-defined]
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            row, *where = problem["loc"]
            broken.setdefault(int(row), f"{'.'.join(map(str, where))}: {problem['msg']}")
    _require_few(dict(list(broken.items())[:_SHOWN]), len(broken), len(table), dataset)
    kinds = pd.Series(list(broken.values()), dtype=object).value_counts()
    kept = table[columns].drop(index=table.index[list(broken)]).reset_index(drop=True)
    return kept, [f"{count} rows: {why}" for why, count in kinds.items()]


def _validate_stream(table: Table, dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    _require(table.schema.names, len(table), dataset)
    columns = [name for name in dataset.row.model_fields if name in table.schema.names]
    rules = RowRules(dataset.row)
    kinds: Counter[str] = Counter()
    examples: dict[int, str] = {}
    kept = []
    row = 0
    for batch in table.batches(columns):
        broken = rules.broken(batch)
        kinds.update(broken.values())
        for place in list(broken)[: _SHOWN - len(examples)]:
            examples[row + place] = broken[place]
        row += batch.num_rows
        if broken:
            good = np.ones(batch.num_rows, dtype=np.bool_)
            good[list(broken)] = False
            batch = batch.filter(pa.array(good))  # noqa: PLW2901 - the rest of it
        kept.append(batch)
    _require_few(examples, kinds.total(), len(table), dataset)
    # Arrow's columns are given up one by one as pandas' are made, so that they are not in memory twice.
    whole = pa.Table.from_batches(kept)
    kept.clear()
    rows: pd.DataFrame = whole.to_pandas(self_destruct=True, split_blocks=True)[columns]
    return rows.reset_index(drop=True), [f"{count} rows: {why}" for why, count in kinds.most_common()]


def _require(columns: list[str], rows: int, dataset: Dataset) -> None:
    required = [name for name, field in dataset.row.model_fields.items() if field.is_required()]
    if absent := [name for name in required if name not in columns]:
        raise DataError(f"{dataset.name} lacks the columns {', '.join(absent)} that its contract names.")
    if not rows:
        raise DataError(f"{dataset.name} has no rows.")


def _require_few(examples: dict[int, str], broken: int, rows: int, dataset: Dataset) -> None:
    if broken > dataset.max_rejected * rows:
        shown = "; ".join(f"row {row}: {why}" for row, why in examples.items())
        raise DataError(
            f"{dataset.name}: {broken} of {rows} rows break the contract, and "
            f"{dataset.max_rejected:.1%} may. {shown}"
        )
