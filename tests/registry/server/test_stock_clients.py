"""MLflow's own client, as other teams have it, works with the guarded server and meets its refusals."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.client import audit_log
from registry.client.tracking_client import TrackingClient
from registry.names import EVIDENCE, GATE, Stage
from tests.conftest import Stack
from tests.registry.support.registered import Registrar

pytestmark = pytest.mark.slow

# The last three minor versions, and the release of mlflow-skinny that brings each one's dependencies. Of
# 3.18.0 only the whole `mlflow` is published, without the two packages that it requires.
CLIENTS = {"3.16.1": "3.16.1", "3.17.2": "3.17.2", "3.18.0": "3.17.2"}

# Calls what each line of standard input says, and answers with a line. Knows nothing of Greenroom.
SCRIPT = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints is no answer
import mlflow
from mlflow.exceptions import MlflowException

def described(found):
    if isinstance(found, list):
        return [described(one) for one in found]
    return {k: getattr(found, k, None) for k in ("version", "current_stage", "tags")} if found else None

client = mlflow.MlflowClient()
print(json.dumps({"found": mlflow.__version__}), file=answers, flush=True)
for line in sys.stdin:
    method, arguments = json.loads(line)
    try:
        answer = {"found": described(getattr(client, method)(**arguments))}
    except MlflowException as error:
        answer = {"error": [error.error_code, error.message]}
    print(json.dumps(answer), file=answers, flush=True)
"""


class RefusedError(Exception):
    """What the stock client raised: its error code and message."""


class StockClient:
    """An `MlflowClient` in an environment of its own; methods and arguments are MLflow's."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log
        self.version = self._answer()

    def __call__(self, method: str, **arguments: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def refused(self, says: str, method: str, **arguments: Any) -> None:
        """Check that a call is refused by the guard in words that hold `says`, and not after retries."""
        started = time.monotonic()
        with pytest.raises(RefusedError) as caught:
            self(method, **arguments)
        code, message = caught.value.args
        assert code == "PERMISSION_DENIED"
        assert "Greenroom refused: " in message
        assert says in message
        assert time.monotonic() - started < 10

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the stock client died:\n{self._log.read_text()}"
        answer = json.loads(line)
        if "error" in answer:
            raise RefusedError(*answer["error"])
        return answer["found"]


def run(*command: str) -> None:
    environment = {**os.environ, "UV_NO_PROGRESS": "1"}
    # uv does not read pip's configuration; a mirror that is set there is meant for it too.
    if index := environment.get("PIP_INDEX_URL"):
        environment.setdefault("UV_DEFAULT_INDEX", index)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module", params=CLIENTS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version of MLflow's client and the Python of an environment with that and nothing else."""
    version, skinny = str(request.param), CLIENTS[request.param]
    uv = str(Path(sys.executable).parent / "uv")
    folder = tmp_path_factory.mktemp("stock") / "venv"
    run(uv, "venv", "--python", sys.executable, str(folder))
    python = folder / "bin" / "python"
    run(uv, "pip", "install", "--python", str(python), f"mlflow-skinny=={skinny}")
    if skinny != version:
        run(uv, "pip", "uninstall", "--python", str(python), "mlflow-skinny", "mlflow-tracing")
        run(uv, "pip", "install", "--python", str(python), "--no-deps", f"mlflow=={version}")
    return version, python


