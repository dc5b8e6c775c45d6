"""Submissions that must not get through, on real parts: what they leave behind, and what they do not."""

import subprocess
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.ensemble import RandomForestClassifier

from tests.conftest import Stack
from tests.flows.support.tumour_rows import tumours
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow

_WORDS = ("--target", "diagnosis", "--task", "classification")
# What is refused before there is anything to register, in one process: imports take longest.
_REFUSED = """
import sys
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from flows.submission import submit

table = pd.read_parquet(sys.argv[1])
rows, answers = table.drop(columns="diagnosis"), table["diagnosis"]
words = {"table": table, "target": "diagnosis", "task": "classification"}
knows_all = RandomForestClassifier(20, random_state=0).fit(rows, answers)
for name, estimator, how in (
    ("biopsy-leaky", knows_all, {"as_fitted": True}),
    ("biopsy-inconvertible", HistGradientBoostingClassifier(max_iter=3), {}),
    ("biopsy-hasty", b"an ONNX file", {"promote": True}),
):
    try:
        submit(estimator, name, **how, **words)
    except Exception as error:
        print(name, type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "biopsies.parquet"
    tumours().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def client(stack: Stack) -> MlflowClient:
    return MlflowClient(tracking_uri=stack.tracking_url, registry_uri=stack.tracking_url)


def test_what_was_trained_on_shuffled_labels_is_refused_by_the_gate(
    stack: Stack, table: Path, client: MlflowClient
) -> None:
    """As fitted, from a run that somebody logged; it is registered for people to look at, no more."""
    rows = pd.read_parquet(table)
    shuffled = rows["diagnosis"].sample(frac=1, random_state=1).to_numpy()
    forest = RandomForestClassifier(20, min_samples_leaf=20, random_state=1)
    forest.fit(rows.drop(columns="diagnosis"), shuffled)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(stack.tracking_url)
    try:
        mlflow.set_experiment("of somebody")
        with mlflow.start_run() as run:
            mlflow.sklearn.log_model(forest, name="model", serialization_format="cloudpickle")
    finally:
        mlflow.set_tracking_uri(before)
    source = f"runs:/{run.info.run_id}/model"
    done = stack.greenroom(
        *("submit", "biopsy-shuffled", source, "--as-fitted", "--table", str(table)), *_WORDS
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "biopsy-shuffled version 1 was refused by the gate" in done.stdout
    assert "SimpleModelComparison failed" in done.stdout

    version = client.get_model_version("biopsy-shuffled", "1")
    assert version.tags["greenroom.gate"] == "refused"
    assert version.tags["greenroom.fitted"] == "elsewhere"
    assert version.tags["greenroom.submitted_from"] == source
    note = client.get_run(version.run_id).data.tags["mlflow.note.content"]
    assert "**It was fitted elsewhere**: it may have seen the held-out rows" in note
    assert "**The gate refused this model: it is not for use.**" in note

    # The gate can be asked about it, though no catalogue declares it; and the server lets it go nowhere.
    said = stack.greenroom("gate", "biopsy-shuffled", "1")
    assert said.returncode == 1
    assert "SimpleModelComparison" in said.stdout
    refused = stack.greenroom("promote", "biopsy-shuffled", "1")
    assert refused.returncode == 1
    assert "The gate refused biopsy-shuffled version 1" in refused.stderr
    assert client.get_model_version("biopsy-shuffled", "1").current_stage == "None"


def test_what_knows_the_held_out_rows_or_cannot_be_onnx_leaves_nothing_in_the_registry(
    stack: Stack, table: Path, client: MlflowClient
) -> None:
    done = subprocess.run(
        [str(warm_python()), "-c", _REFUSED, str(table)],
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "biopsy-leaky LeakageError biopsy-leaky: on held-out rows the model as fitted has" in done.stdout
    assert "biopsy-inconvertible ExportError" in done.stdout
    assert "HistGradientBoostingClassifier cannot be converted to ONNX" in done.stdout
    assert "biopsy-hasty SubmissionError A model that was fitted elsewhere is not promoted" in done.stdout
    for name in ("biopsy-leaky", "biopsy-inconvertible", "biopsy-hasty"):
        assert not client.search_registered_models(f"name = '{name}'")
        assert client.get_experiment_by_name(name) is None


def test_a_file_that_is_no_model_ends_with_2(stack: Stack, tmp_path: Path, client: MlflowClient) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x00 no model")
    done = stack.greenroom("submit", "genre", str(file))
    assert done.returncode == 2
    assert "This is no ONNX file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not client.search_model_versions("tags.`greenroom.submitted_from` = 'model.onnx'")
