"""Each rule of the data contract refuses what it is there to refuse."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from catalog.contract import request_model, to_row
from catalog.loader import load_catalog
from catalog.models.energy import MODEL as ENERGY
from catalog.models.genre import MODEL as GENRE
from catalog.spec import ModelSpec
from catalog.spotify_tracks import FEATURES, Track, TrackFeatures

EXAMPLE: dict[str, Any] = TrackFeatures.model_json_schema()["examples"][0]
ROW = {
    **EXAMPLE,
    "track_id": "6f807x0ima9a1j3VPbc7VN",
    "artists": "Someone;Else",
    "track_name": "",
    "track_genre": "rock",
    "popularity": 0,
}

# For each number: the ends of its range, which are in, and a step beyond them, which is out.
UNIT = (0.0, 1.0, 1e-9)
RANGES: dict[str, tuple[float, float, float]] = {
    **dict.fromkeys(
        (
            "danceability",
            "energy",
            "valence",
            "acousticness",
            "instrumentalness",
            "liveness",
            "speechiness",
        ),
        UNIT,
    ),
    "key": (0, 11, 1),
    "mode": (0, 1, 1),
    "loudness": (-60.0, 6.0, 1e-6),
    "tempo": (20.0, 300.0, 1e-6),
    "duration_ms": (1_000, 7_200_000, 1),
    "time_signature": (1, 7, 1),
}


def refused_fields(model: type[BaseModel], content: str) -> set[str]:
    with pytest.raises(ValidationError) as refusal:
        model.model_validate_json(content)
    return {str(error["loc"][0]) for error in refusal.value.errors()}


def test_every_feature_has_a_range_here_or_is_a_boolean() -> None:
    assert set(RANGES) | {"explicit"} == set(FEATURES)


@pytest.mark.parametrize("model", [TrackFeatures, request_model(GENRE)])
@pytest.mark.parametrize("field", RANGES)
def test_ends_of_the_range_are_in_and_a_step_beyond_is_out(model: type[BaseModel], field: str) -> None:
    low, high, step = RANGES[field]
    for inside in (low, high):
        assert getattr(model.model_validate({**EXAMPLE, field: inside}), field) == inside
    for outside in (low - step, high + step):
        assert refused_fields(model, json.dumps({**EXAMPLE, field: outside})) == {field}


@pytest.mark.parametrize("model", [TrackFeatures, request_model(GENRE)])
@pytest.mark.parametrize("field", FEATURES)
def test_wrong_types_and_missing_values_are_out(model: type[BaseModel], field: str) -> None:
    wrong: list[Any] = [None, "1", [], {}, float("nan"), float("inf"), float("-inf")]
    wrong.append(1 if field == "explicit" else True)
    if isinstance(EXAMPLE[field], int):
        wrong.append(1.5)
    for value in wrong:
        assert refused_fields(model, json.dumps({**EXAMPLE, field: value})) == {field}, value
    left = {name: value for name, value in EXAMPLE.items() if name != field}
    assert refused_fields(model, json.dumps(left)) == {field}


@pytest.mark.parametrize(
    "field", [*FEATURES, "track_id", "artists", "track_name", "track_genre", "popularity"]
)
def test_a_row_of_the_table_needs_every_column(field: str) -> None:
    assert Track.model_validate(ROW)
    with pytest.raises(ValidationError, match=field):
        Track.model_validate({name: value for name, value in ROW.items() if name != field})


@pytest.mark.parametrize(
    ("field", "value"),
    [("track_id", ""), ("artists", ""), ("track_genre", ""), ("popularity", 101), ("popularity", -1)],
)
def test_a_row_of_the_table_is_refused_by_its_own_rules(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Track.model_validate({**ROW, field: value})


@pytest.mark.parametrize("spec", load_catalog().values(), ids=lambda spec: spec.name)
def test_a_request_has_exactly_the_features_and_its_examples_are_valid(spec: ModelSpec) -> None:
    model = request_model(spec)
    assert set(model.model_fields) == set(spec.features)
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        assert len(to_row(model.model_validate_json(json.dumps(example)), spec.features)) == len(
            spec.features
        )


def test_a_feature_the_model_does_not_read_is_refused() -> None:
    assert refused_fields(request_model(ENERGY), json.dumps(EXAMPLE)) == {"energy"}


def test_making_a_request_leaves_the_contract_as_it_was() -> None:
    before = TrackFeatures.model_json_schema()
    request_model(ENERGY)
    assert TrackFeatures.model_json_schema() == before


def test_a_contract_without_examples_gives_a_request_without() -> None:
    class Bare(BaseModel):
        danceability: float

    spec = GENRE.model_copy(
        update={
            "dataset": GENRE.dataset.model_copy(update={"features": Bare}),
            "features": ("danceability",),
        }
    )
    assert "examples" not in request_model(spec).model_json_schema()


def test_a_row_is_in_the_order_that_is_asked_for() -> None:
    request = request_model(GENRE).model_validate(EXAMPLE)
    assert to_row(request, ("explicit", "key", "tempo")) == [0.0, 10.0, 89.991]
    assert to_row(request, ("tempo", "explicit")) == [89.991, 0.0]
