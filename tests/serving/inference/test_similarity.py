"""POST /api/cluster and POST /api/similar, in one process: real models, the real app, no registry."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi import checks
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spotify_tracks import FEATURES
from checks.data import cleaning, sources
from flows.modeling import candidates, onnx_export
from flows.tasks.registry import task_of
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import OnnxModel
from serving.app import PredictorApp, create_app
from serving.inference.contracts import declared
from serving.inference.predictor import PredictionRecord, Served
from serving.models.loader import loaded
from serving.recording.recorder import _predictions
from serving.settings import ServingSettings
from tests.serving.support.onnx_parts import classifier

CLUSTERS, SIMILAR = get_model("clusters"), get_model("similar")
Ask = Callable[..., httpx.Response]
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.positive_data_acceptance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


def rows() -> pd.DataFrame:
    """Three hundred tracks, with the columns of the similarity's declaration."""
    table = sources.read_table(SIMILAR.dataset)
    kept = cleaning.clean(table, SIMILAR, read=len(table))[0].sample(300, random_state=2)
    others = kept[["track_id", "track_name", "artists", "track_genre"]].astype(str)
    return cleaning.features(kept, SIMILAR).join(others).reset_index(drop=True)


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    return rows()


def index(tracks: pd.DataFrame) -> bytes:
    search: Pipeline = candidates.build(SIMILAR, SIMILAR.candidates[0])
    task_of(SIMILAR).fit(search, tracks[list(SIMILAR.features)], tracks["track_genre"])
    return onnx_export.export(SIMILAR, search, things=tracks)


@pytest.fixture(scope="module")
def similar(tracks: pd.DataFrame) -> bytes:
    return index(tracks)


@pytest.fixture(scope="module")
def clusters(tracks: pd.DataFrame) -> bytes:
    features = tracks[list(CLUSTERS.features)]
    return onnx_export.export(
        CLUSTERS, candidates.build(CLUSTERS, CLUSTERS.candidates[0]).fit(features), features
    )


@pytest.fixture
def made() -> list[PredictionRecord]:
    return []


@pytest.fixture
def app(
    clusters: bytes, similar: bytes, made: list[PredictionRecord], tmp_path: Path, monkeypatch: Any
) -> PredictorApp:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    app = create_app(ServingSettings())
    predictor = app.predictor
    predictor.record = made.append
    for spec, content, version in ((CLUSTERS, clusters, 2), (SIMILAR, similar, 3)):
        model, _ = loaded(declared(spec), spec.name, content)
        predictor.swap(spec.name, Served(version, model, datetime.now(UTC)))
    return app


@pytest.fixture
def ask(app: PredictorApp) -> Ask:
    """Ask the app: `ask(path, body)`."""

    def send(path: str, body: Any = None, *, method: str = "POST") -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app.asgi, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, json=body)

        return asyncio.run(once())

    return send


def features_of(tracks: pd.DataFrame, place: int, spec: Any = SIMILAR) -> dict[str, float]:
    return {name: float(str(np.float32(tracks[name][place]))) for name in spec.features}


def error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    assert found["code"] == code
    return found


def test_a_cluster_is_named(ask: Ask, clusters: bytes, tracks: pd.DataFrame) -> None:
    row = features_of(tracks, 5, CLUSTERS)
    answer = ask("/api/cluster", row).json()
    assert set(answer) == {"id", "model", "version", "cluster", "label"}
    assert (answer["model"], answer["version"]) == ("clusters", 2)
    model = OnnxModel(clusters)
    number = int(model.predict(np.array([list(row.values())], dtype=np.float32))[0][0])
    assert answer["cluster"] == number
    assert answer["label"] == model.description.classes[number]
    generic = ask("/api/predict/clusters", row).json()
    assert {**generic, "id": ""} == {**answer, "id": ""}
    several = ask("/api/cluster", [features_of(tracks, place, CLUSTERS) for place in range(40)]).json()
    assert several["predictions"][5] == {"cluster": number, "label": answer["label"]}
    assert len({one["label"] for one in several["predictions"]}) > 1


