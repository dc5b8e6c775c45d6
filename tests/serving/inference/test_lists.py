"""Lists of objects: answered whole, in order and like the objects alone, or refused whole."""

import asyncio
import json
import time
from datetime import UTC, datetime
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from catalog.models.energy import MODEL as ENERGY
from catalog.models.genre import MODEL as GENRE
from catalog.spotify_tracks import FEATURES
from registry.model_format.onnx_model import OnnxModel
from serving.api.predict import PredictMiddleware
from serving.errors import InvalidInputError, PredictionFailedError
from serving.http_errors import ErrorBody
from serving.inference.predictor import ParsedRequest, Predictor, Served
from serving.inference.response import shortest_decimals
from serving.parsing import is_list, object_bytes
from serving.settings import ServingSettings
from serving.tasks.classification import ClassPrediction, ClassPredictions
from serving.tasks.regression import NumberPredictions
from tests.serving.support.onnx_parts import classifier, divides_by_zero, json_of, regression
from tests.serving.support.predictor_process import Published, Running, Start

JSON = {"content-type": "application/json"}
LIST_BYTES = 1000 * object_bytes(FEATURES)


class Unbounded(BaseModel):
    """A contract that sets no bounds."""

    size: float
    count: int


UNBOUNDED = ENERGY.model_copy(
    update={
        "dataset": ENERGY.dataset.model_copy(update={"features": Unbounded}),
        "features": ("size", "count"),
    }
)


