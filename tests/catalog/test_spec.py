"""A declaration that contradicts itself is refused when it is written, not when it is trained."""

from typing import Any

import pytest
from pydantic import ValidationError

from catalog.loader import load_catalog
from catalog.models.genre import MODEL as GENRE
from catalog.policies import CLASSIFICATION, REGRESSION
from catalog.spec import Candidate, Check, GatePolicy, ModelSpec, Split
from catalog.spotify_tracks import FEATURES

CHECK = Check(check="A", suite="data_integrity", condition="c", why="w")


def declared(**changes: Any) -> ModelSpec:
    return ModelSpec(**{**{name: getattr(GENRE, name) for name in ModelSpec.model_fields}, **changes})


def test_the_unchanged_declaration_is_accepted() -> None:
    assert declared() == GENRE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Genre"}, "lower-case"),
        ({"name": "genre/1"}, "lower-case"),
        ({"name": "1genre"}, "lower-case"),
        ({"name": ""}, "lower-case"),
        ({"name": "g" * 64}, "lower-case"),
        ({"target": "gnere"}, "target 'gnere' is not a column"),
        ({"target": "energy"}, "would read the answer"),
        ({"features": (*FEATURES, "shoe_size")}, "shoe_size"),
        ({"features": ("track_id",), "one_hot": (), "skewed": ()}, "track_id"),
        ({"features": ()}, "features"),
        ({"one_hot": ("key", "track_genre")}, "encoded columns that are not features"),
        ({"skewed": ("shoe_size",)}, "encoded columns that are not features"),
        ({"candidates": ()}, "candidates"),
        (
            {"candidates": (Candidate(name="a", estimator="x"), Candidate(name="a", estimator="y"))},
            "same name",
        ),
        ({"task": "ranking"}, "task"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        declared(**changes)


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as refusal:
        declared(name="X", target="nothing", skewed=("nothing",))
    assert str(refusal.value).count(";") >= 2


def test_a_policy_that_lets_everything_pass_is_refused() -> None:
    with pytest.raises(ValidationError, match="let everything pass"):
        GatePolicy(checks=())
    with pytest.raises(ValidationError, match="let everything pass"):
        GatePolicy(checks=(CHECK.model_copy(update={"required": False}),))


def test_a_policy_with_one_check_twice_is_refused() -> None:
    # Outcomes are told apart by the check's name: a second one could hide the first.
    with pytest.raises(ValidationError, match="names a check twice: A"):
        GatePolicy(checks=(CHECK, CHECK.model_copy(update={"condition": "d"})))


def test_a_policy_lets_nothing_be_worse_unless_it_says_how_much() -> None:
    assert GatePolicy(checks=(CHECK,)).max_worse == 0
    assert GatePolicy(checks=(CHECK,), max_worse=0.02).max_worse == 0.02
    for wrong in (-0.01, float("inf"), float("nan"), "much"):
        with pytest.raises(ValidationError, match="max_worse"):
            GatePolicy(checks=(CHECK,), max_worse=wrong)


@pytest.mark.parametrize("split", [{"test_fraction": 0}, {"test_fraction": 0.5}, {"folds": 1}, {"folds": 11}])
def test_a_split_that_holds_out_nothing_or_too_much_is_refused(split: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Split(**split)


def test_a_declaration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GENRE.name = "other"


def test_every_model_must_beat_a_naive_baseline_on_clean_held_out_rows() -> None:
    for spec in load_catalog().values():
        required = {check.check for check in spec.gate.checks if check.required}
        if not spec.supervised:
            assert {"TrainTestSamplesMix", "FeatureDrift"} <= required
            continue
        assert {"TrainTestSamplesMix", "SimpleModelComparison", "TrainTestPerformance"} <= required
        assert spec.unit or spec.task == "classification", "a number without a unit says little"


def test_every_check_says_why() -> None:
    for policy in (CLASSIFICATION, REGRESSION):
        assert all(len(check.why) > 10 for check in policy.checks)