def test_neighbours_by_id_and_by_features(ask: Ask, tracks: pd.DataFrame) -> None:
    by_id = ask("/api/similar", {"track_id": tracks["track_id"][7], "k": 5}).json()
    assert (by_id["model"], by_id["version"]) == ("similar", 3)
    found = by_id["neighbours"]
    assert len(found) == 5
    assert tracks["track_id"][7] not in {one["track_id"] for one in found}
    assert [one["distance"] for one in found] == sorted(one["distance"] for one in found)
    named = tracks.set_index("track_id").loc[found[0]["track_id"]]
    assert (found[0]["track_name"], found[0]["artists"]) == (named["track_name"], named["artists"])
    # By its features it is a thing like any other, and finds itself first.
    by_features = ask("/api/similar", {**features_of(tracks, 7), "k": 6}).json()["neighbours"]
    assert by_features[0]["track_id"] == tracks["track_id"][7]
    assert by_features[0]["distance"] < 1e-3
    assert [one["track_id"] for one in by_features[1:]] == [one["track_id"] for one in found]


def test_a_list_may_ask_in_both_ways(ask: Ask, tracks: pd.DataFrame) -> None:
    ids = tracks["track_id"]
    questions = [{"track_id": ids[3], "k": 1}, {**features_of(tracks, 4), "k": 100}, {"track_id": ids[5]}]
    answer = ask("/api/similar", questions).json()
    assert [len(one["neighbours"]) for one in answer["predictions"]] == [1, 100, 10]
    alone = ask("/api/similar", questions[2]).json()["neighbours"]
    assert answer["predictions"][2]["neighbours"] == alone
    generic = ask("/api/predict/similar", features_of(tracks, 4)).json()["neighbours"]
    assert generic == answer["predictions"][1]["neighbours"][:10]


def test_a_long_list_is_answered_in_order(ask: Ask, tracks: pd.DataFrame) -> None:
    questions = [{"track_id": name, "k": 2} for name in tracks["track_id"]]
    several = ask("/api/similar", questions * 3).json()["predictions"]
    assert len(several) == 900
    assert several[:300] == several[600:]
    assert several[299]["neighbours"] == ask("/api/similar", questions[299]).json()["neighbours"]


def test_an_unknown_id_is_not_found(ask: Ask, tracks: pd.DataFrame) -> None:
    said = error(ask("/api/similar", {"track_id": "nobody's"}), 404, "unknown_id")
    assert 'knows no track_id "nobody\'s"' in said["message"]
    assert [one["field"] for one in said["details"]] == ["track_id"]
    known, row = {"track_id": tracks["track_id"][0]}, features_of(tracks, 0)
    questions = [known, {"track_id": "x"}, row, {"track_id": "y"}]
    said = error(ask("/api/similar", questions), 404, "unknown_id")
    assert [one["field"] for one in said["details"]] == ["1.track_id", "3.track_id"]
    assert "'x' and 1 more" in said["message"]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"k": 0}, ["k"]),
        ({"k": 101}, ["k"]),
        ({"k": 2.5}, ["k"]),
        ({"k": True}, ["k"]),
        ({"track_id": 7}, ["track_id"]),
        ({"track_id": ""}, ["track_id"]),
        ({"energy": 0.5}, ["energy"]),
    ],
)
def test_a_question_by_id_is_validated(
    ask: Ask, tracks: pd.DataFrame, change: Any, fields: list[str]
) -> None:
    question = {"track_id": tracks["track_id"][0], **change}
    said = error(ask("/api/similar", question), 422, "invalid_input")
    assert [one["field"] for one in said["details"]] == fields
    said = error(ask("/api/similar", [question]), 422, "invalid_input")
    assert [one["field"] for one in said["details"]] == [f"0.{field}" for field in fields]


