"""The prediction log and feedback: in the real bucket, never in a request's way, nothing lost on a stop."""

import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.models.energy import MODEL as ENERGY
from catalog.models.genre import MODEL as GENRE
from catalog.spotify_tracks import FEATURES
from registry.model_format.onnx_model import OnnxModel
from registry.storage.bucket import Bucket
from registry.storage.settings import StorageSettings
from serving import limits
from serving.inference.predictor import Predictor, Served
from serving.recording.recorder import FeedbackRecord, Recorder
from serving.recording.spool import Spool, SpoolFullError
from serving.settings import ServingSettings
from tests.conftest import Stack
from tests.ports import free_port
from tests.serving.support.onnx_parts import CLASSES, classifier, regression
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped
from tests.waiting import until

READS = tuple(name for name in FEATURES if name != "energy")


@pytest.fixture(scope="module")
def storage(stack: Stack) -> StorageSettings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GREENROOM_HOME", str(stack.home))
        return StorageSettings()


def keys(storage: StorageSettings, **others: str) -> dict[str, str]:
    return {
        "GREENROOM_S3_ENDPOINT_URL": storage.s3_url,
        "GREENROOM_S3_ACCESS_KEY": storage.s3_access_key.get_secret_value(),
        "GREENROOM_S3_SECRET_KEY": storage.s3_secret_key.get_secret_value(),
        **others,
    }


@pytest.fixture(scope="module")
def recording(start: Start, published: Published, storage: StorageSettings) -> Running:
    """A predictor that writes down what it predicts, four times a second."""
    settings = keys(storage, GREENROOM_TRUSTED_KEYS=published.trusted, GREENROOM_SERVING_LOG_SECONDS="0.25")
    running = start(published.url, **settings)
    running.loaded()
    return running


def kept(storage: StorageSettings, prefix: str, folder: Path) -> list[dict[str, Any]]:
    bucket, found = Bucket(storage), []
    for key in bucket.keys(prefix):
        bucket.get(key, folder / "object")
        found += pq.read_table(folder / "object", partitioning=None).to_pylist()
    return found


def test_every_prediction_is_kept_with_its_id_inputs_and_output(
    recording: Running,
    storage: StorageSettings,
    names: dict[str, str],
    track: dict[str, Any],
    tmp_path: Path,
) -> None:
    one = recording.post(names["genre"], json=track).json()
    several = recording.post(names["genre"], json=[{**track, "tempo": 100.0 + n} for n in range(70)]).json()
    assert recording.post(names["genre"], json={}).status_code == 422
    prefix = f"predictions/model={names['genre']}"
    ids = {one["id"], several["id"]}
    rows = until(
        lambda: len(found := [r for r in kept(storage, prefix, tmp_path) if r["id"] in ids]) == 71 and found
    )
    assert all(key.startswith(f"{prefix}/date=2") for key in Bucket(storage).keys(prefix))
    by_place = {(row["id"], row["row"]): row for row in rows}
    assert len(by_place) == 71
    alone = by_place[one["id"], 0]
    assert (alone["version"], alone["prediction"]) == (1, one["prediction"])
    assert alone["digest"].startswith("sha256:")
    assert abs((datetime.now(UTC) - alone["at"]).total_seconds()) < 60
    for name, value in track.items():
        assert alone[f"input_{name}"] == pytest.approx(float(value), rel=1e-6)
    for place, answer in enumerate(several["predictions"]):
        row = by_place[several["id"], place]
        assert row["input_tempo"] == 100.0 + place
        assert {name: row[f"probability_{name}"] for name in CLASSES} == pytest.approx(
            answer["probabilities"]
        )
    assert UUID(one["id"]).version == 7


