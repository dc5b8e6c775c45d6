"""From validated rows to those that a model learns from. Plain functions."""

from dataclasses import dataclass

import pandas as pd

from catalog.spec import ModelSpec
from checks.errors import DataError


@dataclass(frozen=True)
class Cleaning:
    """How many rows each step of cleaning left out, and how many it kept."""

    read: int
    invalid: int
    conflicting: int
    repeated: int
    kept: int

    def to_dict(self) -> dict[str, int]:
        """Return the numbers by name, for logging."""
        return dict(self.__dict__)


def clean(rows: pd.DataFrame, spec: ModelSpec, *, read: int) -> tuple[pd.DataFrame, Cleaning]:
    """Keep one row for each thing, and none where the table contradicts itself about the target.

    `read` is the number of rows before validation. Rows equal in `unique_by` are one thing: where the target
    is a class, things with several classes are left out whole, because none is known to be right; of the
    others, the row with most of `prefer` stays.
    """
    dataset, invalid = spec.dataset, read - len(rows)
    if not dataset.unique_by:
        return rows, Cleaning(read, invalid, 0, 0, len(rows))
    identity = list(dataset.unique_by)
    kept = rows
    if spec.answers == "classes":
        labels = rows.groupby(identity, dropna=False)[str(spec.target)].transform("nunique")
        kept = rows[labels == 1]
    conflicting = len(rows) - len(kept)
    if dataset.prefer:
        kept = kept.sort_values(dataset.prefer, ascending=False, kind="stable")
    unique = kept.drop_duplicates(identity).sort_index().reset_index(drop=True)
    if unique.empty:
        raise DataError(f"{dataset.name}: no row is left for {spec.name} after cleaning.")
    return unique, Cleaning(read, invalid, conflicting, len(kept) - len(unique), len(unique))


def features(rows: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """Return what the model reads: float64 columns in the declared order, booleans as 0 and 1.

    Values are rounded to float32, which is what the served model gets, so that training sees the same.
    """
    return rows[list(spec.features)].astype("float32").astype("float64")