def test_a_question_by_features_is_validated(ask: Ask, tracks: pd.DataFrame) -> None:
    row = features_of(tracks, 0)
    for change, field in (({"energy": 2}, "energy"), ({"shoe_size": 9}, "shoe_size"), ({"k": "5"}, "k")):
        said = error(ask("/api/similar", {**row, **change}), 422, "invalid_input")
        assert [one["field"] for one in said["details"]] == [field]
    for body in ([], 3, "x", [3]):
        error(ask("/api/similar", body), 422, "invalid_input")
    said = error(ask("/api/predict/similar", {**row, "k": 5}), 422, "invalid_input")
    assert said["details"][0]["field"] == "k"


def test_other_methods_and_paths(ask: Ask) -> None:
    for path in ("/api/similar", "/api/cluster"):
        error(ask(path, method="GET"), 405, "method_not_allowed")
        error(ask(f"{path}/x", {}), 404, "not_found")


def test_which_model_where_there_are_several(app: PredictorApp, ask: Ask, tracks: pd.DataFrame) -> None:
    predictor = app.predictor
    model, contract = loaded(None, "mine", index(tracks[:50]), [SIMILAR.dataset])
    predictor.swap("mine", Served(1, model, datetime.now(UTC), contract=contract))
    row = features_of(tracks, 70)
    said = error(ask("/api/similar", row), 422, "invalid_input")
    assert "Several models do similarity: mine, similar" in said["message"]
    assert ask("/api/similar?model=mine", row).json()["model"] == "mine"
    assert ask("/api/similar?model=similar", row).json()["model"] == "similar"
    by_id = ask("/api/similar?model=mine", {"track_id": tracks["track_id"][0], "k": 100}).json()
    assert len(by_id["neighbours"]) == 49
    error(ask("/api/similar?model=clusters", row), 404, "unknown_model")
    assert ask("/api/cluster", features_of(tracks, 70, CLUSTERS)).status_code == 200


def test_no_version_in_production_says_so(app: PredictorApp, ask: Ask) -> None:
    fresh = create_app(ServingSettings()).predictor
    app.predictor.swap("similar", fresh.states["similar"])
    error(ask("/api/similar", {"track_id": "x"}), 503, "model_unavailable")


@pytest.mark.parametrize("name", ["clusters", "similar"])
def test_explaining_them_is_refused_with_a_reason(ask: Ask, name: str) -> None:
    said = error(ask(f"/api/explain/{name}", {}), 409, "not_explainable")
    assert "what is explained is a number or a class" in said["message"]


