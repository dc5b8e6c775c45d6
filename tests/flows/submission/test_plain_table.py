"""A plain table as a declaration, and the rows that one may learn from."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.loader import get_model
from catalog.policies import CLASSIFICATION, REGRESSION
from catalog.table_declaration import PlainDeclaration
from checks.data import cleaning, sources, splits, validation
from checks.errors import DataError
from flows.errors import SubmissionError
from flows.submission import plain_table
from flows.submission.api import training_rows
from registry.storage.datasets import is_dataset_id


def table(rows: int = 1200) -> pd.DataFrame:
    random = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "height": random.normal(0, 1, rows),
            "floors": random.integers(1, 9, rows),
            "new": random.random(rows) < 0.5,
            "price": random.normal(0, 1, rows),
            "town": random.choice([f"town {number}" for number in range(40)], rows),
        }
    )


def declare(frame: pd.DataFrame, **words: Any) -> PlainDeclaration:
    arguments: dict[str, Any] = {"target": "price", "task": "regression", "group": "town", **words}
    return plain_table.declare("houses", frame, **arguments)[0]


def test_a_table_declares_a_model() -> None:
    declared = declare(table())
    assert [(column.name, column.kind) for column in declared.features] == [
        ("height", "number"),
        ("floors", "integer"),
        ("new", "boolean"),
    ]
    assert (declared.features[1].low, declared.features[1].high) == (1, 8)
    assert is_dataset_id(declared.source)
    spec = declared.spec()
    assert (spec.gate, spec.metric, spec.split.test_fraction) == (REGRESSION, "r2", 0.2)
    assert (spec.dataset.group, spec.target) == ("town", "price")
    by_town = declare(table(), target="town", task="classification", group=None)
    assert by_town.spec().gate == CLASSIFICATION
    assert PlainDeclaration.model_validate_json(declared.model_dump_json()).spec().gate == REGRESSION


def test_the_policy_is_no_part_of_the_stored_declaration() -> None:
    """Whoever may write to a run must not be able to make the gate milder."""
    stored = declare(table()).model_dump()
    assert "gate" not in stored
    with pytest.raises(ValueError, match="gate"):
        PlainDeclaration.model_validate({**stored, "gate": {"checks": []}})


def test_the_same_rows_have_the_same_id_and_others_another() -> None:
    assert declare(table()).source == declare(table()).source
    assert declare(table().assign(price=0.5)).source != declare(table()).source


@pytest.mark.parametrize("rows", [420, 500, 700, 900, 1100])
def test_small_tables_leave_enough_rows_held_out_for_the_gate(rows: int) -> None:
    lacking = table(rows).drop(columns="town")
    declared, kept = plain_table.declare("houses", lacking, target="price", task="regression")
    spec = declared.spec()
    _, held_out = splits.split(plain_table.frame(spec, kept), spec)
    assert len(held_out) >= 200


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({}, {"target": "cost"}, "no column cost. It has: height"),
        ({}, {"group": None}, "The column town holds"),
        ({"height": np.nan}, {}, "The column height lacks 1200 of 1200 values"),
        ({"height": np.inf}, {}, "infinity"),
        ({"height": 1e39}, {}, "float32 cannot hold"),
        ({"price": np.nan}, {}, "The column price lacks"),
        ({"price": "much"}, {}, "Is it a classification"),
        ({}, {"task": "classification"}, "has 1200 different values.*Is it a regression"),
        ({"price": 1}, {"task": "classification"}, "one value only"),
        ({"_private": 1}, {}, "cannot be declared"),
    ],
)
def test_a_table_that_will_not_do_is_refused(
    change: dict[str, Any], words: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        declare(table().assign(**change), **words)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"has 419 rows.*it needs 420"):
        declare(table(419))


def test_a_name_of_the_catalogue_is_refused() -> None:
    with pytest.raises(SubmissionError, match="The catalogue declares 'genre'"):
        plain_table.declare("genre", table(), target="price", task="regression")
    with pytest.raises(DataError, match="must be lower-case"):
        plain_table.declare("My Houses", table().drop(columns="town"), target="price", task="regression")


def test_training_rows_are_those_of_every_training_and_no_others() -> None:
    spec = get_model("genre")
    read = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(read, spec.dataset)[0], spec, read=len(read))
    train, test = splits.split(rows, spec)
    training = training_rows("genre")
    assert tuple(training.features.columns) == spec.features
    np.testing.assert_array_equal(
        training.features.to_numpy(), cleaning.features(rows, spec).iloc[train].to_numpy()
    )
    assert training.target.tolist() == rows["track_genre"].iloc[train].tolist()
    assert training.groups is not None
    held_out = {artist for artists in rows["artists"].iloc[test] for artist in artists.split(";")}
    assert held_out.isdisjoint(artist for artists in training.groups for artist in artists.split(";"))
    for learn, validate in training.folds:
        assert set(learn) | set(validate) == set(range(len(training.target)))


def test_training_rows_of_a_plain_table_leave_the_held_out_ones_out() -> None:
    training = training_rows("houses", table=table(), target="price", task="regression", group="town")
    assert 900 < len(training.features) < 1000
    assert training.groups is not None
    assert set(training.features) == {"height", "floors", "new"}
    assert training.target.dtype == np.float64


def test_models_without_a_target_cannot_be_submitted() -> None:
    with pytest.raises(SubmissionError, match="clusters is a clustering"):
        training_rows("clusters")
    with pytest.raises(SubmissionError, match="belong to a table"):
        training_rows("genre", target="track_genre")
    with pytest.raises(DataError, match="needs its target column and its task"):
        training_rows("houses", table=table(), target="price")