def many(track: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Tracks that all differ."""
    return [
        {
            **track,
            "danceability": (index * 37 % 100) / 100,
            "key": index % 12,
            "loudness": -(index % 60) - 0.25,
            "duration_ms": 1_000 + index * 997,
            "explicit": index % 3 == 0,
        }
        for index in range(rows)
    ]


def refused(answer: httpx.Response, status: int, code: str) -> ErrorBody:
    assert answer.status_code == status, answer.text
    body = ErrorBody.model_validate(json_of(answer.text))
    assert body.error.code == code
    assert 1 <= len(body.error.details) <= 20
    assert "predictions" not in answer.text
    return body


def fields(body: ErrorBody) -> list[str]:
    return [detail.field for detail in body.error.details]


@pytest.mark.parametrize("rows", [1, 2, 20, 300])
def test_a_list_is_answered_in_order_and_like_each_object_alone(
    predictor: Running, names: dict[str, str], track: dict[str, Any], rows: int
) -> None:
    tracks = many(track, rows)
    answer = predictor.post(names["genre"], json=tracks)
    assert answer.status_code == 200, answer.text
    body = json_of(answer.text)
    assert list(body) == ["id", "model", "version", "predictions"]
    assert (body["model"], body["version"], len(body["predictions"])) == (names["genre"], 1, rows)
    for index in range(0, rows, 7):
        alone = json_of(predictor.post(names["genre"], json=tracks[index]).text)
        found = body["predictions"][index]
        assert list(found) == ["prediction", "probabilities"]
        assert found["prediction"] == alone["prediction"]
        assert list(found["probabilities"]) == list(alone["probabilities"])
        # One row and many are not multiplied in the same order, which moves the last bits of a float32.
        assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


@pytest.mark.parametrize("rows", [20, 100])
def test_probabilities_stay_in_the_order_of_the_rows(track: dict[str, Any], rows: int) -> None:
    predictor = Predictor({"genre": GENRE})
    model = OnnxModel(classifier(("valence", "danceability", "explicit")).SerializeToString())
    predictor.swap("genre", Served(1, model, datetime.now(UTC)))
    tracks = many(track, rows)
    found = ClassPredictions.model_validate_json(
        predictor.predict("genre", json.dumps(tracks).encode()).json()
    )
    assert len({json.dumps(row.probabilities) for row in found.predictions}) == rows, "the rows differ"
    for row, one in zip(found.predictions, tracks, strict=True):
        alone = ClassPrediction.model_validate_json(
            predictor.predict("genre", json.dumps(one).encode()).json()
        )
        assert row.prediction == alone.prediction
        assert row.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 300])
def test_a_regression_answers_numbers_with_the_digits_they_have(
    predictor: Running, names: dict[str, str], track_without_energy: dict[str, Any], rows: int
) -> None:
    tracks = many(track_without_energy, rows)
    answer = predictor.post(names["energy"], json=tracks)
    assert answer.status_code == 200, answer.text
    predictions = json_of(answer.text)["predictions"]
    assert [list(found) for found in predictions] == [["prediction"]] * rows
    for index in range(0, rows, 7):
        alone = json_of(predictor.post(names["energy"], json=tracks[index]).text)["prediction"]
        assert predictions[index]["prediction"] == pytest.approx(alone, rel=1e-6)
    assert max(len(str(found["prediction"])) for found in predictions) < 12


def test_an_object_is_answered_as_an_object(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    answer = predictor.post(names["genre"], json=track)
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith('{"id":"')
    assert list(answer.json()) == ["id", "model", "version", "prediction", "probabilities"]


def test_an_empty_list_is_refused(predictor: Running, names: dict[str, str]) -> None:
    for content in ("[]", " \r\n\t[ ] "):
        body = refused(predictor.post(names["genre"], content=content, headers=JSON), 422, "invalid_input")
        assert body.error.details[0].field == "body"
        assert "empty" in body.error.details[0].problem


def test_more_rows_than_the_limit_are_refused(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    assert len(predictor.post(names["genre"], json=many(track, 1000)).json()["predictions"]) == 1000
    body = refused(predictor.post(names["genre"], json=many(track, 1001)), 413, "too_many_rows")
    assert "1000" in body.error.message
    assert fields(body) == ["body"]
    # Counted before the fields are looked at, and with as little work as may be.
    for content in ("[" + "{}," * 1000 + "{}]", "[" + "1," * 300_000 + "1]", json.dumps([track] * 2500)):
        answer = predictor.post(names["genre"], content=content, headers=JSON)
        refused(answer, 413, "too_many_rows")


def test_the_limit_is_a_setting(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any]
) -> None:
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, GREENROOM_SERVING_MAX_ROWS="3")
    running.loaded()
    assert running.post(names["genre"], json=[track] * 3).status_code == 200
    body = refused(running.post(names["genre"], json=[track] * 4), 413, "too_many_rows")
    assert "more than 3 objects" in body.error.message
    page = running.get("/openapi.json").json()
    content = page["paths"][f"/api/predict/{names['genre']}"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["oneOf"][1]["maxItems"] == 3
    for wrong in (0, 10_001):
        with pytest.raises(ValidationError, match="serving_max_rows"):
            ServingSettings(serving_max_rows=wrong)


def test_a_full_list_gets_through_however_it_is_written(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    longest = {
        name: 0.12345678901234567 if isinstance(value, float) else value for name, value in track.items()
    }
    longest |= {
        "loudness": -0.12345678901234567,
        "tempo": 123.45678901234567,
        "valence": 2.2250738585072014e-308,
    }
    content = json.dumps([longest] * 1000, indent=4)
    assert 64 * 1024 < len(content) < LIST_BYTES
    answer = predictor.post(names["genre"], content=content, headers=JSON)
    assert answer.status_code == 200, answer.text
    padded = content.encode().ljust(LIST_BYTES)
    assert predictor.post(names["genre"], content=padded, headers=JSON).status_code == 200


def test_a_list_beyond_its_bytes_is_refused_whether_it_says_so_or_not(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    full = json.dumps([track]).encode().ljust(LIST_BYTES)
    body = refused(predictor.post(names["genre"], content=full + b" ", headers=JSON), 413, "body_too_large")
    assert "65536 bytes for an object" in body.error.message
    assert f"{LIST_BYTES} bytes for a list" in body.error.message
    chunked = predictor.post(names["genre"], content=iter([full, b" "]), headers=JSON)
    refused(chunked, 413, "body_too_large")


@pytest.mark.parametrize("before", [b"", b" \n", b" " * 65_536])
def test_an_object_keeps_its_own_limit(
    predictor: Running, names: dict[str, str], track: dict[str, Any], before: bytes
) -> None:
    content = before + json.dumps({**track, "list": [1] * 30_000}).encode()
    assert 65_536 < len(content) < LIST_BYTES
    refused(predictor.post(names["genre"], content=content, headers=JSON), 413, "body_too_large")
    chunked = predictor.post(names["genre"], content=iter([content[:100], content[100:]]), headers=JSON)
    refused(chunked, 413, "body_too_large")


def test_errors_name_the_row_and_refuse_the_whole_list(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    tracks = many(track, 200)
    tracks[3]["energy"] = 1.5
    tracks[5]["enrgy"] = tracks[5].pop("energy")
    tracks[199]["key"] = "C"
    body = refused(predictor.post(names["genre"], json=tracks), 422, "invalid_input")
    assert fields(body) == ["3.energy", "5.energy", "5.enrgy", "199.key"]
    assert "3.energy" in body.error.message


def test_a_list_full_of_errors_gets_a_short_answer(predictor: Running, names: dict[str, str]) -> None:
    answer = predictor.post(names["genre"], json=[{}] * 1000)
    body = refused(answer, 422, "invalid_input")
    assert fields(body) == [f"0.{name}" for name in FEATURES] + [f"1.{name}" for name in FEATURES[:6]]
    assert "and 13980 more" in body.error.message
    assert len(answer.text) < 8_000


def test_a_row_crowded_with_fields_is_refused_at_once(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    extra = {f"x{index}": 1 for index in range(55_000)}
    crowded = json.dumps([track, {**track, **extra}])
    assert 600_000 < len(crowded) < LIST_BYTES
    for content, field in (
        (crowded, "1"),
        (json.dumps([track, {**track, "tempo": extra}]), "body"),
        ('[{"key":1' + ',"key":1' * 60_000 + "}]", "body"),
    ):
        began = time.monotonic()
        body = refused(predictor.post(names["genre"], content=content, headers=JSON), 422, "invalid_input")
        assert time.monotonic() - began < 1
        assert fields(body) == [field]
    refused(predictor.post(names["genre"], content=crowded[:-1], headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("danceability", "NaN"),
        ("danceability", "Infinity"),
        ("danceability", "1e999"),
        ("danceability", "9" * 400),
        ("danceability", "true"),
        ("danceability", "null"),
        ("danceability", "[0.5]"),
        ("danceability", '"0.5"'),
        ("key", "10.5"),
        ("key", "9" * 400),
        ("duration_ms", "1e400"),
        ("explicit", "1"),
    ],
)
def test_a_bad_value_is_refused_by_row_and_name(
    predictor: Running, names: dict[str, str], track: dict[str, Any], field: str, value: str
) -> None:
    content = json.dumps([track, {**track, field: "@@"}, track]).replace('"@@"', value)
    body = refused(predictor.post(names["genre"], content=content, headers=JSON), 422, "invalid_input")
    assert set(fields(body)) == {f"1.{field}"}


@pytest.mark.parametrize("row", ["null", "[]", "[{}]", '"track"', "3", "true", "NaN"])
def test_a_row_that_is_not_an_object_is_refused(
    predictor: Running, names: dict[str, str], track: dict[str, Any], row: str
) -> None:
    content = f"[{json.dumps(track)}, {row}]"
    body = refused(predictor.post(names["genre"], content=content, headers=JSON), 422, "invalid_input")
    assert fields(body) == ["1"]


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"[{]",
        b"[{}",
        b"[{},]",
        b"[{}]]",
        b"[{}] [{}]",
        b"[\xff]",
        b"[" * 100_000,
        b"[" * 300_000 + b"]" * 300_000,
        b'[{"extra": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
        b'[{"a":' * 20_000,
        b'[{"key": ' + b"9" * 5_000 + b"}]",
        b'[{"key": ' + b"9" * 500_000 + b"}]",
        b"[" + b'{"a":1},' * 20_000,
    ],
)
def test_a_list_that_is_not_json_is_refused(
    predictor: Running, names: dict[str, str], content: bytes
) -> None:
    answer = predictor.post(names["genre"], content=content, headers=JSON)
    refused(answer, 400, "invalid_json")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FEATURES), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_VALUES, max_size=4), cut=st.integers(0, 3))
def test_no_list_makes_the_predictor_fail(
    predictor: Running, names: dict[str, str], rows: list[Any], cut: int
) -> None:
    text = json.dumps(rows)
    answer = predictor.post(names["genre"], content=text[: len(text) - cut], headers=JSON)
    assert answer.status_code in (400, 422)
    ErrorBody.model_validate(json_of(answer.text))


@pytest.mark.parametrize("rows", [2, 300])
def test_answers_that_are_no_numbers_fail_the_list(rows: int) -> None:
    predictor = Predictor({"unbounded": UNBOUNDED})
    model = OnnxModel(divides_by_zero(("size", "count")).SerializeToString())
    predictor.swap("unbounded", Served(1, model, datetime.now(UTC)))
    with pytest.raises(PredictionFailedError, match="version 1 failed"):
        predictor.predict("unbounded", json.dumps([{"size": 1, "count": 1}] * rows).encode())


def test_the_page_shows_both_forms(predictor: Running, names: dict[str, str]) -> None:
    page = predictor.get("/openapi.json").json()
    OpenAPI.model_validate(page)
    for kind, answers in (("genre", "Class"), ("energy", "Number")):
        operation = page["paths"][f"/api/predict/{names[kind]}"]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        one, several = content["schema"]["oneOf"]
        assert several == {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}
        assert isinstance(content["examples"]["object"]["value"], dict)
        assert isinstance(content["examples"]["list"]["value"], list)
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
        names_of = [form["$ref"].rpartition("/")[2] for form in answer]
        assert names_of == [f"{answers}Prediction", f"{answers}Predictions"]
        assert "1 to 1000 objects" in operation["description"]
        assert "too_many_rows" in operation["responses"]["413"]["description"]


def test_what_float32_cannot_hold_is_refused_by_row() -> None:
    predictor = Predictor({"unbounded": UNBOUNDED})
    model = OnnxModel(regression(("size", "count"), {"size": 1.0}, 0.0).SerializeToString())
    predictor.swap("unbounded", Served(1, model, datetime.now(UTC)))
    good = '{"size": 1, "count": 1}'
    for bad, field in (
        ('{"size": 1e39, "count": 1}', "1.size"),
        ('{"size": NaN, "count": 1}', "1.size"),
        (f'{{"size": 1, "count": 1{"0" * 50}}}', "1.count"),
        (f'{{"size": 1, "count": 1{"0" * 400}}}', "1"),
    ):
        with pytest.raises(InvalidInputError) as refusal:
            predictor.predict("unbounded", f"[{good}, {bad}, {good}]".encode())
        assert [detail.field for detail in refusal.value.details] == [field]
    answer = predictor.predict("unbounded", f"[{good}, {good}]".encode())
    found = NumberPredictions.model_validate_json(answer.json())
    assert [row.prediction for row in found.predictions] == [1.0, 1.0]


def test_a_model_that_answers_another_number_of_rows_is_an_error(track: dict[str, Any]) -> None:
    class OneRow(OnnxModel):
        def predict(self, rows: Any) -> Any:
            labels, probabilities = super().predict(rows)
            return labels[:1], probabilities

    predictor = Predictor({"genre": GENRE})
    model = OneRow(classifier(FEATURES).SerializeToString())
    predictor.swap("genre", Served(1, model, datetime.now(UTC)))
    with pytest.raises(PredictionFailedError):
        predictor.predict("genre", json.dumps([track, track]).encode())


def test_a_row_is_answered_while_a_long_list_is_worked_on(track: dict[str, Any]) -> None:
    answered = Event()

    class Waits(Predictor):
        def read(self, name: str, body: bytes | bytearray, max_rows: int = 1000) -> ParsedRequest:
            if is_list(body):
                assert answered.wait(10), "the list kept the event loop from the row"
            else:
                answered.set()
            return super().read(name, body, max_rows)

    predictor = Waits({"genre": GENRE})
    model = OnnxModel(classifier(FEATURES).SerializeToString())
    predictor.swap("genre", Served(1, model, datetime.now(UTC)))
    app = PredictMiddleware(FastAPI(), predictor, ServingSettings())

    async def both() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://predictor") as client:
            long = asyncio.create_task(client.post("/api/predict/genre", json=[track] * 65))
            await asyncio.sleep(0.2)
            short = await client.post("/api/predict/genre", json=track)
            return [short.status_code, (await long).status_code]

    assert asyncio.run(both()) == [200, 200]


def test_numbers_are_the_shortest_that_mean_them() -> None:
    random = np.random.default_rng(11)
    for values in (
        random.random(50_000, dtype=np.float32),
        random.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32),
        (random.integers(-(2**24), 2**24, 50_000) / 2.0 ** random.integers(0, 30, 50_000)).astype(np.float32),
        np.array([0.0, -0.0, 0.1, 0.8, 1.0, 1e-9, 2**23, 2**24 + 2, 1e30, np.inf] * 10, dtype=np.float32),
    ):
        expected = np.array([float(str(value)) for value in values])
        np.testing.assert_array_equal(shortest_decimals(values), expected)
        np.testing.assert_array_equal(np.signbit(shortest_decimals(values)), np.signbit(expected))
    assert shortest_decimals(np.array([0.8], dtype=np.float32)).tolist() == [0.8]