def test_they_are_listed_and_described(ask: Ask) -> None:
    found = {one["name"]: one for one in ask("/api/models", method="GET").json()["models"]}
    assert found["similar"]["items"] == 300
    assert found["similar"]["task"] == "similarity"
    assert len(found["clusters"]["classes"]) == 4
    page = ask("/openapi.json", method="GET").json()
    assert {"/api/cluster", "/api/similar", "/api/predict/clusters", "/api/predict/similar"} <= set(
        page["paths"]
    )
    assert "/api/explain/clusters" not in page["paths"]
    body = page["paths"]["/api/similar"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["object"]["value"] == {"track_id": "5sICkBXVmaCQk5aISGR3x1", "k": 5}
    schemas = page["components"]["schemas"]
    assert list(schemas["SimilarNeighbour"]["properties"]) == [
        "track_id",
        "track_name",
        "artists",
        "distance",
    ]
    assert schemas["SimilarById"]["properties"]["k"]["maximum"] == 100


def test_the_examples_of_the_page_are_valid(ask: Ask, app: PredictorApp) -> None:
    page = ask("/openapi.json", method="GET").json()
    for path in ("/api/cluster", "/api/similar"):
        body = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in body["examples"].values():
            answer = ask(path, example["value"])
            # The track of the example is in the index of all tracks, and not in this one of a few.
            assert answer.status_code == 200 or answer.json()["error"]["code"] == "unknown_id"


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_the_page_is_kept(app: PredictorApp, mode: GenerationMode) -> None:
    """Each rule that the page has of the two paths, kept and broken."""
    refusals = {"expected-statuses": ["400", "404", "405", "413", "415", "422"]}
    config = SchemathesisConfig.from_dict({"checks": {"negative_data_rejection": refusals}})
    schema = from_asgi("/openapi.json", app.asgi, config=config).include(
        path_regex="^/api/(cluster|similar)$"
    )
    tried = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        for case in schema.iter_coverage_cases(
            operation, generation_modes=[mode], generation_config=schema.config.generation
        ):
            case.call_and_validate(checks=CHECKS)
            tried += 1
    assert tried > 20


def test_what_was_answered_is_counted_by_model(ask: Ask, tracks: pd.DataFrame) -> None:
    ask("/api/similar", [{"track_id": name} for name in tracks["track_id"][:7]])
    ask("/api/cluster", {})
    metrics = ask("/metrics", method="GET").text
    assert 'greenroom_rows_predicted_total{model="similar"} 7.0' in metrics
    assert 'greenroom_requests_total{key="(none)",model="clusters"} 1.0' in metrics


def test_what_was_answered_is_recorded(ask: Ask, made: list[PredictionRecord], tracks: pd.DataFrame) -> None:
    row = features_of(tracks, 9)
    answer = ask("/api/similar", {**row, "k": 100}).json()
    ask("/api/similar", {"track_id": tracks["track_id"][9], "k": 3})
    cluster = ask("/api/cluster", features_of(tracks, 9, CLUSTERS)).json()
    log = _predictions(made[:2]).to_pylist()
    assert json.loads(log[0]["prediction"]) == [one["track_id"] for one in answer["neighbours"][:10]]
    assert log[0]["distance"] == pytest.approx(answer["neighbours"][0]["distance"])
    assert len(json.loads(log[1]["prediction"])) == 3
    # ParsedRequest by its id, the features that the index has of it are what the model read.
    assert {k: v for k, v in log[0].items() if k.startswith("input_")} == {
        k: v for k, v in log[1].items() if k.startswith("input_")
    }
    (kept,) = _predictions(made[2:]).to_pylist()
    assert kept["prediction"] == cluster["label"]
    assert (kept["id"], kept["version"]) == (cluster["id"], 2)
    assert "probability_" not in "".join(kept)


def test_a_file_that_does_another_task_is_refused(similar: bytes, clusters: bytes) -> None:
    with pytest.raises(ModelFormatError, match="is a similarity model, the catalogue declares clustering"):
        loaded(declared(CLUSTERS), "clusters", similar)
    with pytest.raises(ModelFormatError, match="is a classification model"):
        loaded(declared(SIMILAR), "similar", classifier(FEATURES).SerializeToString())


def test_an_index_that_shows_other_things_than_declared_is_refused(similar: bytes) -> None:
    less = SIMILAR.model_copy(update={"shown": ("artists",)})
    with pytest.raises(ModelFormatError, match="declared are track_id and artists"):
        loaded(declared(less), "similar", similar)


def test_requests_of_one_moment_are_answered_as_each_alone(
    app: PredictorApp, made: list[PredictionRecord], tracks: pd.DataFrame
) -> None:
    """One call answers requests with and without `k`, single ones and lists; each gets its own neighbours."""
    predictor, row = app.predictor, features_of(tracks, 9)
    of_one, of_two = {"track_id": tracks["track_id"][9], "k": 3}, [{**row, "k": 1}, {**row, "k": 100}]
    requests = [
        predictor.read("similar", json.dumps(row).encode()),
        predictor.read_question("similar", json.dumps(of_one).encode()),
        predictor.read_question("similar", json.dumps(of_two).encode()),
    ]
    together = predictor.answers(requests)
    alone = [predictor.answers([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert json.loads(one._replace(id="").json()) == json.loads(other._replace(id="").json())
    log, expected = _predictions(made[:1]).to_pylist(), _predictions(made[1:]).to_pylist()
    ids = [answer.id for answer in together]
    assert [(kept["id"], kept["row"]) for kept in log] == [(ids[0], 0), (ids[1], 0), (ids[2], 0), (ids[2], 1)]
    for kept, other in zip(log, expected, strict=True):
        assert {**kept, "id": "", "at": 0} == {**other, "id": "", "at": 0}
