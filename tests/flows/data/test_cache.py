"""Rows that were validated before."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from pydantic import Field

from catalog.loader import get_model
from catalog.spec import Dataset
from flows.data import cache, sources
from flows.data.cache import validated
from tests.flows.data.conftest import Row


class Stricter(Row):
    """Another one."""

    size: float = Field(gt=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"name": ["a", "b", "c"], "size": [1.5, -1.0, 3.0], "more": [1, 2, 3]})


def known(table: pd.DataFrame, dataset: Dataset) -> bool:
    return validated(table, dataset)[2]


def test_the_same_rows_are_validated_once(table: pd.DataFrame, dataset: Dataset, home: Path) -> None:
    rows, problems, before = validated(table, dataset)
    again, same, after = validated(table.copy(), dataset)
    assert (before, after) == (False, True)
    assert_frame_equal(rows, again)
    assert problems == same
    assert "1 rows: size" in problems[0]
    assert (home / "cache").stat().st_mode & 0o777 == 0o700


def test_the_catalogues_table_comes_back_as_it_was() -> None:
    dataset = get_model("genre").dataset
    table = sources.read_table(dataset)
    first, second = validated(table, dataset), validated(table, dataset)
    assert (first[2], second[2]) == (False, True)
    assert_frame_equal(first[0], second[0])
    # Models share a table, and what it came to.
    assert known(sources.read_table(get_model("energy").dataset), get_model("energy").dataset)


def test_whatever_changed_is_validated_again(
    table: pd.DataFrame, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not known(table, dataset)
    assert not known(table.assign(size=[1.5, -1.0, 3.0000001]), dataset)
    assert not known(table.assign(more=[1, 2, 4]), dataset)
    assert not known(table.iloc[[1, 0, 2]], dataset)
    assert not known(table.astype({"more": "int32"}), dataset)
    assert not known(table, dataset.model_copy(update={"row": Stricter}))
    assert not known(table, dataset.model_copy(update={"max_rejected": 0.4}))
    monkeypatch.setattr(cache, "code_digest", lambda: "another version of pydantic")
    assert not known(table, dataset)
    assert known(table, dataset)


def test_what_breaks_the_contract_is_refused_each_time(dataset: Dataset, home: Path) -> None:
    table = pd.DataFrame({"name": ["a"], "size": [-1.0]})
    for _ in range(2):
        with pytest.raises(sources.DataError, match="break the contract"):
            validated(table, dataset)
    assert not list(home.glob("cache/*"))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_damage_is_found_and_mended(table: pd.DataFrame, dataset: Dataset, home: Path, damage: str) -> None:
    rows, *_ = validated(table, dataset)
    (file,) = home.glob("cache/*.parquet")
    content = file.read_bytes()
    spoiled = bytearray(content)
    spoiled[content.index(b"a", 4) if damage == "changed" else 0] ^= 1
    if damage == "other":
        table.to_parquet(file)
    else:
        file.write_bytes({"cut": content[:-20], "changed": bytes(spoiled), "empty": b""}[damage])
    again, _, before = validated(table, dataset)
    assert not before
    assert_frame_equal(rows, again)
    assert known(table, dataset)


def test_cache_is_bounded_and_what_was_used_last_stays(
    table: pd.DataFrame, dataset: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(table, dataset)
    (first,) = home.glob("cache/*.parquet")
    monkeypatch.setenv("GREENROOM_CACHE_BYTES", str(first.stat().st_size + 100))
    other = table.assign(name=["d", "e", "f"])
    validated(other, dataset)
    assert len(list(home.glob("cache/*"))) == 1
    assert known(other, dataset)
    assert not first.exists()


def test_nothing_is_kept_where_that_is_not_wanted_or_not_possible(
    table: pd.DataFrame, dataset: Dataset, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_CACHE_BYTES", "0")
    assert [known(table, dataset) for _ in range(2)] == [False, False]
    assert not home.exists()
    monkeypatch.delenv("GREENROOM_CACHE_BYTES")
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    assert [known(table, dataset) for _ in range(2)] == [False, False]
    mixed: Any = table.assign(more=[1, "two", None])
    assert not known(mixed, dataset), "what Arrow cannot hold has no digest"
