"""What is served follows Production by itself, never falls back on nothing, and never takes a bad version."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import onnx
import pytest
from onnx import helper

from catalog.spotify_tracks import FEATURES
from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.evidence import keys
from registry.model_format.onnx_model import Description
from registry.names import Stage
from registry.settings import KeySettings, RegistrySettings
from tests.conftest import Stack
from tests.evidence import Gate, key_settings
from tests.registry.support.onnx_trees import leads_back_up
from tests.serving.support.onnx_parts import WEIGHTS, divides_by_zero, register, regression
from tests.serving.support.predictor_process import Running, Start
from tests.serving.support.scraped import Scraped
from tests.serving.support.slow_models import matrices, slow_for_lists
from tests.waiting import until

READS = tuple(name for name in FEATURES if name != "energy")
_DECLARE = """
from catalog.models.energy import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


@dataclass
class Model:
    """One model of a catalogue of its own; version N answers as if its bias were N."""

    stack: Stack
    gate: Gate
    name: str
    catalog: str

    def new(self, proto: Any = None) -> Version:
        """Register a version; without a model given, one that can be told from the others."""
        number = len(self.gate.registry.versions(self.name)) + 1
        made = proto or regression(READS, WEIGHTS, float(number))
        return register(self.gate, self.stack, self.name, made)

    def promote(self, proto: Any = None) -> Version:
        return self.gate.to_production(self.new(proto))

    def settings(self, **more: str) -> dict[str, str]:
        """What a predictor of this model needs."""
        trusted = str(self.stack.home / "keys" / "trusted")
        return {"GREENROOM_TRUSTED_KEYS": trusted, "GREENROOM_CATALOG_PATH": self.catalog, **more}


@contextmanager
def new_model(stack: Stack, folder: Path) -> Iterator[Model]:
    name = f"swap-{uuid4().hex[:8]}"
    file = folder / "declared.py"
    file.write_text(_DECLARE.format(name=name))
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        yield Model(stack, Gate(client, key_settings(stack)), name, str(file))


@pytest.fixture
def model(stack: Stack, tmp_path: Path) -> Iterator[Model]:
    with new_model(stack, tmp_path) as found:
        yield found


def registry(running: Running) -> dict[str, Any]:
    """What /readyz says of the registry; of a look only once it is over, when each model was seen to."""
    found: dict[str, Any] = running.get("/readyz").json()["registry"]
    return found


def info(running: Running, model: Model) -> dict[str, Any]:
    found = running.get("/api/models").json()["models"]
    return next(one for one in found if one["name"] == model.name)


def serves(running: Running, model: Model, version: int | None) -> bool:
    return bool(info(running, model)["version"] == version)


