"""The example notebook, executed as a person would: the same cells, a kernel of its own, a real stack."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient

from tests.conftest import ROOT, Stack
from tests.evidence import key_settings
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "docs/notebooks/bring-your-own-model.ipynb"


@pytest.fixture(scope="module")
def executed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook with what its cells answered; a cell that raises ends the test."""
    folder = tmp_path_factory.mktemp("notebook")
    # Neither start-up files nor kernels of whoever runs the tests.
    alone = {
        name: str(folder / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.items():
            patch.setenv(name, value)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        # Its folder is not the checkout: the rooms must be importable from anywhere.
        client.execute(env={**stack.environment, **alone})
    return notebook


def _said(notebook: Any, word: str) -> str:
    """Everything that the one cell answered whose source holds a word."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and word in cell.source]
    texts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "\n".join(texts)


def test_it_is_kept_without_outputs() -> None:
    """Outputs would show what some machine saw once, and its paths."""
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_it_leaves_two_versions_that_the_gate_let_pass(executed: Any, stack: Stack) -> None:
    mlflow = MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)
    for name, task_word in (("genre", "ExtraTreesClassifier"), ("biopsy", "LogisticRegression")):
        version = max(mlflow.search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))
        assert version.current_stage == "None", "a notebook promotes nothing by itself"
        assert version.tags["greenroom.gate"] == "passed"
        assert version.tags["greenroom.fitted"] == "here"
        assert version.tags["greenroom.submitted_from"] == "notebook"
        run = mlflow.get_run(version.run_id)
        assert run.data.params["winner_estimator"].endswith(task_word)
        assert run.data.metrics["test_balanced_accuracy"] > 0.5
        assert run.data.tags["greenroom.role"] == "training"


def test_what_it_made_reaches_production_and_is_served(executed: Any, stack: Stack, tmp_path: Path) -> None:
    """No catalogue declares the second model; `greenroom promote` and a predictor need none."""
    mlflow = MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)
    (number,) = [found.version for found in mlflow.search_model_versions("name = 'biopsy'")]
    refused = stack.greenroom("promote", "biopsy", number)
    assert refused.returncode == 1
    assert "rows that somebody brought" in refused.stderr
    key_settings(stack)  # an operator's key
    (dataset,) = re.findall(r"sha256:[0-9a-f]{64}", refused.stderr.partition("greenroom approve")[2])
    approved = stack.greenroom("approve", "biopsy", dataset, "--reason", "I looked at them")
    assert approved.returncode == 0, approved.stderr
    promoted = stack.greenroom("promote", "biopsy", number)
    assert promoted.returncode == 0, promoted.stderr
    port = free_port()
    # The stack's own predictor serves the catalogue alone (tests/conftest.py).
    wanted = {
        "GREENROOM_SERVING_PORT": str(port),
        "GREENROOM_SERVING_MODELS": "biopsy",
        "GREENROOM_SERVING_MAX_MODELS": "1",
        "GREENROOM_SERVING_CACHE": str(tmp_path / "cache"),
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            env={**stack.environment, **wanted},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        sick = {"mean radius": 22.0, "mean texture": 25.0, "mean smoothness": 0.12, "mean concavity": 0.35}
        answer = _answer(f"http://127.0.0.1:{port}/api/predict/biopsy", sick)
        assert answer.status_code == 200, answer.text + (tmp_path / "log").read_text()
        assert answer.json()["prediction"] == "malignant"
        assert answer.json()["version"] == int(number)
        refused = httpx.post(f"http://127.0.0.1:{port}/api/predict/biopsy", json={**sick, "extra": 1})
        assert refused.status_code == 422
    finally:
        process.terminate()
        process.wait(20)


def _answer(url: str, features: dict[str, float]) -> httpx.Response:
    """Ask until the predictor has started and loaded the model."""
    answer: httpx.Response | None = None

    def predicted() -> bool:
        nonlocal answer
        with suppress(httpx.TransportError):
            answer = httpx.post(url, json=features)
        return answer is not None and answer.status_code == 200

    until(predicted, lambda: answer.text if answer is not None else "it does not answer")
    assert answer is not None
    return answer


def test_it_shows_what_it_talks_about(executed: Any) -> None:
    assert "passed=True" in _said(executed, "outcome = submit")
    assert "SimpleModelComparison" in _said(executed, "verdict =")
    assert "extra-trees-classifier" in _said(executed, "search_runs")
    assert "passed=True" in _said(executed, "second = submit")
