"""A contract of made-up things, a declaration of them, and their rows."""

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from catalog.policies import CLASSIFICATION
from catalog.spec import Candidate, Dataset, ModelSpec
from checks.data import sources, validation


class Seen(BaseModel):
    """What a client sends."""

    size: float
    heavy: bool


class Thing(Seen):
    """One row."""

    model_config = ConfigDict(strict=True)

    kind: str
    owner: str
    votes: int


def declare(task: str = "classification", target: str = "kind", **changes: Any) -> ModelSpec:
    identity = {"unique_by": ("owner", "size"), "prefer": "votes", "group": "owner", "group_separator": ";"}
    dataset = Dataset(
        name="things",
        description="",
        source="things.parquet",
        row=Thing,
        features=Seen,
        **{**identity, **changes},
    )
    return ModelSpec(
        name="thing",
        description="",
        task=task,  # type: ignore[arg-type]
        dataset=dataset,
        target=target,
        features=("size", "heavy"),
        candidates=(Candidate(name="any", estimator="sklearn.dummy.DummyClassifier"),),
        metric="accuracy",
        gate=CLASSIFICATION,
    )


def things(count: int = 100) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": [i / 3 for i in range(count)],
            "heavy": [i % 2 == 0 for i in range(count)],
            "kind": [("a", "b")[i % 2] for i in range(count)],
            "owner": [f"owner {i // 2}" for i in range(count)],
            "votes": list(range(count)),
        }
    )


def sourced(source: str) -> Dataset:
    return declare().dataset.model_copy(update={"source": source})


# Reading and validating in batches, held against the whole table and Pydantic


def streamed(table: pd.DataFrame, folder: Path, dataset: Dataset, group: int = 7) -> Any:
    """What `open_table` and `validate` make of the same rows in a file."""
    path = folder / "table.parquet"
    table.to_parquet(path, row_group_size=group)
    opened = sources.open_table(dataset.model_copy(update={"source": str(path)}))
    assert isinstance(opened, sources.Table)
    assert len(opened) == len(table)
    return validation.validate(opened, dataset)


def written(table: pd.DataFrame, folder: Path) -> Path:
    path = folder / "whole.parquet"
    table.to_parquet(path)
    return path