def test_a_version_that_does_not_work_is_refused_and_the_old_one_goes_on(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    model.promote()
    running = start(model.stack.tracking_url, **model.settings())
    until(lambda: serves(running, model, 1), "version 1 is not served")
    model.promote(divides_by_zero(READS))
    until(lambda: info(running, model)["refused"] is not None, "nothing was refused")
    refused = info(running, model)["refused"]
    assert refused["version"] == 2
    assert "no finite number" in refused["reason"]
    assert running.get("/readyz").json()["models"][model.name]["refused"]["version"] == 2
    assert running.post(model.name, json=track_without_energy).json()["version"] == 1
    assert f"{model.name} version 2 is refused" in running.log.read_text()
    model.promote()
    until(lambda: serves(running, model, 3), "version 3 is not served")
    assert info(running, model)["refused"] is None
    running.stop()


def test_a_file_that_an_older_gate_let_pass_is_refused_before_it_is_loaded(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    """Its tree goes in circles for loud tracks alone: nothing that was asked of it showed that."""
    model.promote()
    running = start(model.stack.tracking_url, **model.settings())
    until(lambda: serves(running, model, 1), "version 1 is not served")
    circles = leads_back_up(len(READS), READS.index("loudness"), above=-1.0)
    helper.set_model_props(circles, Description(task="regression", features=READS).to_metadata())
    model.promote(circles)
    until(lambda: info(running, model)["refused"] is not None, "nothing was refused")
    assert "leads back up" in info(running, model)["refused"]["reason"]
    assert "leads back up" in running.get("/readyz").json()["models"][model.name]["refused"]["reason"]
    metrics = Scraped(running.get("/metrics").text)
    assert metrics.get("greenroom_model_loads_refused_total", model=model.name, reason="format") == 1
    loud = {**track_without_energy, "loudness": -0.5}
    assert running.post(model.name, json=loud).json()["version"] == 1
    running.stop()


def test_a_version_that_hangs_its_first_process_is_refused_and_the_old_one_goes_on(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    model.promote()
    running = start(model.stack.tracking_url, **model.settings(), limits={"TRIAL_TIMEOUT": 8.0})
    until(lambda: serves(running, model, 1), "version 1 is not served")
    model.promote(onnx.load_model_from_string(matrices(300, 3000, READS)))
    until(lambda: info(running, model)["refused"] is not None, "nothing was refused")
    assert (
        "takes too long when it is loaded and run for the first time"
        in info(running, model)["refused"]["reason"]
    )
    metrics = Scraped(running.get("/metrics").text)
    assert metrics.get("greenroom_model_loads_refused_total", model=model.name, reason="trial") == 1
    assert running.post(model.name, json=track_without_energy).json()["version"] == 1
    model.promote()
    until(lambda: serves(running, model, 3), "version 3 is not served")
    running.stop()


def test_a_request_that_a_model_hangs_on_is_given_up_and_hangs_nothing_else(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    """Requests of two rows make it multiply matrices for minutes; health, swap and stop go on."""
    model.promote(onnx.load_model_from_string(slow_for_lists(5000, READS)))
    running = start(model.stack.tracking_url, **model.settings(), limits={"RUN_TIMEOUT": 2.0})
    until(lambda: serves(running, model, 1), "version 1 is not served")
    assert running.post(model.name, json=track_without_energy).status_code == 200
    two = [track_without_energy] * 2
    with ThreadPoolExecutor(4) as threads:
        hanging = [threads.submit(running.post, model.name, json=two) for _ in range(3)]
        assert running.get("/healthz").is_success
        version = model.promote().number
        late = [answer.result() for answer in hanging]
    assert {answer.status_code for answer in late} <= {503, 504}
    error = next(answer for answer in late if answer.status_code == 504).json()["error"]
    assert error["code"] == "prediction_timeout"
    assert "has not answered within" in error["message"]
    metrics = Scraped(running.get("/metrics").text)
    assert metrics.get("greenroom_model_runs_ended_total", model=model.name, reason="late") >= 1
    until(lambda: serves(running, model, version), "the next version is not served")
    assert running.post(model.name, json=two).status_code == 200
    assert running.stop() == 0


def test_a_stop_does_not_wait_for_a_model_that_hangs(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    model.promote(onnx.load_model_from_string(slow_for_lists(5000, READS)))
    running = start(model.stack.tracking_url, **model.settings(), limits={"RUN_TIMEOUT": 2.0})
    until(lambda: serves(running, model, 1), "version 1 is not served")
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(running.post, model.name, json=[track_without_energy] * 2)
        time.sleep(0.3)
        assert running.stop() == 0
        assert hanging.result().status_code == 504


def test_exchanged_bytes_are_not_taken_by_a_running_predictor(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    model.promote()
    running = start(model.stack.tracking_url, **model.settings(), limits={"POLL": 30})
    until(lambda: serves(running, model, 1), "version 1 is not served")
    running.stop()
    second = model.promote()
    client = model.gate.registry._client
    where = client.get("model-versions/get-download-uri", {"name": model.name, "version": second.number})
    client.put_artifact(where["artifact_uri"], "model.onnx", regression(READS, {}, 9.0).SerializeToString())
    # The same home: what it served before is in its cache, and goes on.
    again = start(
        model.stack.tracking_url,
        **model.settings(GREENROOM_SERVING_CACHE=str(running.log.parent / "serving-cache")),
    )
    until(lambda: info(again, model)["refused"] is not None, "nothing was refused")
    assert "does not hold the bytes" in info(again, model)["refused"]["reason"]
    assert again.post(model.name, json=track_without_energy).json()["version"] == 1
    again.stop()


def test_what_is_taken_out_of_production_is_served_no_more(
    start: Start, model: Model, track_without_energy: dict[str, Any]
) -> None:
    version = model.promote()
    running = start(model.stack.tracking_url, **model.settings())
    until(lambda: serves(running, model, 1), "version 1 is not served")
    model.gate.registry.promote(version, Stage.ARCHIVED)
    until(lambda: serves(running, model, None), "it is still served")
    answer = running.post(model.name, json=track_without_energy)
    assert answer.status_code == 503
    assert "no version in Production" in answer.json()["error"]["message"]
    assert not list((running.log.parent / "serving-cache" / "models").glob("*.json"))
    running.stop()


class Line:
    """A TCP line to the tracking server that can be cut and mended."""

    def __init__(self, url: str) -> None:
        self._to = (urlsplit(url).hostname, urlsplit(url).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.whole = True
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.whole = False
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self.whole:
                    near.close()
                    continue
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listener.close()


@pytest.fixture
def line(stack: Stack) -> Iterator[Line]:
    found = Line(stack.tracking_url)
    yield found
    found.close()


def test_a_running_predictor_does_not_care_about_an_outage(
    start: Start, model: Model, line: Line, track_without_energy: dict[str, Any]
) -> None:
    model.promote()
    running = start(line.url, **model.settings())
    until(lambda: serves(running, model, 1), "version 1 is not served")
    until(lambda: registry(running)["status"] == "reachable", "the first look does not end")
    line.cut()
    until(lambda: registry(running)["status"] == "unreachable", "nobody noticed")
    ready = running.get("/readyz")
    assert ready.status_code == 200
    assert "does not answer" in ready.json()["registry"]["reason"]
    assert running.post(model.name, json=track_without_energy).json()["version"] == 1
    model.promote()
    line.whole = True
    until(lambda: serves(running, model, 2), "it did not catch up")
    until(lambda: registry(running)["status"] == "reachable", "it does not say so")
    assert registry(running)["reason"] is None
    running.stop()


def test_a_version_made_anew_under_its_number_is_taken(
    start: Start, model: Model, line: Line, track_without_energy: dict[str, Any]
) -> None:
    """Deleted and made again while the predictor looked away: the number is the same, the file is not."""
    first = model.promote()
    running = start(line.url, **model.settings())
    until(lambda: serves(running, model, 1), "version 1 is not served")
    before = running.post(model.name, json=track_without_energy).json()["prediction"]
    line.cut()
    until(lambda: registry(running)["status"] == "unreachable", "nobody noticed")
    model.gate.registry.promote(first, Stage.ARCHIVED)
    address = f"{model.stack.tracking_url}/api/2.0/mlflow/registered-models/delete"
    assert httpx.request("DELETE", address, json={"name": model.name}).is_success
    model.promote(regression(READS, WEIGHTS, 99.0))
    line.whole = True

    def answer() -> Any:
        return running.post(model.name, json=track_without_energy).json()["prediction"]

    until(lambda: answer() != before, "the old file is still served")
    assert serves(running, model, 1)
    running.stop()


def test_a_retired_key_is_reported_and_the_version_is_served_on(
    start: Start, model: Model, tmp_path: Path, track_without_energy: dict[str, Any]
) -> None:
    model.promote()
    trusted = tmp_path / "trusted"
    shutil.copytree(model.stack.home / "keys" / "trusted", trusted)
    running = start(model.stack.tracking_url, **{**model.settings(), "GREENROOM_TRUSTED_KEYS": str(trusted)})
    until(lambda: serves(running, model, 1), "version 1 is not served")
    settings = KeySettings(trusted_keys=str(trusted))
    for key in keys.trusted("gate", settings):
        keys.retire(key.keyid, settings)
    until(lambda: info(running, model)["refused"] is not None, "nobody noticed")
    reason = info(running, model)["refused"]["reason"]
    assert "It is served on" in reason
    assert "retired" in reason
    assert "greenroom keys reissue" in reason
    assert running.post(model.name, json=track_without_energy).json()["version"] == 1
    running.stop()


@pytest.fixture(scope="module")
def served_once(
    start: Start, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Model, Path]]:
    """A model, and the cache of a predictor that has served its version 1 and is gone."""
    with new_model(stack, tmp_path_factory.mktemp("declared")) as model:
        model.promote()
        running = start(model.stack.tracking_url, **model.settings())
        until(lambda: serves(running, model, 1), "version 1 is not served")
        assert info(running, model)["source"] == "registry"
        until(lambda: registry(running)["status"] == "reachable", "it is not kept")
        assert running.stop() == 0
        yield model, running.log.parent / "serving-cache"


@pytest.fixture
def kept(served_once: tuple[Model, Path], tmp_path: Path) -> tuple[Model, Path]:
    """The same with a copy of the cache, for one test to do with as it likes."""
    model, cache = served_once
    return model, Path(shutil.copytree(cache, tmp_path / "serving-cache"))


NOBODY = "http://127.0.0.1:9"


def test_it_starts_from_its_cache_when_nothing_answers_and_catches_up(
    start: Start, kept: tuple[Model, Path], line: Line, track_without_energy: dict[str, Any]
) -> None:
    model, cache = kept
    line.cut()
    running = start(line.url, **model.settings(GREENROOM_SERVING_CACHE=str(cache)))
    until(lambda: serves(running, model, 1), "version 1 is not served")
    ready = running.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["models"][model.name]["source"] == "cache"
    until(lambda: registry(running)["status"] == "unreachable", "nobody noticed")
    assert running.post(model.name, json=track_without_energy).json()["version"] == 1
    line.whole = True
    until(lambda: info(running, model)["source"] == "registry", "it did not catch up")
    running.stop()


def damage(cache: Path, how: str) -> dict[str, str]:
    """Do something to a cache that must not be believed then; return settings for the predictor."""
    pointer = next((cache / "models").glob("*.json"))
    blob = next(file for file in (cache / "sha256").iterdir())
    if how == "other bytes":
        blob.write_bytes(regression(READS, {}, 9.0).SerializeToString())
    elif how == "other bytes under their own digest":
        content = regression(READS, {}, 9.0).SerializeToString()
        found = sha256(content).hexdigest()
        (blob.parent / found).write_bytes(content)
        known = json.loads(pointer.read_text())
        pointer.write_text(json.dumps({**known, "digest": f"sha256:{found}"}))
    elif how == "half a pointer":
        pointer.write_text(pointer.read_text()[:50])
    elif how == "no blob":
        blob.unlink()
    elif how == "another version's evidence":
        known = json.loads(pointer.read_text())
        pointer.write_text(json.dumps({**known, "number": 7}))
    elif how == "no trusted key":
        return {"GREENROOM_TRUSTED_KEYS": str(cache / "none")}
    return {}


@pytest.mark.parametrize(
    "how",
    [
        "other bytes",
        "other bytes under their own digest",
        "half a pointer",
        "no blob",
        "another version's evidence",
        "no trusted key",
    ],
)
def test_a_cache_is_not_believed(
    start: Start, kept: tuple[Model, Path], how: str, track_without_energy: dict[str, Any]
) -> None:
    model, cache = kept
    more = damage(cache, how)
    running = start(NOBODY, **model.settings(GREENROOM_SERVING_CACHE=str(cache)) | more)
    until(lambda: "does not answer" in str(info(running, model)["reason"]), "it says nothing")
    assert running.post(model.name, json=track_without_energy).status_code == 503
    assert running.get("/readyz").status_code == 503
    assert "Traceback" not in running.log.read_text()
    running.stop()


def test_a_version_that_was_never_in_production_is_not_served_from_the_cache(
    start: Start, model: Model, tmp_path: Path
) -> None:
    """It passed the gate, and its evidence is genuine; but nobody promoted it."""
    model.promote()
    cache = tmp_path / "serving-cache"
    settings = model.settings(GREENROOM_SERVING_CACHE=str(cache))
    running = start(model.stack.tracking_url, **settings)
    until(lambda: serves(running, model, 1), "version 1 is not served")
    until(lambda: registry(running)["status"] == "reachable", "it is not kept")
    running.stop()
    staged = model.gate.attest(model.new())
    content = model.gate.registry.model_bytes(staged)
    pointer, found = next((cache / "models").glob("*.json")), sha256(content).hexdigest()
    (cache / "sha256" / found).write_bytes(content)
    about = {"number": staged.number, "source": staged.source, "tags": staged.tags}
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), **about, "digest": f"sha256:{found}"}))
    again = start(NOBODY, **settings)
    until(lambda: "does not answer" in str(info(again, model)["reason"]), "it says nothing")
    assert serves(again, model, None)
    assert "saw it in Production" in again.log.read_text()
    again.stop()


def test_a_cache_that_cannot_be_written_is_said_and_does_not_stop_anything(
    start: Start, model: Model, tmp_path: Path
) -> None:
    model.promote()
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    running = start(model.stack.tracking_url, **model.settings(GREENROOM_SERVING_CACHE=str(blocked)))
    until(lambda: serves(running, model, 1), "version 1 is not served")
    until(lambda: "could not be kept" in running.log.read_text(), "nothing is said")
    running.stop()


def test_only_what_is_served_is_kept(start: Start, kept: tuple[Model, Path]) -> None:
    model, cache = kept
    assert len(list((cache / "sha256").iterdir())) == 1
    running = start(model.stack.tracking_url, **model.settings(GREENROOM_SERVING_CACHE=str(cache)))
    version = model.promote().number
    until(lambda: serves(running, model, version), "the new version is not served")
    until(lambda: len(list((cache / "sha256").iterdir())) == 1, "the old file is still there")
    running.stop()


def test_rollback_by_command_is_served_and_status_shows_who_disagrees(start: Start, model: Model) -> None:
    for _ in range(2):
        model.promote()
    running = start(model.stack.tracking_url, **model.settings())
    deaf = start(model.stack.tracking_url, **model.settings(), limits={"POLL": 3600})
    for one in (running, deaf):
        until(lambda r=one: serves(r, model, 2), "version 2 is not served")  # type: ignore[misc]
    catalog = {"GREENROOM_CATALOG_PATH": model.catalog}
    done = model.stack.greenroom("rollback", model.name, "--reason", "it hums", **catalog)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    until(lambda: serves(running, model, 1), "the rollback is not served")
    both = {"GREENROOM_PREDICTORS": f"{running.url},{deaf.url}", "GREENROOM_CATALOG_PATH": model.catalog}
    status = model.stack.greenroom("status", "--json", **both)
    found = next(m for m in json.loads(status.stdout)["models"] if m["name"] == model.name)
    assert (found["production"], found["serving"]) == (1, None)
    assert found["replicas"] | {model.stack.serving_url: None} == {
        model.stack.serving_url: None,  # the stack's own knows nothing of this model
        running.url: 1,
        deaf.url: 2,
    }
    assert f"{deaf.url} serves version 2" in json.loads(status.stdout)["problem"]
    assert status.returncode == 1
    running.stop()
    deaf.stop()
