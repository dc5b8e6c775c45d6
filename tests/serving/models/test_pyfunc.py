"""Models that are no ONNX file: held against what was signed, and run in a process of their own."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from catalog.models.energy import MODEL as ENERGY
from catalog.models.genre import MODEL as GENRE
from catalog.spec import ModelSpec, Task
from catalog.spotify_tracks import FEATURES
from registry.client.registry import Version
from registry.errors import EvidenceBytesError, ModelFormatError
from registry.model_format.onnx_model import OnnxModel, Rows
from registry.names import Stage
from serving import limits
from serving.app import create_app
from serving.errors import ModelUnavailableError, PredictionFailedError
from serving.inference.contracts import declared
from serving.inference.predictor import Served
from serving.inference.served_model import ModelExecutors
from serving.models import loader
from serving.models.cache import ModelCache
from serving.models.pyfunc import PyfuncFiles, PyfuncModel
from serving.settings import ServingSettings
from tests.serving.support.onnx_parts import classifier
from tests.serving.support.pyfunc_parts import (
    Evil,
    frame,
    neighbours,
    save_moody,
    save_sklearn,
    signed,
)
from tests.waiting import until

pytestmark = pytest.mark.slow


def row(tempo: float) -> Rows:
    return np.array([[tempo]], dtype=np.float32)


@pytest.fixture(scope="module")
def moody_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that misbehaves on request."""
    folder = tmp_path_factory.mktemp("moody") / "model"
    save_moody(folder)
    return folder


@pytest.fixture(scope="module")
def moody(moody_folder: Path) -> PyfuncModel:
    os.environ["SECRET"] = "not for models"
    made = PyfuncModel(signed(moody_folder), "regression")
    del os.environ["SECRET"]
    return made


@pytest.fixture
def calm(moody: PyfuncModel, monkeypatch: pytest.MonkeyPatch) -> PyfuncModel:
    """The same without a history of failures: otherwise the tests would wait for each other."""
    monkeypatch.setattr(limits, "PYFUNC_TIMEOUT", 2.0)
    moody._failures, moody._not_before = 0, 0.0
    return moody


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


# What it answers


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_answers_what_the_pyfunc_answers(tmp_path: Path, task: Task) -> None:
    spec: ModelSpec = ENERGY if task == "regression" else GENRE
    if task == "regression":
        fitted, rows = neighbours()
    else:
        rows = frame(FEATURES)
        # The conversion to ONNX does not know it.
        fitted = HistGradientBoostingClassifier(max_iter=3).fit(rows, np.where(rows["tempo"] > 0.5, "b", "a"))
    save_sklearn(tmp_path / "model", fitted, rows)
    model, _ = loader.loaded(declared(spec), spec.name, signed(tmp_path / "model"))
    features = model.description.features
    assert features == tuple(rows.columns)
    assert model.digest.startswith("sha256:")
    matrix = rows.to_numpy(dtype=np.float32)
    found, probabilities = model.predict(matrix)
    expected = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(rows)
    assert found.tolist() == expected.tolist()
    if task == "classification":
        assert model.description.classes == ("a", "b")
        assert probabilities is not None
        np.testing.assert_allclose(probabilities, fitted.predict_proba(rows), atol=1e-6)
    else:
        assert probabilities is None


def test_a_model_of_another_shape_than_declared_is_refused_and_leaves_nothing(moody_folder: Path) -> None:
    files = signed(moody_folder)
    with pytest.raises(ModelFormatError, match="gives no probabilities"):
        loader.loaded(declared(GENRE), "genre", files)
    spec = ENERGY.model_copy(update={"features": ("valence",)})
    with pytest.raises(ModelFormatError, match="does not declare: tempo"):
        loader.loaded(declared(spec), spec.name, files)
    root = files.model.parent
    del files
    until(lambda: not root.exists())