def test_feedback_is_kept_by_the_id_of_the_prediction(
    recording: Running,
    storage: StorageSettings,
    names: dict[str, str],
    track_without_energy: dict[str, Any],
    tmp_path: Path,
) -> None:
    answer = recording.post(names["energy"], json=track_without_energy).json()
    told = [{"id": answer["id"], "outcome": 0.7}, {"id": answer["id"], "row": 3, "outcome": "rock"}]
    got = recording.ask("POST", "/api/feedback", json=told)
    assert (got.status_code, got.json()) == (202, {"accepted": 2})
    assert recording.ask(
        "POST", "/api/feedback", json={"id": answer["id"], "row": 9, "outcome": 1}
    ).is_success
    rows = until(
        lambda: (
            len(f := [r for r in kept(storage, "feedback", tmp_path) if r["id"] == answer["id"]]) == 3 and f
        )
    )
    assert {(r["row"], r["number"], r["label"]) for r in rows} == {
        (0, 0.7, None),
        (3, None, "rock"),
        (9, 1, None),
    }
    assert Scraped(recording.get("/metrics").text).get("greenroom_feedback_total") >= 3


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"id": "nobody", "outcome": 1}', 422, "invalid_input"),
        ('{"outcome": 1}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": NaN}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": 1e999}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": true}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": null}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": ""}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": 1, "row": -1}', 422, "invalid_input"),
        ('{"id": "ID", "outcome": 1, "model": "x"}', 422, "invalid_input"),
        ("[]", 422, "invalid_input"),
        ('[{"id": "ID", "outcome": 1}, 7]', 422, "invalid_input"),
        ("{", 400, "invalid_json"),
        ("[" * 100_000, 413, "body_too_large"),
        ("", 400, "invalid_json"),
        ("{" + ",".join(f'"a{n}":1' for n in range(5000)) + "}", 422, "invalid_input"),
    ],
)
def test_feedback_that_means_nothing_is_refused(
    recording: Running, body: str, status: int, code: str
) -> None:
    text = body.replace("ID", "01980a2c-7c1e-7cc4-9d3b-2f6c1a0b5e77")
    got = recording.ask("POST", "/api/feedback", content=text, headers={"content-type": "application/json"})
    if code == "body_too_large":  # a list may be as long as its rows need
        assert got.status_code in (400, 413)
        return
    assert (got.status_code, got.json()["error"]["code"]) == (status, code), got.text


def test_without_a_bucket_nothing_is_kept_and_feedback_says_so(predictor: Running) -> None:
    got = predictor.ask(
        "POST", "/api/feedback", json={"id": "01980a2c-7c1e-7cc4-9d3b-2f6c1a0b5e77", "outcome": 1}
    )
    assert (got.status_code, got.json()["error"]["code"]) == (503, "feedback_off")


