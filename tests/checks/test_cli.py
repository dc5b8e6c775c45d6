"""`greenroom gate` against a registry in memory; the checks' process is a stand-in, signatures are real."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sklearn.ensemble import GradientBoostingRegressor

from catalog.spec import ModelSpec
from checks import cli
from checks.data.splits import Rows as SplitSide
from checks.data.splits import SplitRows
from checks.errors import GateInputError, GateUnavailableError
from checks.gate import run_gate
from checks.service import judgement
from checks.service.declarations import Declared
from checks.service.judgement import judge_version
from registry.client.registry import REPORT_SUFFIXES, Registry, Version
from registry.errors import KeyFileError, RegistryUnavailableError
from registry.evidence import keys
from registry.evidence.attestation import read_unverified
from registry.evidence.verdict import DataOrigin, Verdict
from registry.model_format.onnx_model import OnnxModel
from registry.names import DATASET, EVIDENCE
from registry.settings import KeySettings
from tests.checks.support.memory_registry import MemoryClient
from tests.checks.support.sample_models import Rows, Small, StandIn, onnx_bytes
from tests.evidence import MLMODEL

PASSED = """cat > $3/outcomes.json <<'END'
{"outcomes": [{"check": "First", "status": "passed", "reason": "a [good] one"},
              {"check": "Second", "status": "passed", "reason": "fine"}]}
END"""
FAILED = PASSED.replace('"status": "passed", "reason": "fine"', '"status": "failed", "reason": "drifted"')


Add = Callable[..., Version]


@pytest.fixture
def add(small: Small, stand_in: StandIn, tmp_path: Path) -> Add:
    """Register a version that passed, with evidence that is signed with the home's key."""
    spec, (train, test), _ = small
    keys.create("gate", KeySettings())
    stand_in(PASSED)

    def register(client: MemoryClient, stage: str = "None", trees: int = 1) -> Version:
        content = onnx_bytes(spec, GradientBoostingRegressor(n_estimators=trees), train)
        folder = tmp_path / f"gate{len(client.found)}"
        made = run_gate(spec, train=train, test=test, model=OnnxModel(content), report_dir=folder)
        files = {f"run/gate/{file.name}": file.read_bytes() for file in folder.iterdir()}
        version = client.add({**files, "model/model.onnx": content, "model/MLmodel": MLMODEL}, stage)
        reports = {
            path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in REPORT_SUFFIXES
        }
        Registry(client).attest(version, made, KeySettings(), reports)  # type: ignore[arg-type]
        return version

    return register


@pytest.fixture
def client(add: Add, small: Small, monkeypatch: pytest.MonkeyPatch) -> MemoryClient:
    """A registry with one version that passed."""
    client = MemoryClient()
    add(client)
    monkeypatch.setattr(cli, "TrackingClient", client)
    monkeypatch.setattr(cli, "request_verdict", lambda *version: judge_version(Registry(client), *version))
    declare(monkeypatch, small[0], small[1])
    return client


def declare(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec, rows: Rows) -> None:
    """Let the catalogue declare `energy` as this, with these rows as its table."""
    origin = DataOrigin(source="rows", declared=True)
    monkeypatch.setattr(cli, "find_spec", lambda *_: spec)
    monkeypatch.setattr(judgement, "find_declared", lambda *_: Declared(spec, origin))
    train, test = (SplitSide(frame[list(spec.features)], frame[["energy"]], "energy") for frame in rows)
    monkeypatch.setattr(judgement, "load_rows", lambda _: SplitRows(train, test, []))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.gate, ["energy", *arguments], env={"COLUMNS": "200"})


def test_stored_verdict_that_passed(client: MemoryClient) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "energy version 1 passed: it may leave the green room."
    assert lines[-1] == "2 of 2 checks passed; --verbose shows each."
    assert "a [good] one" not in result.output
    every = run("--verbose")
    assert every.exit_code == 0, every.output
    assert "      a [good] one" in every.output


def test_json(client: MemoryClient) -> None:
    answer = json.loads(run("1", "--json").stdout)
    assert (answer["version"], answer["passed"], answer["reason"]) == (1, True, None)
    assert answer["verdict"]["outcomes"][0]["check"] == "First"


def test_markdown(client: MemoryClient, stand_in: StandIn) -> None:
    said = run("--markdown")
    assert said.exit_code == 0
    assert said.stdout.startswith("### ✅ energy version 1: passed\n")
    assert "with no version in Production to compare with" in said.stdout
    assert "| First | required | passed | a [good] one |" in said.stdout
    stand_in(FAILED.replace("drifted", "a | <b>pipe</b>"))
    refused = run("--rerun", "--markdown")
    assert refused.exit_code == 1
    assert refused.stdout.startswith("### ❌ energy version 1: refused\n\nThe gate refused energy version 1")
    assert "| Second | required | failed | a \\| &lt;b>pipe&lt;/b> |" in refused.stdout


