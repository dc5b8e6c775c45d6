"""A version is loaded and run for the first time in a process that may die; some go on in such a process."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from catalog.loader import load_catalog
from catalog.spotify_tracks import FEATURES
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import Description, OnnxModel
from serving import limits
from serving.app import create_app
from serving.errors import ModelUnavailableError, PredictionLateError
from serving.inference.contracts import declared
from serving.inference.predictor import Served
from serving.models.loader import loaded
from serving.models.onnx_models import OnnxFile, OnnxProcessModel, OnnxWorker, QuickOnnxModel, arrays
from serving.models.onnx_trials import OnnxTrials, TrialError
from serving.settings import ServingSettings
from tests.registry.support.onnx_trees import chain, leads_back_up
from tests.serving.support.onnx_parts import BIAS, CLASSES, WEIGHTS, classifier, regression
from tests.serving.support.slow_models import READS, described, matrices, slow_for_lists
from tests.waiting import until

ENERGY = tuple(name for name in FEATURES if name != "energy")


@pytest.fixture
def ended() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def trials(ended: list[tuple[str, str]]) -> Iterator[OnnxTrials]:
    first = OnnxTrials(lambda name, why: ended.append((name, why)))
    yield first
    first.close()


def run(trials: OnnxTrials, content: bytes) -> QuickOnnxModel | OnnxProcessModel:
    return trials.load("mine", content).run([0.1] * len(READS))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_served_so_far_is_quick_and_answers_the_same(trials: OnnxTrials) -> None:
    genre = classifier(FEATURES).SerializeToString()
    rows = np.random.default_rng(1).random((3000, len(FEATURES))).astype(np.float32)
    model, contract = loaded(declared(load_catalog()["genre"]), "genre", genre, trials=trials)
    assert isinstance(model, QuickOnnxModel)
    assert contract.name == "genre"
    (labels, shares), (expected, odds) = model.predict(rows), OnnxModel(genre).predict(rows)
    assert shares is not None
    assert odds is not None
    assert labels.tolist() == expected.tolist()
    np.testing.assert_array_equal(shares, odds)
    empty = model.predict(rows[:0])[0]
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: described(leads_back_up()), "leads back up"),
        (lambda: described(chain(20_000)), "deeper than 1,000 levels"),
        (lambda: b"no model", "cannot be read"),
        (lambda: chain(3).SerializeToString(), "does not say which features it reads"),
    ],
)
def test_the_form_of_a_file_is_asked_before_it_is_loaded(
    trials: OnnxTrials, content: object, reason: str
) -> None:
    with pytest.raises(ModelFormatError, match=reason):
        run(trials, content())  # type: ignore[operator]
    assert isinstance(run(trials, described(chain(3))), QuickOnnxModel), "and the next is loaded"


def test_a_first_run_without_end_is_ended(trials: OnnxTrials, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trials.load("mine", matrices(200, 3000))
    assert trials._worker
    pid = trials._worker.pid
    monkeypatch.setattr(limits, "TRIAL_TIMEOUT", 1.0)
    with pytest.raises(TrialError, match=r"takes too long .*did not answer within 1 s.*`greenroom rollback`"):
        first.run([0.1] * len(READS))
    assert not alive(pid)


def test_a_load_that_ends_its_process_is_a_refusal(trials: OnnxTrials) -> None:
    first = trials.load("mine", matrices(200, 3000))
    assert trials._worker
    killer = threading.Timer(0.5, os.kill, (trials._worker.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(TrialError, match=r"ends the process .*signal SIGKILL"):
        first.run([0.1] * len(READS))
    killer.join()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not bound memory")
def test_memory_is_bounded(trials: OnnxTrials) -> None:
    with pytest.raises(ModelFormatError, match="fails on an example"):
        run(trials, matrices(1, 30_000))
    assert isinstance(run(trials, described(chain(3))), QuickOnnxModel)


def test_a_slow_model_goes_on_in_the_process_that_tried_it(trials: OnnxTrials) -> None:
    model = run(trials, matrices(2, 1500))
    assert isinstance(model, OnnxProcessModel)
    rows = np.random.default_rng(1).random((5, len(READS))).astype(np.float32)
    labels, shares = model.predict(rows)
    assert shares is None
    np.testing.assert_allclose(labels, rows.sum(axis=1), rtol=1e-6)
    assert labels.dtype == np.float32
    assert model.pid
    assert not trials.passed(model.digest), "it is never loaded by the predictor"


def test_texts_come_through_as_they_are() -> None:
    file, worker = OnnxFile("mine", classifier(FEATURES).SerializeToString()), OnnxWorker()
    model = OnnxProcessModel(
        file, worker, Description(task="classification", features=FEATURES, classes=CLASSES), print
    )
    rows = np.random.default_rng(1).random((5, len(FEATURES))).astype(np.float32)
    worker.ask(file.request, 60)
    (labels, shares), (expected, odds) = model.predict(rows), OnnxModel(file.path.read_bytes()).predict(rows)
    assert labels.tolist() == expected.tolist()
    np.testing.assert_array_equal(np.asarray(shares), np.asarray(odds))
    with pytest.raises(ValueError, match="of the kind"):
        arrays({"kind": "|V8", "labels": [], "probabilities": None})


def test_a_run_that_takes_long_for_some_requests_is_ended_and_opens_the_circuit(
    trials: OnnxTrials, ended: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run(trials, slow_for_lists(4000))
    assert isinstance(model, OnnxProcessModel)
    monkeypatch.setattr(limits, "RUN_TIMEOUT", 1.0)
    one, two = np.ones((1, len(READS)), np.float32), np.ones((2, len(READS)), np.float32)
    assert model.predict(one)[0].tolist() == [3.0]
    pid = model.pid
    assert pid
    with pytest.raises(PredictionLateError, match="'mine' has not answered within 1 s"):
        model.predict(two)
    until(lambda: not alive(pid))
    monkeypatch.setattr(limits, "RUN_TIMEOUT", 20.0)
    assert model.predict(one)[0].tolist() == [3.0], "another process answers at once"
    monkeypatch.setattr(limits, "RUN_TIMEOUT", 1.0)
    with pytest.raises(PredictionLateError):
        model.predict(two)
    with pytest.raises(ModelUnavailableError, match="failed 2 times in a row; it is started again in"):
        model.predict(one)
    assert ended == [("mine", "late"), ("mine", "late")]


def test_what_passed_once_is_not_tried_again(trials: OnnxTrials) -> None:
    content = regression(ENERGY, WEIGHTS, BIAS).SerializeToString()
    assert isinstance(trials.load("energy", content).run([0.1] * len(ENERGY)), QuickOnnxModel)
    trials.close()
    assert isinstance(trials.load("energy", content).run([0.1] * len(ENERGY)), QuickOnnxModel)
    assert trials._worker is None


def test_it_ends_when_there_is_nothing_to_do(trials: OnnxTrials, monkeypatch: pytest.MonkeyPatch) -> None:
    run(trials, described(chain(3)))
    assert trials._worker
    pid = trials._worker.pid
    trials.rest()
    assert alive(pid)
    trials._worked = time.monotonic() - 60
    trials.rest()
    assert not alive(pid)


def test_a_file_that_changes_meanwhile_is_not_loaded() -> None:
    file, worker = OnnxFile("mine", described(chain(3))), OnnxWorker()
    file.path.write_bytes(described(chain(4)))
    with pytest.raises(Exception, match="its file was changed"):
        worker.ask(file.request, 60)
    worker.end()


def test_no_secret_is_in_its_environment(trials: OnnxTrials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_S3_SECRET_KEY", "topsecret")
    run(trials, described(chain(3)))
    assert trials._worker
    environment = Path(f"/proc/{trials._worker.pid}/environ")
    if environment.exists():
        assert b"topsecret" not in environment.read_bytes()


def test_while_it_hangs_the_others_predict_and_explain(
    trials: OnnxTrials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: dict[str, Any]
) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    monkeypatch.setattr(limits, "RUN_TIMEOUT", 3.0)
    app = create_app(ServingSettings())
    slow = trials.load("energy", slow_for_lists(5000, ENERGY)).run([0.1] * len(ENERGY))
    quick = trials.load("popularity", described(chain(3, len(FEATURES)), FEATURES)).run([0.1] * len(FEATURES))
    app.predictor.swap("energy", Served(1, slow, datetime.now(UTC)))
    app.predictor.swap("popularity", Served(1, quick, datetime.now(UTC)))
    without_energy = {name: value for name, value in track.items() if name != "energy"}

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://predictor", timeout=60) as client:
            # An explanation asks for many rows at once.
            hanging = asyncio.ensure_future(client.post("/api/explain/energy", json=without_energy))
            await asyncio.sleep(0.2)
            for path in ("predict", "explain", "predict"):
                answer = await client.post(f"/api/{path}/popularity", json=track)
                assert answer.status_code == 200, answer.text
                assert not hanging.done()
            late = await hanging
            assert (late.status_code, late.json()["error"]["code"]) == (504, "prediction_timeout")
            page = (await client.get("/openapi.json")).json()
            assert "504" in page["paths"]["/api/predict/energy"]["post"]["responses"]

    asyncio.run(ask())