@pytest.fixture
def asked(names: dict[str, str], track: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A model's name and what it reads."""
    return names["genre"], track


def test_nothing_is_lost_on_a_stop_and_what_the_bucket_missed_goes_later(
    start: Start,
    published: Published,
    storage: StorageSettings,
    asked: tuple[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """The bucket is away while the first process runs and stops; the second one brings it the rows."""
    (model, track), spool = asked, tmp_path / "spool"
    common = {
        "GREENROOM_TRUSTED_KEYS": published.trusted,
        "GREENROOM_SERVING_SPOOL": str(spool),
        "GREENROOM_SERVING_SPOOL_TIMEOUT": "1",
        "GREENROOM_SERVING_LOG_SECONDS": "60",
    }
    away = {**keys(storage), "GREENROOM_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    running = start(published.url, **common, **away)
    running.loaded()
    ids = {running.post(model, json=track).json()["id"] for _ in range(30)}
    assert running.stop() == 0
    assert len(list(spool.rglob("*.parquet"))) == 1
    again = start(published.url, **common, **keys(storage))
    prefix = f"predictions/model={model}"
    until(lambda: {r["id"] for r in kept(storage, prefix, tmp_path)} >= ids)
    until(lambda: not list(spool.rglob("*.parquet")))
    again.process.send_signal(signal.SIGKILL)


# Without a process


class Counted:
    def __init__(self) -> None:
        self.written = 0
        self.dropped: dict[str, int] = {}

    def recorded(self, rows: int) -> None:
        self.written += rows

    def not_recorded(self, rows: int, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def spooled(self, size: int) -> None:
        pass


def settings(folder: Path, **values: Any) -> ServingSettings:
    nowhere = f"http://127.0.0.1:{free_port()}"
    given = {
        "s3_endpoint_url": nowhere,
        "s3_access_key": "a",
        "s3_secret_key": "b",
        "serving_spool": str(folder),
        "serving_spool_timeout": 0,
        "serving_log_seconds": 60,
    }
    return ServingSettings(**{**given, **values})


@pytest.fixture
def predicting() -> Predictor:
    found = Predictor({"genre": GENRE, "energy": ENERGY})
    models = {"genre": classifier(FEATURES), "energy": regression(READS, {"tempo": 1.0}, 0.0)}
    for name, model in models.items():
        found.swap(name, Served(1, OnnxModel(model.SerializeToString()), datetime.now(UTC)))
    return found


def spooled(folder: Path) -> list[dict[str, Any]]:
    files = folder.rglob("*.parquet")
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_what_does_not_fit_is_answered_not_kept_and_counted(
    predicting: Predictor, track: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_ROWS", 5)
    counted = Counted()
    recorder = Recorder(settings(tmp_path), counted)
    predicting.record = recorder.record
    for _ in range(8):
        assert predicting.predict("genre", json.dumps(track).encode()).rows == 1
    assert counted.dropped == {"memory": 3}
    assert not recorder.outcomes([FeedbackRecord(str(uuid4()), 0, 1.0, time.time_ns(), None)])
    recorder.start()
    recorder.stop()
    assert (counted.written, len(spooled(tmp_path))) == (5, 5)


def test_a_full_folder_takes_no_more_and_that_is_counted(
    predicting: Predictor, track: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPOOL_BYTES", 100)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "old.parquet").write_bytes(b"x" * 100)
    counted = Counted()
    recorder = Recorder(settings(tmp_path), counted)
    predicting.record = recorder.record
    predicting.predict("genre", json.dumps([track] * 7).encode())
    recorder.start()
    recorder.stop()
    assert (counted.written, counted.dropped) == (0, {"spool": 7})


def test_feedback_that_was_accepted_is_kept_in_a_full_folder_and_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPOOL_BYTES", 100)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "old.parquet").write_bytes(b"x" * 100)
    recorder = Recorder(settings(tmp_path, serving_log_seconds=0.05), Counted())
    accepted = FeedbackRecord(str(uuid4()), 0, "rock", time.time_ns(), None)
    assert recorder.outcomes([accepted])
    recorder.start()
    until(lambda: not recorder.outcomes([]))
    recorder.stop()
    (kept_file,) = (tmp_path / "feedback").rglob("*.parquet")
    assert pq.read_table(kept_file, partitioning=None).column("id").to_pylist() == [accepted.id]


def test_a_long_name_is_no_hindrance(predicting: Predictor, track: dict[str, Any], tmp_path: Path) -> None:
    name, counted = "星" * 80, Counted()
    served = predicting.states["genre"]
    assert isinstance(served, Served)
    predicting.swap(name, replace(served, contract=predicting.declared["genre"]))
    recorder = Recorder(settings(tmp_path), counted)
    predicting.record = recorder.record
    predicting.predict(name, json.dumps(track).encode())
    recorder.start()
    recorder.stop()
    assert (counted.written, counted.dropped) == (1, {})


def test_a_folder_that_cannot_be_written_drops_and_counts(
    predicting: Predictor, track: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "predictions").write_text("no folder")
    counted = Counted()
    recorder = Recorder(settings(tmp_path), counted)
    predicting.record = recorder.record
    predicting.predict("genre", json.dumps(track).encode())
    recorder.start()
    recorder.stop()
    assert counted.dropped == {"error": 1}


def test_models_of_several_forms_and_kinds_are_kept_apart(
    predicting: Predictor, track: dict[str, Any], track_without_energy: dict[str, Any], tmp_path: Path
) -> None:
    recorder = Recorder(settings(tmp_path), Counted())
    predicting.record = recorder.record
    predicting.predict("genre", json.dumps(track).encode())
    predicting.predict("energy", json.dumps(track_without_energy).encode())
    smaller = OnnxModel(classifier(("tempo", "energy")).SerializeToString())
    predicting.swap("genre", Served(2, smaller, datetime.now(UTC)))
    predicting.predict("genre", json.dumps([track, track]).encode())
    recorder.outcomes([FeedbackRecord(str(uuid4()), 0, "rock", time.time_ns(), "shop")])
    recorder.start()
    recorder.stop()
    forms = {frozenset(row): row for row in spooled(tmp_path)}
    assert len(forms) == 4
    assert sorted(Counter(map(frozenset, spooled(tmp_path))).values()) == [1, 1, 1, 2]
    energy = next(row for row in forms.values() if isinstance(row.get("prediction"), float))
    assert energy["prediction"] == pytest.approx(track["tempo"], rel=1e-6)


def test_many_threads_lose_nothing(predicting: Predictor, track: dict[str, Any], tmp_path: Path) -> None:

    counted = Counted()
    recorder = Recorder(settings(tmp_path, serving_log_seconds=0.001), counted)
    predicting.record = recorder.record
    recorder.start()
    body = json.dumps(track).encode()
    with ThreadPoolExecutor(4) as pool:
        ids = {answer.id for answer in pool.map(lambda _: predicting.predict("genre", body), range(400))}
    recorder.stop()
    assert {row["id"] for row in spooled(tmp_path)} == ids
    assert (counted.written, len(ids)) == (400, 400)


def test_one_process_sends_at_a_time(storage: StorageSettings, tmp_path: Path) -> None:
    first, second = Spool(tmp_path, 10**6), Spool(tmp_path, 10**6)
    path = first.add(f"tests/{uuid4().hex}", pa.table({"a": np.arange(3)}))
    bucket = Bucket(storage)

    def meanwhile() -> bool:
        assert not second.send(bucket, lambda: True)
        return True

    assert first.send(bucket, meanwhile)
    assert first.files() == []
    assert bucket.exists(path.relative_to(tmp_path).as_posix())


def test_a_spool_says_when_it_is_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    spool.add("tests", pa.table({"a": [1]}))
    with pytest.raises(SpoolFullError, match="as much as it may"):
        spool.add("tests", pa.table({"a": [1]}))
