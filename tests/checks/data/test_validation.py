"""Rows held against their contract, as a table and as a stream."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catalog.loader import get_model
from checks.data import sources, validation
from checks.errors import DataError
from tests.flows.support.things import Thing, declare, streamed, things, written


def test_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="lacks the columns kind, votes"):
        validation.validate(things().drop(columns=["kind", "votes"]), declare().dataset)


def test_empty_table_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        validation.validate(things(0), declare().dataset)


def test_too_many_broken_rows_are_refused_with_examples() -> None:
    table = things()
    table["size"] = table["size"].astype(object)
    table.loc[[4, 9], "size"] = "large"
    with pytest.raises(DataError, match=r"2 of 100 rows .* 1\.0% may\. row 4: size: .*; row 9: size"):
        validation.validate(table, declare().dataset)


def test_few_broken_rows_are_left_out_and_reported() -> None:
    table = things()
    table["votes"] = table["votes"].astype(object)
    table.loc[7, "votes"] = "many"
    kept, problems = validation.validate(table, declare().dataset)
    assert len(kept) == 99
    assert 7 not in set(kept["votes"])
    assert list(kept.index) == list(range(99))
    assert len(problems) == 1
    assert problems[0].startswith("1 rows: votes: ")


def test_columns_outside_of_the_contract_are_left_out() -> None:
    kept, problems = validation.validate(things().assign(secret=1), declare().dataset)
    assert list(kept.columns) == list(Thing.model_fields)
    assert problems == []


@pytest.mark.parametrize("name", ["genre", "energy", "popularity", "clusters", "similar"])
def test_the_catalogues_tables_are_the_same_streamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BATCH", 999)
    dataset = get_model(name).dataset
    whole, sentences = validation.validate(sources.read_table(dataset), dataset)
    rows, problems = validation.validate(sources.open_table(dataset), dataset)
    pd.testing.assert_frame_equal(rows, whole)
    assert problems == sentences


def test_the_same_rows_are_left_out_for_the_same_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_BATCH", 10)
    dataset = declare(max_rejected=0.5).dataset
    table = things()
    table.loc[[3, 50, 51], "size"] = np.nan
    table["heavy"] = table["heavy"].astype(object)
    table.loc[[20, 21], "heavy"] = None
    table.loc[[51, 70, 71, 72], "kind"] = None
    table["secret"] = 1
    table.index = pd.Index(range(500, 600), name="number")
    whole, sentences = validation.validate(pd.read_parquet(written(table, tmp_path)), dataset)
    rows, problems = streamed(table, tmp_path, dataset)
    # Rows without a truth value are gone, so that the column holds truth values alone.
    pd.testing.assert_frame_equal(rows, whole.astype({"heavy": bool}))
    assert sentences == problems
    assert len(rows) == 100 - 6


def test_a_stream_is_refused_as_a_table_is(tmp_path: Path) -> None:
    dataset = declare().dataset
    for table in (things(0), things().drop(columns=["kind"]), things().assign(kind=None)):
        with pytest.raises(DataError) as whole:
            validation.validate(pd.read_parquet(written(table, tmp_path)), dataset)
        with pytest.raises(DataError) as stream:
            streamed(table, tmp_path, dataset)
        assert str(stream.value) == str(whole.value)
    (tmp_path / "text.parquet").write_text("no")
    for source in ("text.parquet", "nowhere.parquet"):
        elsewhere = dataset.model_copy(update={"source": str(tmp_path / source)})
        with pytest.raises(DataError) as whole:
            sources.read_table(elsewhere)
        with pytest.raises(DataError) as stream:
            sources.open_table(elsewhere)
        assert str(stream.value).partition("Parquet")[0] == str(whole.value).partition("Parquet")[0]


def test_a_null_among_whole_numbers_breaks_its_row_alone(tmp_path: Path) -> None:
    """pandas makes floats of the whole column, all of which the contract would refuse."""
    table = things().astype({"votes": "Int64"})
    table.loc[5, "votes"] = pd.NA
    rows, problems = streamed(table, tmp_path, declare().dataset)
    assert problems == ["1 rows: votes: Input should be a valid integer"]
    assert len(rows) == 99
