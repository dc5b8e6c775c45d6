"""A registered pyfunc version, from Production to the answer: only if allowed, and only as it was signed."""

import os
import pickle
import re
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import httpx
import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from registry.client import audit_log
from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.evidence import Gate, key_settings
from tests.serving.support.onnx_parts import BIAS, WEIGHTS, regression
from tests.serving.support.onnx_parts import register as register_onnx
from tests.serving.support.predictor_process import Running, Start
from tests.serving.support.pyfunc_parts import READS, Evil, neighbours

_DECLARE = """
from catalog.models.energy import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""
_RUN = uuid4().hex[:8]
GOOD, EXCHANGED, ONNX = (f"pyfunc-{_RUN}-{kind}" for kind in ("good", "exchanged", "onnx"))


def register(gate: Gate, stack: Stack, name: str) -> Version:
    """Log and register a scikit-learn model with MLflow's own client, as anybody would."""
    mlflow.set_tracking_uri(stack.tracking_url)
    fitted, rows = neighbours()
    with mlflow.start_run():
        logged: Any = mlflow.sklearn.log_model(
            fitted,
            name="model",
            registered_model_name=name,
            signature=infer_signature(rows, fitted.predict(rows)),
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    return gate.registry.version(name, int(logged.registered_model_version))


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an exchanged pickle would leave behind."""
    return tmp_path_factory.mktemp("mark") / "loaded"


@pytest.fixture(scope="module")
def in_production(
    stack: Stack, mark: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Stack, dict[str, str]]:
    """Two pyfunc versions, one with its pickle exchanged since, and an ONNX one; what a predictor needs."""
    folder = tmp_path_factory.mktemp("declared")
    for kind, name in (("good", GOOD), ("exchanged", EXCHANGED), ("onnx", ONNX)):
        (folder / f"{kind}.py").write_text(_DECLARE.format(name=name))
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        gate = Gate(client, key_settings(stack))
        for name in (GOOD, EXCHANGED):
            gate.to_production(register(gate, stack, name))
        gate.to_production(register_onnx(gate, stack, ONNX, regression(READS, WEIGHTS, BIAS)))
        where = client.get("model-versions/get-download-uri", {"name": EXCHANGED, "version": 1})
        client.put_artifact(where["artifact_uri"], "model.pkl", pickle.dumps(Evil(mark)))
    trusted = str(stack.home / "keys" / "trusted")
    return stack, {"GREENROOM_TRUSTED_KEYS": trusted, "GREENROOM_CATALOG_PATH": str(folder)}


def test_without_the_setting_it_is_refused_and_the_reason_names_it(
    start: Start,
    in_production: tuple[Stack, dict[str, str]],
    track_without_energy: dict[str, Any],
    mark: Path,
) -> None:
    stack, env = in_production
    running = start(stack.tracking_url, **env)
    ready = running.loaded()
    assert "GREENROOM_SERVING_PYFUNC_PYTHON" in ready[GOOD]["reason"]
    assert ready[GOOD]["refused"]["version"] == 1
    answer = running.post(GOOD, json=track_without_energy)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert running.post(ONNX, json=track_without_energy).status_code == 200
    assert not mark.exists()
    running.stop()


def worker_of(running: Running, name: str) -> int:
    found = re.findall(rf"{name} version 1 runs as pyfunc in process (\d+)", running.log.read_text())
    return int(found[-1])


def test_allowed_it_answers_as_signed_or_not_at_all_and_outlives_its_process(
    start: Start,
    in_production: tuple[Stack, dict[str, str]],
    track_without_energy: dict[str, Any],
    mark: Path,
) -> None:
    stack, env = in_production
    running = start(stack.tracking_url, **env, GREENROOM_SERVING_PYFUNC_PYTHON=sys.executable)
    ready = running.loaded()
    assert (ready[GOOD]["status"], ready[ONNX]["status"]) == ("serving", "serving")

    # The exchanged one was refused, written down, and its pickle never loaded.
    assert "its model.pkl was exchanged" in ready[EXCHANGED]["reason"]
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # noqa: S301 - the proof that it would have shown
    assert mark.exists()
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        rows = [row for row in audit_log.history(client, EXCHANGED) if row.action == "mismatch"]
    assert [(row.version, row.code) for row in rows] == [(1, "bytes")]

    fitted, _ = neighbours()
    one = pd.DataFrame([track_without_energy])[list(READS)]
    expected = float(fitted.predict(one)[0])
    answer = running.post(GOOD, json=track_without_energy)
    assert answer.json() == {"id": ANY, "model": GOOD, "version": 1, "prediction": pytest.approx(expected)}
    many = running.post(GOOD, json=[track_without_energy, {**track_without_energy, "tempo": 150.0}])
    both = fitted.predict(pd.concat([one, one.assign(tempo=150.0)]))
    np.testing.assert_allclose([row["prediction"] for row in many.json()["predictions"]], both)
    explained = httpx.post(f"{running.url}/api/explain/{GOOD}", json=track_without_energy, timeout=10)
    assert explained.json()["error"]["code"] == "not_explainable"
    info = next(m for m in running.get("/api/models").json()["models"] if m["name"] == GOOD)
    assert info["digest"].startswith("sha256:")

    killed = worker_of(running, GOOD)
    os.kill(killed, signal.SIGKILL)
    assert running.post(ONNX, json=track_without_energy).status_code == 200
    # It waits for the new process, which imports MLflow first.
    again = httpx.post(f"{running.url}/api/predict/{GOOD}", json=track_without_energy, timeout=60)
    assert again.status_code == 200, again.text
    assert again.json() == {**answer.json(), "id": ANY}
    assert worker_of(running, GOOD) != killed

    left = worker_of(running, GOOD)
    assert running.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(left, 0)