def test_rerun_that_refuses_replaces_the_verdict(client: MemoryClient, stand_in: StandIn) -> None:
    stand_in(FAILED)
    result = run("--rerun")
    assert result.exit_code == 1
    assert "The gate refused energy version 1: Second failed" in result.output
    assert "drifted" in result.output
    # What refuses comes before all else about checks; what passed is counted.
    assert "These checks refuse it:\n  Second failed" in result.output
    assert "First" not in result.output
    assert result.output.rstrip().endswith("1 of 2 checks passed; --verbose shows each.")
    assert not Verdict.model_validate_json(client.files["1/run/gate/verdict.json"]).passed
    again = run("--json")
    assert again.exit_code == 1
    answer = json.loads(again.stdout)
    assert answer["passed"] is False
    assert "Second failed" in answer["reason"]


def test_rerun_that_passes(client: MemoryClient) -> None:
    before, tags = client.files["1/run/gate/verdict.json"], client.found[1]["tags"][:]
    assert run("--rerun").exit_code == 0
    assert client.files["1/run/gate/verdict.json"] != before  # a new time
    (tag,) = client.found[1]["tags"]
    assert tag["key"] == EVIDENCE
    assert tags != [tag]
    made = read_unverified(tag["value"])
    assert made is not None
    verdict = Verdict.model_validate_json(client.files["1/run/gate/verdict.json"])
    assert (made.passed, made.created_at) == (True, verdict.created_at)
    assert set(made.files) == {"MLmodel", "model.onnx"}


def test_rerun_on_rows_that_were_exchanged(client: MemoryClient) -> None:
    """The gate reads its rows from their source: what lies in the run is no input, and is replaced."""
    genuine = client.files["1/run/gate/test.parquet"]
    client.files["1/run/gate/test.parquet"] = client.files["1/run/gate/train.parquet"]
    (before,) = client.found[1]["tags"]
    assert run("--rerun").exit_code == 0
    (after,) = client.found[1]["tags"]
    signed = [read_unverified(tag["value"]) for tag in (before, after)]
    assert signed[0]
    assert signed[1]
    for side in ("dataset/train", "dataset/test"):
        assert signed[0].configuration[side] == signed[1].configuration[side]
    assert client.files["1/run/gate/test.parquet"] == genuine


def test_rerun_after_the_table_changed_is_refused(client: MemoryClient) -> None:
    """Rows that are held out now were perhaps trained on then."""
    client.found[1]["tags"].append({"key": DATASET, "value": "sha256:" + "0" * 64})
    before = client.found[1]["tags"][:]
    result = run("--rerun")
    assert result.exit_code == 2
    assert "changed since energy version 1 was trained" in result.output
    assert client.found[1]["tags"] == before


def test_version_in_a_stage_with_other_bytes_gets_no_evidence(client: MemoryClient) -> None:
    client.found[1]["current_stage"] = "Staging"
    client.files["1/model/MLmodel"] += b" "
    before = client.found[1]["tags"][:]
    result = run("--rerun")
    assert result.exit_code == 2
    assert "does not hold the files that it came there with" in result.output
    assert client.found[1]["tags"] == before


