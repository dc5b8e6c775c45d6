"""POST /api/explain/MODEL: the real app over real ONNX models, and what it refuses."""

import asyncio
import threading
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

from catalog.spotify_tracks import FEATURES
from registry.model_format.onnx_model import Description, OnnxModel, Rows
from serving import limits
from serving.api.explain import EXPLANATIONS
from serving.app import PredictorApp, create_app
from serving.http_errors import ErrorBody
from serving.inference import explain
from serving.inference.predictor import Served
from serving.settings import ServingSettings
from tests.serving.support.onnx_parts import (
    BIAS,
    CLASSES,
    WEIGHTS,
    classifier,
    divides_by_zero,
    json_of,
    regression,
)

READS = tuple(name for name in FEATURES if name != "energy")


def background(features: tuple[str, ...], count: int = 32) -> Rows:
    return np.random.default_rng(5).normal(size=(count, len(features))).astype(np.float32)


def with_background(model: onnx.ModelProto, rows: Rows) -> OnnxModel:
    """The same model, with rows to explain it against."""
    found = OnnxModel(model.SerializeToString()).description.model_dump()
    described = Description(**{**found, "background": [[float(str(v)) for v in row] for row in rows]})
    helper.set_model_props(model, described.to_metadata())
    return OnnxModel(model.SerializeToString())


@cache
def forest() -> OnnxModel:
    """A forest over the tracks' features, in the opposite order."""
    features = FEATURES[::-1]
    rows = background(features, 600)
    labels = np.array(CLASSES)[np.digitize(rows[:, 0] * rows[:, 1] + rows[:, 2], [-0.5, 0.5])]
    fitted = RandomForestClassifier(30, min_samples_leaf=5, random_state=1).fit(rows, labels)
    model = to_onnx(fitted, rows[:1], options={id(fitted): {"zipmap": False}}, target_opset=18)
    described = Description(task="classification", features=features, classes=CLASSES)
    helper.set_model_props(model, described.to_metadata())
    return with_background(model, rows[:32])


class Http:
    """Asks the app, without a process between."""

    def __init__(self, app: PredictorApp) -> None:
        self._app = app

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._ask("POST", path, **options)

    def get(self, path: str) -> httpx.Response:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app.asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://predictor") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())


