"""The gate must refuse whatever way its worker fails, and say so when it could not tell."""

import json
import sys
from pathlib import Path

import pytest

from checks import job
from checks.errors import GateUnavailableError
from checks.gate import run_gate
from tests.checks.support.sample_models import Gate, Small, StandIn


def outcomes(*names: str, status: str = "passed") -> str:
    found = [{"check": name, "status": status, "reason": "fine", "value": 1.5} for name in names]
    return f"cat > $3/outcomes.json <<'END'\n{json.dumps({'outcomes': found})}\nEND"


def test_all_checks_passed(small: Small, gate: Gate, stand_in: StandIn) -> None:
    stand_in(outcomes("First", "Second"))
    verdict = gate(*small)
    assert verdict.passed
    assert [(o.check, o.suite, o.value) for o in verdict.outcomes] == [
        ("First", "data_integrity", 1.5),
        ("Second", "model_evaluation", 1.5),
    ]


@pytest.mark.parametrize("status", ["failed", "error", "not_run"])
def test_any_other_status_refuses(small: Small, gate: Gate, stand_in: StandIn, status: str) -> None:
    stand_in(outcomes("First", "Second", status=status))
    assert [o.status for o in gate(*small).refusals] == [status, status]


def test_worker_that_dies_leaves_what_it_had_found(small: Small, gate: Gate, stand_in: StandIn) -> None:
    stand_in(f"{outcomes('First')}\necho 'the last words' >&2\nkill -SEGV $$")
    verdict = gate(*small)
    assert not verdict.passed
    assert [o.status for o in verdict.outcomes] == ["passed", "missing"]
    assert "SIGSEGV" in verdict.outcomes[1].reason
    assert "the last words" in verdict.outcomes[1].reason


def test_worker_that_ends_well_without_a_word(small: Small, gate: Gate, stand_in: StandIn) -> None:
    stand_in("true")
    assert [o.status for o in gate(*small).refusals] == ["missing", "missing"]


def test_worker_that_leaves_out_a_check(small: Small, gate: Gate, stand_in: StandIn) -> None:
    stand_in(outcomes("First", "Other"))
    refused = gate(*small).refusals
    assert [(o.check, o.status) for o in refused] == [("Second", "missing")]


@pytest.mark.parametrize(
    "content",
    ["not JSON", '{"outcomes": [{"check": "First", "status": "fine", "reason": ""}]}', '{"passed": true}'],
)
def test_outcomes_that_cannot_be_read(small: Small, gate: Gate, stand_in: StandIn, content: str) -> None:
    stand_in(f"cat > $3/outcomes.json <<'END'\n{content}\nEND")
    refused = gate(*small).refusals
    assert [o.status for o in refused] == ["missing", "missing"]
    assert "cannot be read" in refused[0].reason


def test_two_outcomes_for_one_check(small: Small, gate: Gate, stand_in: StandIn) -> None:
    stand_in(outcomes("First", "Second", "Second"))
    assert "two outcomes" in gate(*small).refusals[0].reason


def test_worker_that_takes_too_long(
    small: Small, gate: Gate, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "TIMEOUT", 0.3)
    stand_in("sleep 60")
    refused = gate(*small).refusals
    assert [o.status for o in refused] == ["missing", "missing"]
    assert "longer than 0.3 s" in refused[0].reason


def test_no_environment(small: Small, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", "/nowhere/python")
    with pytest.raises(GateUnavailableError, match="make setup"):
        gate(*small)


def test_environment_without_deepchecks(small: Small, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_CHECKS_PYTHON", sys.executable)
    with pytest.raises(GateUnavailableError, match="deepchecks"):
        gate(*small)


def test_worker_gets_no_secrets(
    small: Small, gate: Gate, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    stand_in(f"env > {tmp_path}/seen")
    gate(*small)
    seen = (tmp_path / "seen").read_text()
    assert "hush" not in seen
    assert "GREENROOM" not in seen
    assert "DISABLE_DEEPCHECKS_ANONYMOUS_TELEMETRY=true" in seen


def test_old_reports_do_not_pass_for_new_ones(small: Small, stand_in: StandIn, tmp_path: Path) -> None:
    spec, (train, test), model = small
    (tmp_path / "data_integrity.html").write_text("of an older run")
    stand_in("exit 1")
    run_gate(spec, train=train, test=test, model=model, report_dir=tmp_path)
    assert not (tmp_path / "data_integrity.html").exists()
    assert json.loads((tmp_path / "checks.json").read_text())["outcomes"] == []
