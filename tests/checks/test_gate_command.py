"""`greenroom gate` against a registry held in memory; the checks' process is a stand-in."""

import json
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result
from sample_models import Small, StandIn, onnx_bytes
from sklearn.ensemble import GradientBoostingRegressor

from checks import commands
from checks.errors import GateInputError, GateUnavailableError
from checks.gate import run_gate
from registry.errors import NotFoundError, RegistryUnavailableError
from registry.evidence import Verdict
from registry.onnx_model import OnnxModel

PASSED = """cat > $3/outcomes.json <<'END'
{"outcomes": [{"check": "First", "status": "passed", "reason": "a [good] one"},
              {"check": "Second", "status": "passed", "reason": "fine"}]}
END"""
FAILED = PASSED.replace('"status": "passed", "reason": "fine"', '"status": "failed", "reason": "drifted"')


class MemoryClient:
    """Answers like the tracking client, for one version of the model `energy` and its artifacts."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.answers = True
        self.version = {"name": "energy", "version": "1", "run_id": "r"}

    def __call__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def require(self, answer: dict[str, Any], key: str) -> Any:
        return answer[key]

    def get(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        if not self.answers:
            raise RegistryUnavailableError("no answer")
        if path == "model-versions/get":
            if params["version"] != 1:
                raise NotFoundError("none")
            return {"model_version": self.version}
        uri = "run" if path == "runs/get" else "model"
        return {"artifact_uri": uri, "run": {"info": {"artifact_uri": uri}}}

    def pages(self, *_: object) -> list[dict[str, Any]]:
        return [self.version] if self.files else []

    def artifact(self, uri: str, path: str) -> bytes:
        if f"{uri}/{path}" not in self.files:
            raise NotFoundError(f"no {path}")
        return self.files[f"{uri}/{path}"]

    def put_artifact(self, uri: str, path: str, content: bytes) -> None:
        self.files[f"{uri}/{path}"] = content


@pytest.fixture
def client(
    small: Small,
    stand_in: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MemoryClient:
    """A registry with one version that passed."""
    spec, (train, test), _ = small
    content = onnx_bytes(spec, GradientBoostingRegressor(n_estimators=1), train)
    stand_in(PASSED)
    run_gate(spec, train=train, test=test, model=OnnxModel(content), report_dir=tmp_path / "gate")
    files = {f"run/gate/{file.name}": file.read_bytes() for file in (tmp_path / "gate").iterdir()}
    client = MemoryClient({**files, "model/model.onnx": content})
    monkeypatch.setattr(commands, "TrackingClient", client)
    monkeypatch.setattr(commands, "get_model", lambda _: spec)
    return client


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.gate, ["energy", *arguments], env={"COLUMNS": "200"})


def test_stored_verdict_that_passed(client: MemoryClient) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "a [good] one" in result.output
    assert "may leave the green room" in result.output


def test_json(client: MemoryClient) -> None:
    answer = json.loads(run("1", "--json").stdout)
    assert (answer["version"], answer["passed"], answer["reason"]) == (1, True, None)
    assert answer["verdict"]["outcomes"][0]["check"] == "First"


def test_rerun_that_refuses_replaces_the_verdict(client: MemoryClient, stand_in: StandIn) -> None:
    stand_in(FAILED)
    result = run("--rerun")
    assert result.exit_code == 1
    assert "Second failed: drifted" in result.output
    assert not Verdict.model_validate_json(client.files["run/gate/verdict.json"]).passed
    again = run("--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["passed"] is False


def test_rerun_that_passes(client: MemoryClient) -> None:
    before = client.files["run/gate/verdict.json"]
    assert run("--rerun").exit_code == 0
    assert client.files["run/gate/verdict.json"] != before  # a new time


def test_rerun_on_rows_that_were_exchanged(client: MemoryClient) -> None:
    client.files["run/gate/test.parquet"] = client.files["run/gate/train.parquet"]
    result = run("--rerun")
    assert isinstance(result.exception, GateInputError)
    assert "not those that its verdict is about" in str(result.exception)


def test_bytes_that_were_not_checked_are_refused(client: MemoryClient) -> None:
    client.files["model/model.onnx"] += b" "
    result = run()
    assert result.exit_code == 1
    assert "does not hold the bytes that were checked" in result.output


def test_version_without_verdict_is_refused(client: MemoryClient) -> None:
    del client.files["run/gate/verdict.json"]
    assert run().exit_code == 1
    assert run("--rerun").exit_code == 0


def test_could_not_tell(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("2").exit_code == 2
    monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", "/nowhere")
    # The command line's main gives these two errors the exit code 2.
    assert isinstance(run("--rerun").exception, GateUnavailableError)
    client.answers = False
    assert isinstance(run("1").exception, RegistryUnavailableError)
    client.files = {}
    assert run().exit_code == 2


def test_rerun_without_stored_rows(client: MemoryClient) -> None:
    del client.files["run/gate/train.parquet"]
    result = run("--rerun")
    assert result.exit_code == 2
    assert "cannot be checked again" in result.output


def test_unknown_model() -> None:
    result = CliRunner().invoke(commands.gate, ["nosuch"])
    assert result.exit_code == 2
    assert "There is no model 'nosuch'" in result.output
