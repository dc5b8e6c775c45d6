"""Repeated and contradicting rows, and what a model reads of a row."""

import numpy as np
import pandas as pd
import pytest

from catalog.spec import ModelSpec
from checks.data.cleaning import clean, features
from checks.errors import DataError
from tests.flows.support.things import declare, things


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
