"""What the predictor answers when all is well, and what it says of what is not."""

import re
from typing import Any

import httpx
import numpy as np
import pytest

from catalog.spotify_tracks import FEATURES
from registry.model_format.onnx_model import OnnxModel
from serving.http_errors import ErrorBody
from tests.serving.support.onnx_parts import BIAS, CLASSES, WEIGHTS, classifier, json_of
from tests.serving.support.predictor_process import Running


def test_classifier_answers_the_models_own_probabilities(
    predictor: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    answer = predictor.post(names["genre"], json=track)
    assert answer.status_code == 200, answer.text
    body = json_of(answer.text)
    assert set(body) == {"id", "model", "version", "prediction", "probabilities"}
    assert (body["model"], body["version"]) == (names["genre"], 1)
    assert tuple(body["probabilities"]) == CLASSES
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert body["prediction"] == max(body["probabilities"], key=body["probabilities"].get)

    row = np.array([[float(track[name]) for name in FEATURES[::-1]]], dtype=np.float32)
    _, expected = OnnxModel(classifier(FEATURES[::-1]).SerializeToString()).predict(row)
    assert expected is not None
    assert list(body["probabilities"].values()) == pytest.approx(expected[0].tolist(), abs=1e-6)


def test_regression_answers_a_number(
    predictor: Running, names: dict[str, str], track_without_energy: dict[str, Any]
) -> None:
    answer = predictor.post(names["energy"], json=track_without_energy)
    assert answer.status_code == 200, answer.text
    expected = BIAS + sum(weight * track_without_energy[name] for name, weight in WEIGHTS.items())
    body = json_of(answer.text)
    assert set(body) == {"id", "model", "version", "prediction"}
    assert body["prediction"] == pytest.approx(expected, rel=1e-6)
    assert len(str(body["prediction"])) < 12, "a float32 is written with the digits it has"


def test_every_openapi_example_is_answered(predictor: Running, names: dict[str, str]) -> None:
    page = predictor.get("/openapi.json").json()
    posted = []
    for path, item in page["paths"].items():
        if not path.startswith("/api/predict/"):
            continue
        content = item["post"]["requestBody"]["content"]["application/json"]
        ref = content["schema"]["oneOf"][0]["$ref"]
        examples = page["components"]["schemas"][ref.rpartition("/")[2]]["examples"]
        forms = [form["value"] for form in content["examples"].values()]
        assert forms == [examples[0], [examples[0], examples[-1]]]
        for example in [*examples, *forms]:
            answer = httpx.post(predictor.url + path, json=example)
            posted.append((path, answer.status_code))
            assert str(answer.status_code) in item["post"]["responses"]
            assert answer.status_code != 422, answer.text
    assert (f"/api/predict/{names['genre']}", 200) in posted
    assert (f"/api/predict/{names['energy']}", 200) in posted
    assert {"/api/predict/genre", "/api/predict/energy", "/api/predict/popularity"} <= {p for p, _ in posted}


def test_openapi_page_holds_together(predictor: Running, names: dict[str, str]) -> None:
    text = predictor.get("/openapi.json").text
    page = json_of(text)
    for ref in set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text)):
        assert ref in page["components"]["schemas"]
    assert "HTTPValidationError" not in text
    operation = page["paths"][f"/api/predict/{names['energy']}"]["post"]
    assert operation["responses"]["200"]["description"] == "The predicted energy, 0..1."
    assert {"200", "400", "413", "415", "422", "503"} <= set(operation["responses"])
    schema = page["components"]["schemas"]["GenreFeatures"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["tempo"]["maximum"] == 300.0


def test_models_are_listed(predictor: Running, names: dict[str, str]) -> None:
    models = {model["name"]: model for model in predictor.get("/api/models").json()["models"]}
    genre = models[names["genre"]]
    assert (genre["status"], genre["version"], genre["reason"]) == ("serving", 1, None)
    assert genre["digest"].startswith("sha256:")
    assert genre["loaded_at"].endswith("Z")
    assert tuple(genre["classes"]) == CLASSES
    assert tuple(feature["name"] for feature in genre["features"]) == FEATURES
    tempo = next(feature for feature in genre["features"] if feature["name"] == "tempo")
    assert (tempo["type"], tempo["minimum"], tempo["maximum"]) == ("number", 20.0, 300.0)
    assert "BPM" in tempo["description"]
    assert models[names["energy"]]["unit"] == "0..1"
    assert models[names["energy"]]["classes"] is None
    orphan = models[names["orphan"]]
    assert (orphan["status"], orphan["version"], orphan["digest"]) == ("unavailable", None, None)
    assert "no version in Production" in orphan["reason"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("orphan", "greenroom promote"),
        ("undescribed", "greenroom.features"),
        ("strange", "shoe_size"),
        ("mapped", "ZipMap"),
        ("wrong-task", "the catalogue declares regression"),
    ],
)
def test_what_cannot_be_served_says_why_and_leaves_the_others_alone(
    predictor: Running, names: dict[str, str], track: dict[str, Any], kind: str, says: str
) -> None:
    answer = predictor.post(names[kind], json=track)
    assert answer.status_code == 503
    error = ErrorBody.model_validate_json(answer.text).error
    assert error.code == "model_unavailable"
    assert says in error.message
    assert names[kind] in error.message
    ready = predictor.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["models"][names[kind]]["reason"] == error.message
    assert ready.json()["models"][names["genre"]] == {
        "status": "serving",
        "version": 1,
        "reason": None,
        "source": "registry",
        "refused": None,
    }


def test_model_that_answers_infinity_is_not_served(
    predictor: Running, names: dict[str, str], track_without_energy: dict[str, Any]
) -> None:
    answer = predictor.post(names["infinite"], json=track_without_energy)
    assert answer.status_code == 503
    error = ErrorBody.model_validate(json_of(answer.text)).error
    assert error.code == "model_unavailable"
    assert "answers inf to an example" in error.message


def test_unknown_model_names_the_ones_there_are(predictor: Running, names: dict[str, str]) -> None:
    for name in ("gerne", "genre/", "x" * 3000, "%F0%9F%8E%B8"):
        answer = predictor.post(name, json={})
        assert answer.status_code == 404
        error = ErrorBody.model_validate_json(answer.text).error
        assert error.code == "unknown_model"
        assert "genre" in error.message
        assert names["orphan"] in error.message
        assert len(answer.text) < 1500


def test_wrong_method_and_wrong_path_have_the_same_form(predictor: Running) -> None:
    wrong_method = predictor.get("/api/predict/genre")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    wrong_path = predictor.get("/api/modles")
    assert wrong_path.status_code == 404
    assert ErrorBody.model_validate_json(wrong_method.text).error.code == "method_not_allowed"
    assert ErrorBody.model_validate_json(wrong_path.text).error.code == "not_found"


def test_docs_need_nothing_from_elsewhere(predictor: Running) -> None:
    index = predictor.get("/")
    assert (index.status_code, index.headers["location"]) == (307, "docs")
    page = predictor.get("/docs")
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/")
        assert predictor.get(asset).status_code == 200
    assert "'self'" in page.headers["content-security-policy"]


def test_answers_carry_security_headers_and_no_server_name(predictor: Running) -> None:
    for path in ("/healthz", "/api/models", "/docs", "/nothing", "/api/predict/genre"):
        headers = predictor.get(path).headers
        assert "server" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_process_lives(predictor: Running) -> None:
    answer = predictor.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