@pytest.fixture(scope="module")
def stock(
    installed: tuple[str, Path], stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StockClient]:
    version, python = installed
    folder = tmp_path_factory.mktemp("client")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": stack.tracking_url, "HOME": str(folder)}
    with (
        (folder / "stderr").open("w") as log,
        subprocess.Popen(
            [str(python), "-c", SCRIPT],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            found = StockClient(process, folder / "stderr")
            assert found.version == version
            yield found
        finally:
            process.kill()


def test_it_registers_a_version_and_moves_it_with_evidence_alone(
    stock: StockClient, registrar: Registrar, client: TrackingClient
) -> None:
    name, model_id = registrar.name, registrar.logged_model()["model_id"]
    made = stock("create_model_version", name=name, source=f"models:/{model_id}", model_id=model_id)
    assert (made["version"], made["current_stage"]) == ("1", "None")
    version: dict[str, Any] = {"name": name, "version": "1"}

    for stage in ("Staging", "Production"):
        says = f"{name} version 1 has no evidence of the gate"
        stock.refused(says, "transition_model_version_stage", **version, stage=stage)
    assert stock("get_model_version", **version)["current_stage"] == "None"

    refusal = registrar.gate.envelope(registrar.registry.version(name, 1), passed=False)
    stock("set_model_version_tag", **version, key=EVIDENCE, value=refusal)
    says = f"The gate refused {name} version 1: Performance failed"
    stock.refused(says, "transition_model_version_stage", **version, stage="Production")

    envelope = registrar.gate.envelope(registrar.registry.version(name, 1))
    stock("set_model_version_tag", **version, key=EVIDENCE, value=envelope)
    for stage in ("Staging", "Production"):
        moved = stock("transition_model_version_stage", **version, stage=stage)
        assert (moved["version"], moved["current_stage"]) == ("1", stage)
    (newest,) = stock("get_latest_versions", name=name, stages=["Production"])
    assert (newest["version"], newest["tags"]) == ("1", {EVIDENCE: envelope, GATE: "passed"})
    assert stock("get_latest_versions", name=name, stages=["Staging"]) == []

    # One row for each refusal: the client takes it for an answer and does not try again.
    actions = [row.action for row in audit_log.history(client, name) if row.version == 1]
    assert [a for a in actions if a != "evidence"] == [*["refused"] * 3, "staged", "promoted"]


def test_it_cannot_get_around_the_guard(stock: StockClient, registrar: Registrar) -> None:
    name, other = registrar.name, f"{registrar.name}-copy"
    before, after = registrar.in_production(), registrar.good()
    production: dict[str, Any] = {"name": name, "version": str(before.number)}
    candidate: dict[str, Any] = {"name": name, "version": str(after.number)}

    stock("set_registered_model_alias", **production, alias="champion")
    stock.refused("'champion' means Production", "set_registered_model_alias", **candidate, alias="champion")
    stock.refused("'champion' means Production", "delete_registered_model_alias", name=name, alias="champion")
    alias = stock("get_model_version_by_alias", name=name, alias="champion")
    assert alias["version"] == str(before.number)

    # A copy comes without the evidence of the other, and so goes nowhere by itself.
    copy = stock("copy_model_version", src_model_uri=f"models:/{name}/{after.number}", dst_name=other)
    assert (copy["version"], copy["current_stage"], copy["tags"]) == ("1", "None", {})
    says = f"{other} version 1 has no evidence of the gate"
    stock.refused(says, "transition_model_version_stage", name=other, version="1", stage="Production")

    stock.refused("is in Production", "delete_model_version", **production)
    stock.refused("is in Production", "delete_registered_model", name=name)
    stock.refused("is in Production", "rename_registered_model", name=name, new_name=f"{name}-new")
    stock.refused("holds evidence", "delete_model_version_tag", **candidate, key=EVIDENCE)
    stock.refused("the server sets it", "set_model_version_tag", **candidate, key=GATE, value="passed")
    assert registrar.registry.version(name, before.number) == before

    # And what may be done still can be: the version before gives way, and the alias follows.
    arguments = {"stage": "Production", "archive_existing_versions": True}
    stock("transition_model_version_stage", **candidate, **arguments)
    assert registrar.registry.version(name, before.number).stage is Stage.ARCHIVED
    alias = stock("get_model_version_by_alias", name=name, alias="champion")
    assert (alias["version"], alias["current_stage"]) == (str(after.number), "Production")
    stock("delete_model_version", **production)
