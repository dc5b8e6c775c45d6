"""The predictor without HTTP: what it holds, what it refuses, how it is swapped."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError

from catalog.models.energy import MODEL as ENERGY
from catalog.models.genre import MODEL as GENRE
from catalog.spec import ModelSpec
from catalog.spotify_tracks import FEATURES
from registry.client.registry import Registry, Version
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage
from serving import limits
from serving.api.openapi import OpenApi
from serving.api.routes import describe_predict
from serving.errors import (
    InvalidInputError,
    ModelUnavailableError,
    PredictionFailedError,
    UnknownModelNameError,
)
from serving.inference.batching import MicroBatcher
from serving.inference.contracts import declared
from serving.inference.predictor import ParsedRequest, Predictor, Served, Unavailable
from serving.inference.response import PredictionResponse
from serving.middleware.metrics import Metrics
from serving.models.cache import ModelCache
from serving.models.loader import loaded as from_file
from serving.models.watcher import Watcher
from serving.settings import ServingSettings
from serving.tasks.regression import NumberPrediction
from tests.serving.support.onnx_parts import CLASSES, classifier, divides_by_zero, regression


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


def loaded(model: Any) -> OnnxModel:
    return OnnxModel(model.SerializeToString())


def test_before_loading_a_model_says_that_it_is_being_loaded() -> None:
    predictor = Predictor({"genre": GENRE})
    with pytest.raises(ModelUnavailableError, match="'genre' is being loaded"):
        predictor.predict("genre", b"{}")


def test_a_snapshot_does_not_change_when_a_model_is_swapped() -> None:
    predictor = Predictor({"genre": GENRE})
    before = predictor.states
    predictor.swap("genre", Served(2, loaded(classifier(FEATURES)), datetime.now(UTC)))
    assert isinstance(before["genre"], Unavailable)
    assert isinstance(predictor.states["genre"], Served)
    with pytest.raises(TypeError):
        before["genre"] = Unavailable("changed")  # type: ignore[index]


def test_unknown_model_is_named() -> None:
    with pytest.raises(UnknownModelNameError, match=r"no model 'gerne'. There are: genre"):
        Predictor({"genre": GENRE}).predict("gerne", b"{}")


@pytest.mark.parametrize(
    ("model", "spec", "says"),
    [
        (classifier(FEATURES), ENERGY, "is a classification model"),
        (regression(("shoe_size",), {}, 0.0), ENERGY, "shoe_size"),
        (regression(FEATURES, {}, 0.0), ENERGY, ": energy."),
    ],
)
def test_a_model_that_does_not_fit_its_declaration_is_refused(model: Any, spec: ModelSpec, says: str) -> None:
    with pytest.raises(ModelFormatError, match=says):
        from_file(declared(spec), spec.name, model.SerializeToString())


def test_a_model_that_reads_fewer_features_than_declared_fits() -> None:
    content = classifier(("tempo", "energy")).SerializeToString()
    assert from_file(declared(GENRE), "genre", content)[0].description.features == ("tempo", "energy")


def test_a_model_that_fails_on_the_contracts_own_example_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="answers inf to an example"):
        from_file(declared(UNBOUNDED), "unbounded", divides_by_zero(("size", "count")).SerializeToString())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"size": 1e39, "count": 1}', "size"),
        ('{"size": NaN, "count": 1}', "size"),
        ('{"size": 1e999, "count": 1}', "size"),
        (f'{{"size": 1, "count": 1{"0" * 50}}}', "count"),
        (f'{{"size": 1, "count": 1{"0" * 400}}}', "body"),
    ],
)
def test_what_float32_cannot_hold_is_refused_where_the_contract_does_not(body: str, field: str) -> None:
    predictor = Predictor({"unbounded": UNBOUNDED})
    predictor.swap("unbounded", Served(1, loaded(regression(("size", "count"), {}, 0.0)), datetime.now(UTC)))
    with pytest.raises(InvalidInputError) as refusal:
        predictor.predict("unbounded", body.encode())
    assert [detail.field for detail in refusal.value.details] == [field]
    answer = predictor.predict("unbounded", b'{"size": 1, "count": 1}')
    assert NumberPrediction.model_validate_json(answer.json()).prediction == 0.0


def test_a_model_that_fails_on_valid_input_is_reported_as_such() -> None:
    predictor = Predictor({"unbounded": UNBOUNDED})
    predictor.swap("unbounded", Served(1, loaded(divides_by_zero(("size", "count"))), datetime.now(UTC)))
    with pytest.raises(PredictionFailedError, match="version 1 failed"):
        predictor.predict("unbounded", b'{"size": 1, "count": 1}')


def test_a_label_outside_the_named_classes_is_not_answered() -> None:
    model = classifier(("size", "count"))
    for prop in model.metadata_props:
        if prop.key == "greenroom.classes":
            prop.value = json.dumps([f"not-{name}" for name in CLASSES])
    predictor = Predictor({"unbounded": UNBOUNDED})
    predictor.swap("unbounded", Served(1, loaded(model), datetime.now(UTC)))
    with pytest.raises(PredictionFailedError):
        predictor.predict("unbounded", b'{"size": 1, "count": 1}')


def test_two_models_whose_request_classes_share_a_name_are_kept_apart() -> None:
    predictor = Predictor(
        {
            "my-model": GENRE.model_copy(update={"name": "my-model"}),
            "my_model": ENERGY.model_copy(update={"name": "my_model"}),
        }
    )
    page = OpenApi(FastAPI(), lambda: predictor.contracts, [describe_predict(ServingSettings())]).page()
    refs = [
        page["paths"][f"/api/predict/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "oneOf"
        ][0]["$ref"]
        for name in predictor.specs
    ]
    assert refs[0] != refs[1]
    components = page["components"]["schemas"]
    first, second = (components[ref.rpartition("/")[2]]["properties"] for ref in refs)
    assert "energy" in first
    assert "energy" not in second


def test_a_model_that_is_not_declared_brings_its_own_contract() -> None:
    content = regression(("shoe size", "model_x", "copy"), {"shoe size": 2.0}, 1.0).SerializeToString()
    model, contract = from_file(None, "Shoes & more", content, [GENRE.dataset])
    predictor = Predictor({})
    predictor.swap("Shoes & more", Served(3, model, datetime.now(UTC), contract=contract))
    made = predictor.predict("Shoes & more", b'{"copy": 1, "shoe size": 42.5, "model_x": -1e9}')
    answer = NumberPrediction.model_validate_json(made.json())
    assert (answer.model, answer.version, answer.prediction) == ("Shoes & more", 3, 86.0)
    with pytest.raises(InvalidInputError) as refusal:
        predictor.predict("Shoes & more", b'{"copy": "1", "shoe size": NaN, "feature_1": 1}')
    fields = [detail.field for detail in refusal.value.details]
    assert sorted(fields) == ["copy", "feature_1", "model_x", "shoe size"]


def test_a_model_that_is_not_declared_and_reads_a_datasets_rows_keeps_its_rules() -> None:
    content = regression(("explicit", "key", "tempo"), {"key": 1.0}, 0.0).SerializeToString()
    _, contract = from_file(None, "mine", content, [GENRE.dataset])
    assert contract.request.model_validate({"explicit": True, "key": 11, "tempo": 90.0})
    for wrong in ({"key": 12}, {"key": 1.5}, {"explicit": 1}, {"tempo": 1000.0}):
        with pytest.raises(ValidationError):
            contract.request.model_validate({"explicit": True, "key": 11, "tempo": 90.0, **wrong})
    assert contract.example == {"key": 10, "tempo": 89.991, "explicit": False}


def test_the_watcher_outlives_what_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: else no later promotion would be seen, and nothing would say so."""
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    predictor, looks = Predictor({"genre": GENRE}), Event()
    count = 0

    def fails() -> None:
        nonlocal count
        count += 1
        if count > 2:
            looks.set()
        raise OSError("no room")

    monkeypatch.setattr(limits, "POLL", 0.01)
    settings = ServingSettings(tracking_uri="http://127.0.0.1:9")
    watcher = Watcher(predictor, settings, Metrics(["genre"]), fails)
    monkeypatch.setattr(Registry, "production_versions", lambda _: 1 / 0)
    watcher.start()
    assert looks.wait(20)
    watcher.stop()
    assert "cannot be read (ZeroDivisionError)" in (predictor.registry.problem or "")


