"""Splits on made-up tables and on the real tracks."""

import numpy as np
import pandas as pd
import pytest

from catalog.loader import get_model
from catalog.spec import ModelSpec, Split
from checks.data import sources, splits, validation
from checks.data.cleaning import clean
from checks.errors import DataError
from tests.flows.support.things import declare, things


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
    for positions, same_positions in zip(first, again, strict=True):
        np.testing.assert_array_equal(positions, same_positions)
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
    folds = splits.folds(rows, genre)
    assert len(folds) == genre.split.folds
    for train, test in folds:
        assert not set(main[train]) & set(main[test])
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(rows)))


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


def test_the_main_group_is_what_the_split_keeps_together() -> None:
    dataset = get_model("genre").dataset
    rows = pd.DataFrame({"artists": ["Ana;Ben", "Ben;Ana", "Ana"]})
    groups = splits.main_groups(rows, dataset)
    assert groups is not None
    assert list(groups) == ["Ana", "Ben", "Ana"]
    assert splits.main_groups(rows, dataset.model_copy(update={"group": None})) is None