def serving(home: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> PredictorApp:
    monkeypatch.setenv("GREENROOM_HOME", str(home))
    return create_app(ServingSettings(**settings))


def put(app: PredictorApp, name: str, model: OnnxModel, version: int = 3) -> None:
    app.predictor.swap(name, Served(version, model, datetime.now(UTC)))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictorApp:
    """The app as it runs, with models put where the watcher would put them."""
    made = serving(tmp_path, monkeypatch)
    put(made, "genre", forest())
    put(made, "energy", with_background(regression(READS, WEIGHTS, BIAS), background(READS)))
    return made


@pytest.fixture
def http(app: PredictorApp) -> Http:
    return Http(app)


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = ErrorBody.model_validate(json_of(answer.text)).error
    assert error.code == code
    return error.message


def test_a_linear_model_is_explained_by_its_weights(http: Http, track_without_energy: dict[str, Any]) -> None:
    answer = http.post("/api/explain/energy", json=track_without_energy)
    assert answer.status_code == 200, answer.text
    body = json_of(answer.text)
    assert (body["model"], body["version"], body["method"]) == ("energy", 3, "shapley_permutations")
    assert body["background_rows"] == 32
    assert 4000 < body["rows_evaluated"] <= 8192
    mean = dict(zip(READS, background(READS).astype(float).mean(axis=0), strict=True))
    assert [one["feature"] for one in body["contributions"]][:2] == ["duration_ms", "explicit"]
    assert {one["feature"] for one in body["contributions"]} == set(READS)
    for one in body["contributions"]:
        value = float(track_without_energy[one["feature"]])
        assert one["value"] == value
        weight = WEIGHTS.get(one["feature"], 0.0)
        assert one["contribution"] == pytest.approx(weight * (value - mean[one["feature"]]), abs=1e-4)
        assert one["standard_error"] == pytest.approx(0, abs=1e-4)
    predicted = http.post("/api/predict/energy", json=track_without_energy).json()["prediction"]
    assert body["prediction"] == predicted
    total = body["base_value"] + sum(one["contribution"] for one in body["contributions"])
    assert total == pytest.approx(predicted, rel=1e-6)


def test_a_classifier_is_explained_by_the_probability_of_its_class(http: Http, track: dict[str, Any]) -> None:
    body = json_of(http.post("/api/explain/genre", json=track).text)
    predicted = http.post("/api/predict/genre", json=track).json()
    assert body["prediction"] == predicted["prediction"]
    assert body["probability"] == pytest.approx(predicted["probabilities"][body["prediction"]], abs=1e-6)
    total = body["base_value"] + sum(one["contribution"] for one in body["contributions"])
    assert total == pytest.approx(body["probability"], abs=1e-6)
    sizes = [abs(one["contribution"]) for one in body["contributions"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.01
    assert all(one["standard_error"] < 0.05 for one in body["contributions"])
    model = forest()
    _, shares = model.predict(model.description.background_rows())
    assert shares is not None
    mean = shares[:, CLASSES.index(body["prediction"])].mean()
    assert body["base_value"] == pytest.approx(float(mean), abs=1e-6)


def test_the_same_row_gets_the_same_answer(http: Http, track: dict[str, Any]) -> None:
    first, second = (http.post("/api/explain/genre", json=track).text for _ in range(2))
    assert first == second


def test_few_features_are_enumerated(app: PredictorApp, http: Http, track: dict[str, Any]) -> None:
    features = ("tempo", "energy", "valence")
    put(app, "genre", with_background(classifier(features), background(features, 4)))
    body = json_of(http.post("/api/explain/genre", json=track).text)
    assert (body["method"], body["rows_evaluated"], body["background_rows"]) == ("shapley_exact", 32, 4)
    assert {one["standard_error"] for one in body["contributions"]} == {0.0}
    assert {one["feature"] for one in body["contributions"]} == set(features)


def test_more_rows_err_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: dict[str, Any]) -> None:
    errors = []
    for rows in (1700, 20_000):
        monkeypatch.setattr(limits, "EXPLAIN_ROWS", rows)
        app = serving(tmp_path, monkeypatch)
        put(app, "genre", forest())
        body = Http(app).post("/api/explain/genre", json=track).json()
        assert body["rows_evaluated"] <= rows
        errors.append(sum(one["standard_error"] for one in body["contributions"]))
    assert errors[1] < errors[0] / 2


def test_a_model_without_background_predicts_and_says_what_to_do(
    app: PredictorApp, http: Http, track: dict[str, Any]
) -> None:
    put(app, "genre", OnnxModel(classifier(FEATURES).SerializeToString()))
    said = refused(http.post("/api/explain/genre", json=track), 409, "not_explainable")
    assert "'genre' version 3" in said
    assert "`greenroom train genre`" in said
    assert http.post("/api/predict/genre", json=track).status_code == 200


def test_a_model_of_too_many_features_is_not_explained(
    app: PredictorApp, http: Http, track: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "_MOST_FEATURES", 13)
    assert "reads 14 features" in refused(http.post("/api/explain/genre", json=track), 409, "not_explainable")


def test_a_model_that_is_not_served_says_why(app: PredictorApp, http: Http) -> None:
    said = refused(http.post("/api/explain/popularity", json={}), 503, "model_unavailable")
    assert "being loaded" in said


def test_unknown_model_names_the_ones_there_are(http: Http) -> None:
    for name in ("gerne", "genre/", "x" * 3000):
        assert "genre" in refused(http.post(f"/api/explain/{name}", json={}), 404, "unknown_model")
    refused(http.get("/api/explain/genre"), 405, "method_not_allowed")


def test_a_list_is_told_to_come_one_by_one(http: Http, track: dict[str, Any]) -> None:
    for body in ([track], [], [[track]]):
        answer = http.post("/api/explain/genre", json=body)
        refused(answer, 422, "invalid_input")
        assert "one by one" in answer.json()["error"]["details"][0]["problem"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_json"),
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"tempo": NaN}', "application/json", 422, "invalid_input"),
        (b"{}", "application/json", 422, "invalid_input"),
        (b"7", "application/json", 422, "invalid_input"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b" " * 70_000, "application/json", 413, "body_too_large"),
        (b"[" * 70_000, "application/json", 413, "body_too_large"),
    ],
)
def test_bodies_are_held_to_the_rules_of_predictions(
    http: Http, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = http.post("/api/explain/genre", content=body, headers={"content-type": kind})
    refused(answer, status, code)


def test_a_misspelt_field_is_named(http: Http, track: dict[str, Any]) -> None:
    answer = http.post("/api/explain/genre", json={**track, "tempoo": 1, "tempo": 5})
    refused(answer, 422, "invalid_input")
    assert {detail["field"] for detail in answer.json()["error"]["details"]} == {"tempo", "tempoo"}


def test_a_model_that_fails_is_reported_as_such(
    app: PredictorApp, http: Http, track_without_energy: dict[str, Any]
) -> None:
    put(app, "energy", with_background(divides_by_zero(READS), background(READS)))
    said = refused(http.post("/api/explain/energy", json=track_without_energy), 500, "prediction_failed")
    assert "version 3 failed" in said


def test_the_openapi_page_says_all_of_it(http: Http) -> None:
    page = http.get("/openapi.json").json()
    for name, answer in (("genre", "ClassExplanation"), ("energy", "NumberExplanation")):
        operation = page["paths"][f"/api/explain/{name}"]["post"]
        assert set(operation["responses"]) == {
            "200",
            *map(str, (400, 404, 408, 409, 413, 415, 422, 500, 503, 504)),
        }
        content = operation["responses"]["200"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(answer)
        form = operation["requestBody"]["content"]["application/json"]
        assert form["schema"]["$ref"].endswith(f"{name.capitalize()}Features")
        assert "not what causes the target" in operation["description"]
        example = form["examples"]["object"]["value"]
        assert http.post(f"/api/explain/{name}", json=example).status_code == 200


def test_it_is_shut_by_api_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: dict[str, Any]
) -> None:
    keyed = Http(serving(tmp_path, monkeypatch, serving_api_keys=f"shop:{'0' * 64}"))
    refused(keyed.post("/api/explain/genre", json=track), 401, "unauthorized")


class Stuck:
    """A model that answers when it is told to."""

    def __init__(self, model: OnnxModel) -> None:
        self.description, self.digest = model.description, model.digest
        self._model, self.go, self.asked = model, threading.Event(), threading.Event()

    def predict(self, rows: Rows) -> Any:
        self.asked.set()
        assert self.go.wait(30)
        return self._model.predict(rows)


def test_explanations_take_turns_of_their_own_and_nobody_elses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    track: dict[str, Any],
    track_without_energy: dict[str, Any],
) -> None:
    monkeypatch.setattr(limits, "QUEUE_TIMEOUT", 0.2)
    monkeypatch.setattr(limits, "MAX_QUEUE", 1)
    app = serving(tmp_path, monkeypatch)
    stuck = Stuck(forest())
    put(app, "genre", stuck)  # type: ignore[arg-type]
    put(app, "energy", OnnxModel(regression(READS, WEIGHTS, BIAS).SerializeToString()))

    async def flood() -> None:
        transport = httpx.ASGITransport(app=app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://predictor") as client:
            asking = [asyncio.ensure_future(client.post("/api/explain/genre", json=track)) for _ in range(20)]
            while (
                sum(one.done() for one in asking) < 20 - EXPLANATIONS
            ):  # the queue fills, then its time is up
                await asyncio.sleep(0.01)
            assert stuck.asked.is_set()
            # While each processor that may explain is stuck, predictions are answered.
            predicted = await client.post("/api/predict/energy", json=track_without_energy)
            assert predicted.status_code == 200
            stuck.go.set()
            answers = await asyncio.gather(*asking)
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        late = next(answer for answer in answers if answer.status_code == 503)
        refused(late, 503, "overloaded")
        assert late.headers["retry-after"] == "1"

    asyncio.run(flood())