def test_what_cannot_be_removed_from_the_cache_stops_nothing(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    (tmp_path / "models" / "genre.json").mkdir(parents=True)
    cache.forget("genre")
    assert cache.last_good("genre") is None


def test_a_damaged_file_of_the_cache_is_not_used_and_is_mended(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    version = Version(model="genre", number=1, stage=Stage.PRODUCTION, run_id="", source="models:/m", tags={})
    cache.keep(version, b"model")
    (blob,) = (tmp_path / "sha256").iterdir()
    blob.write_bytes(b"mod")
    assert cache.last_good("genre") is None
    cache.keep(version, b"model")
    assert cache.last_good("genre") == (version, b"model")


def test_requests_of_one_moment_run_in_calls_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one call takes on the event loop was measured with so many rows."""
    predictor, sizes = Predictor({"genre": GENRE}), list[int]()
    predictor.swap("genre", Served(1, loaded(classifier(FEATURES)), datetime.now(UTC)))
    real, row = predictor.answers, GENRE.dataset.features.model_json_schema()["examples"][0]
    row = {name: value for name, value in row.items() if name in FEATURES}

    def counted(requests: Sequence[ParsedRequest]) -> list[PredictionResponse]:
        sizes.append(sum(len(request.rows) for request in requests))
        return real(requests)

    monkeypatch.setattr(predictor, "answers", counted)

    async def ask() -> list[PredictionResponse]:
        batcher = MicroBatcher(predictor)
        lists = [predictor.read("genre", json.dumps([row] * rows).encode()) for rows in (1, 16) * 50]
        return await asyncio.gather(*map(batcher.answer, lists))

    answers = asyncio.run(ask())
    assert [answer.rows for answer in answers] == [1, 16] * 50
    assert sum(sizes) == 17 * 50
    assert max(sizes) <= limits.LOOP_ROWS
    assert len(sizes) < 20