def test_what_is_no_pyfunc_and_a_python_that_is_none_are_said(moody_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(ModelFormatError, match=r"mine version 1 cannot be run as pyfunc: .*python_function"):
        PyfuncModel(signed(tmp_path), "regression")
    with pytest.raises(ModelFormatError, match="python cannot be started"):
        PyfuncModel(signed(moody_folder, str(tmp_path / "python")), "regression")
    with pytest.raises(ModelFormatError, match="ended with exit code 1"):
        PyfuncModel(signed(moody_folder, "/bin/false"), "regression")


# What was signed


def test_a_file_that_is_not_as_it_was_signed_is_never_written(tmp_path: Path) -> None:
    files = PyfuncFiles("mine version 1", {"MLmodel": sha256(b"good").hexdigest()}, sys.executable)
    for path, content in (("MLmodel", b"bad"), ("more.py", b"good"), ("../MLmodel", b"good")):
        with pytest.raises(EvidenceBytesError, match="does not hold the bytes that were checked"):
            files.put(path, content)
    assert list(files.model.iterdir()) == []
    with pytest.raises(EvidenceBytesError, match="its MLmodel was exchanged, added or removed"):
        files.require_whole()
    outside = PyfuncFiles("mine version 1", {"../x": sha256(b"good").hexdigest()}, sys.executable)
    with pytest.raises(ModelFormatError, match="outside of its folder"):
        outside.put("../x", b"good")
    assert files.model.parent.stat().st_mode & 0o777 == 0o700


def test_what_changed_since_is_not_loaded_again(moody_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    files = signed(moody_folder)
    pickles = list(files.model.rglob("*.pkl"))
    assert pickles
    pickles[0].write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(EvidenceBytesError, match="was exchanged"):
        PyfuncModel(files, "regression")
    assert not mark.exists()
    pickle.loads(pickles[0].read_bytes())  # noqa: S301 - the proof that it would have shown
    assert mark.exists()


# What goes wrong while it runs


def test_a_process_that_was_killed_is_started_again(calm: PyfuncModel) -> None:
    assert calm.predict(row(9))[0].tolist() == [9.5]
    before = calm.pid
    assert before
    os.kill(before, signal.SIGKILL)
    until(lambda: gone(before))
    assert calm.predict(row(8))[0].tolist() == [8.5]
    assert calm.pid != before


def test_a_process_that_is_killed_while_it_answers_costs_nobody_an_answer(calm: PyfuncModel) -> None:
    calm.predict(row(9))
    before = calm.pid
    assert before
    os.kill(before, signal.SIGKILL)  # whether or not it is seen before the next request
    assert calm.predict(row(8))[0].tolist() == [8.5]
    assert calm.pid != before


def test_a_model_that_hangs_is_ended(calm: PyfuncModel) -> None:
    calm.predict(row(9))
    before = calm.pid
    assert before
    with pytest.raises(PredictionFailedError, match=r"did not answer within 2 s\. Its process was ended"):
        calm.predict(row(21))
    assert gone(before)
    assert calm.predict(row(8))[0].tolist() == [8.5]


def test_a_model_that_crashes_again_and_again_is_not_started_each_time(calm: PyfuncModel) -> None:
    # A second process gets the same row, for the first may have died of something else.
    with pytest.raises(PredictionFailedError, match="ended with exit code 7"):
        calm.predict(row(22))
    with pytest.raises(ModelUnavailableError, match="failed 2 times in a row; it is started again in 1 s"):
        calm.predict(row(8))
    calm._not_before = 0.0  # as if the second had passed
    assert calm.predict(row(8))[0].tolist() == [8.5]


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms do not keep the limit")
def test_memory_is_bounded_and_an_error_costs_no_process(calm: PyfuncModel) -> None:
    calm.predict(row(9))
    before = calm.pid
    with pytest.raises(PredictionFailedError, match="failed on this input"):
        calm.predict(row(23))
    assert calm.predict(row(8))[0].tolist() == [8.5]
    assert calm.pid == before


def test_what_it_prints_blocks_nothing(calm: PyfuncModel) -> None:
    assert calm.predict(row(24))[0].tolist() == [24.5]


def test_no_secret_is_in_its_environment(calm: PyfuncModel) -> None:
    environment = Path(f"/proc/{calm.pid}/environ")
    if not environment.exists():
        pytest.skip("this platform does not show a process' environment")
    assert b"not for models" not in environment.read_bytes()
    assert b"GREENROOM" not in environment.read_bytes()


def test_nobody_is_left_when_a_model_is_replaced(moody_folder: Path) -> None:
    model = PyfuncModel(signed(moody_folder), "regression")
    pid, root = model.pid, model._files.model.parent
    assert pid
    del model
    assert gone(pid)
    assert not root.exists()


def test_nobody_is_left_when_the_predictor_is_killed(moody_folder: Path) -> None:
    """The worker hangs in a call; the end of the other side is seen all the same."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from serving.models.pyfunc_process import WorkerProcess\n"
        "w = WorkerProcess(sys.executable, Path(sys.argv[1]), Path(sys.argv[2]), task='regression', "
        "memory=2**32)\n"
        "w.ask(None, 60)\n"
        "print(w.pid, flush=True)\n"
        "w.ask({'rows': [[21.0]]}, 60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(moody_folder), str(moody_folder.parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(pid))


def test_it_works_in_a_lane_of_its_own_where_few_may_wait() -> None:
    lanes, go = ModelExecutors(), threading.Event()

    async def ask() -> None:
        waiting = [asyncio.ensure_future(lanes.run("mine", go.wait, 20)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(ModelUnavailableError, match="8 requests wait already"):
            await lanes.run("mine", go.wait, 20)
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 8
        assert await lanes.run("mine", lambda: threading.current_thread().name.startswith("lane-mine"))

    asyncio.run(ask())


def test_while_it_hangs_the_others_are_answered(
    calm: PyfuncModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: dict[str, Any]
) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    app = create_app(ServingSettings())
    app.predictor.swap("energy", Served(1, calm, datetime.now(UTC)))
    onnx = OnnxModel(classifier(FEATURES).SerializeToString())
    app.predictor.swap("genre", Served(1, onnx, datetime.now(UTC)))
    without_energy = {name: value for name, value in track.items() if name != "energy"}

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app.asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://predictor", timeout=60) as client:
            hangs = {**without_energy, "tempo": 21.0}
            hanging = asyncio.ensure_future(client.post("/api/predict/energy", json=hangs))
            many = [track] * 200  # so many go to the threads of all
            for body in (track, many, track):
                answer = await client.post("/api/predict/genre", json=body)
                assert answer.status_code == 200, answer.text
                assert not hanging.done()
            late = await hanging
            assert late.status_code == 500
            error = late.json()["error"]
            assert error["code"] == "prediction_failed"
            assert "did not answer within 2 s" in error["message"]
            good = await client.post("/api/predict/energy", json=without_energy)
            assert good.json()["prediction"] == pytest.approx(track["tempo"] + 0.5)
            explained = await client.post("/api/explain/energy", json=without_energy)
            assert (explained.status_code, explained.json()["error"]["code"]) == (409, "not_explainable")

    asyncio.run(ask())


def test_it_is_not_kept_for_an_outage_and_neither_is_what_it_replaced(
    moody_folder: Path, tmp_path: Path
) -> None:
    cache = ModelCache(tmp_path)
    version = Version("mine", 1, Stage.PRODUCTION, "", "models:/m-1", {})
    cache.keep(version, b"onnx")
    assert cache.last_good("mine")
    cache.keep(version, signed(moody_folder))
    assert cache.last_good("mine") is None