def test_rerun_without_a_key_stops_before_the_work(
    client: MemoryClient, stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in(f"touch {tmp_path}/ran\n{PASSED}")
    KeySettings().gate_key_path.unlink()
    before = dict(client.files)
    result = run("--rerun")
    assert isinstance(result.exception, KeyFileError)
    assert "There is no gate key to sign with" in str(result.exception)
    assert "greenroom keys create gate" in str(result.exception)
    assert not (tmp_path / "ran").exists()
    assert client.files == before
    # What was signed before still holds.
    assert run().exit_code == 0


def test_bytes_that_were_not_checked_are_refused(client: MemoryClient) -> None:
    client.files["1/model/model.onnx"] += b" "
    result = run()
    assert result.exit_code == 1
    assert "does not hold the bytes that were checked: model.onnx (differs)" in result.output


def test_file_that_was_added_is_refused(client: MemoryClient) -> None:
    client.files["1/model/code/extra.py"] = b"import os"
    result = run()
    assert result.exit_code == 1
    assert "code/extra.py (was added)" in result.output


def test_verdict_that_nobody_signed_is_refused(client: MemoryClient) -> None:
    client.untag()
    result = run()
    assert result.exit_code == 1
    assert "energy version 1 has no evidence of the gate" in result.output
    assert "may leave" not in result.output
    assert run("--rerun").exit_code == 0
    assert run().exit_code == 0


def test_evidence_of_a_key_that_is_not_trusted_here_is_refused(client: MemoryClient) -> None:
    for file in (KeySettings().trusted_keys_path / "gate").iterdir():
        file.unlink()
    result = run()
    assert result.exit_code == 1
    assert "`greenroom keys list`" in result.output


def test_evidence_of_another_policy_is_refused(
    client: MemoryClient, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, rows, _ = small
    looser = spec.model_copy(update={"gate": spec.gate.model_copy(update={"max_worse": 0.1})})
    declare(monkeypatch, looser, rows)
    result = run()
    assert result.exit_code == 1
    assert "was made under another gate policy" in result.output
    assert run("--rerun").exit_code == 0


def test_version_without_verdict_is_judged_by_its_evidence(client: MemoryClient) -> None:
    del client.files["1/run/gate/verdict.json"]
    assert json.loads(run("--json").stdout)["verdict"] is None
    client.untag()
    assert run().exit_code == 1
    assert run("--rerun").exit_code == 0
    assert Verdict.model_validate_json(client.files["1/run/gate/verdict.json"]).passed


def test_rerun_compares_with_what_is_in_production_now(client: MemoryClient, add: Add) -> None:
    add(client, "Production", trees=2)
    # The first version was checked when there was none.
    result = run("1")
    assert result.exit_code == 1
    assert "was compared with no version in Production, and now version 2" in result.output
    result = run("1", "--rerun", "--json")
    verdict = Verdict.model_validate(json.loads(result.stdout)["verdict"])
    assert verdict.incumbent == Registry(client).identity(Registry(client).version("energy", 2))  # type: ignore[arg-type]
    (compared,) = [o for o in verdict.outcomes if o.check == "IncumbentComparison"]
    assert compared.required
    assert "of version 2 in Production" in compared.reason
    assert result.exit_code == (0 if compared.status == "passed" else 1)
    assert "compared with version 2 in Production" in run("1", "--markdown").stdout


@pytest.mark.parametrize("content", [b"garbage", None])
def test_incumbent_that_cannot_be_loaded_is_a_comparison_that_failed(
    client: MemoryClient, add: Add, content: bytes | None
) -> None:
    add(client, "Production", trees=2)
    if content:
        client.files["2/model/model.onnx"] = content
    else:
        del client.files["2/model/model.onnx"]
    result = run("1", "--rerun", "--json")
    assert result.exit_code == 1
    (compared,) = [
        o for o in json.loads(result.stdout)["verdict"]["outcomes"] if o["check"] == "IncumbentComparison"
    ]
    assert compared["status"] == "error"


def test_incumbent_of_a_form_that_the_gate_does_not_judge_is_not_loaded(
    client: MemoryClient, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An override may have brought to Production what would hang or end the gate."""
    add(client, "Production", trees=2)
    incumbent = client.files["2/model/model.onnx"]

    def refuse(content: bytes) -> None:
        if content == incumbent:
            raise GateInputError("The ONNX file holds a loop")

    monkeypatch.setattr(judgement, "require_plain_file", refuse)
    result = run("1", "--rerun")
    assert result.exit_code == 1, result.output
    assert "could not be compared with version 2 in Production: GateInputError" in " ".join(
        result.output.split()
    )


def test_incumbent_whose_bytes_were_exchanged_is_nothing_to_be_better_than(
    client: MemoryClient, add: Add
) -> None:
    """The server asks for a comparison with what was promoted, so a pass here would be none there."""
    add(client, "Production", trees=2)
    client.files["2/model/model.onnx"] = client.files["1/model/model.onnx"]
    result = run("1", "--rerun")
    assert result.exit_code == 1
    assert "may leave the green room" not in result.output


def test_version_in_production_is_not_compared_with_itself(client: MemoryClient) -> None:
    client.found[1]["current_stage"] = "Production"
    assert run().exit_code == 0
    assert run("--rerun").exit_code == 0
    verdict = Verdict.model_validate_json(client.files["1/run/gate/verdict.json"])
    assert verdict.incumbent is None
    assert [o.check for o in verdict.outcomes] == ["First", "Second"]


def test_could_not_tell(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("2").exit_code == 2
    monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", "/nowhere")
    # The command line's main gives these two errors the exit code 2.
    assert isinstance(run("--rerun").exception, GateUnavailableError)
    client.answers = False
    assert isinstance(run("1").exception, RegistryUnavailableError)
    client.found = {}
    assert run().exit_code == 2
