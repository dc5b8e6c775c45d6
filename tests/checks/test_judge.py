"""What a verdict says, without any worker."""

from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from catalog.policies import CLASSIFICATION, REGRESSION, WEAK_SIGNAL_REGRESSION
from catalog.spec import Check, GatePolicy, ModelSpec
from checks.errors import GateInputError
from checks.frames import checked_frame, frame_digest, from_parquet, to_parquet
from checks.gate import judge, run_gate
from checks.job import RawOutcome, WorkerRun
from registry.evidence.verdict import Status, Verdict, policy_digest
from tests.checks.support.sample_models import Small

POLICY = GatePolicy(
    checks=(
        Check(check="Needed", suite="data_integrity", condition="some", why="a test"),
        Check(check="Told", suite="data_integrity", condition="some", why="a test", required=False),
    )
)


def verdict(needed: Status, told: Status = "passed") -> Verdict:
    outcomes = {
        name: RawOutcome(check=name, status=status, reason="so")
        for name, status in (("Needed", needed), ("Told", told))
        if status != "missing"
    }
    return Verdict(
        model="m",
        task="regression",
        model_digest="sha256:0",
        policy_digest=policy_digest(POLICY),
        dataset_digests={},
        outcomes=judge(POLICY, WorkerRun(outcomes)),
    )


@pytest.mark.parametrize("status", ["failed", "error", "not_run", "missing"])
def test_every_status_but_passed_refuses(status: Status) -> None:
    refused = verdict(status)
    assert not refused.passed
    assert [(o.check, o.status) for o in refused.refusals] == [("Needed", status)]


@pytest.mark.parametrize("status", ["passed", "failed", "error", "not_run", "missing"])
def test_a_check_that_is_not_required_never_refuses(status: Status) -> None:
    assert verdict("passed", status).passed


def test_required_is_read_from_the_policy_alone() -> None:
    raw = RawOutcome.model_validate({"check": "Needed", "status": "failed", "reason": "", "required": False})
    assert judge(POLICY, WorkerRun({"Needed": raw}))[0].required


def test_stored_passed_is_never_believed() -> None:
    stored = verdict("failed").model_dump_json().replace('"passed":false', '"passed":true')
    assert '"passed":true' in stored
    assert not Verdict.model_validate_json(stored).passed


def test_a_verdict_without_outcomes_does_not_pass() -> None:
    assert not verdict("passed").model_copy(update={"outcomes": ()}).passed


def test_a_policy_that_requires_nothing_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="requires no check"):
        GatePolicy(checks=())
    with pytest.raises(ValidationError, match="requires no check"):
        GatePolicy(checks=(POLICY.checks[1],))


@pytest.mark.parametrize("policy", [CLASSIFICATION, REGRESSION, WEAK_SIGNAL_REGRESSION])
def test_policies_require_leakage_drift_and_a_baseline(policy: GatePolicy) -> None:
    required = {check.check for check in policy.checks if check.required}
    assert required >= {
        "FeatureLabelCorrelation",
        "TrainTestSamplesMix",
        "FeatureDrift",
        "LabelDrift",
        "TrainTestPerformance",
        "SimpleModelComparison",
    }


def test_digest_is_of_the_content(genre: ModelSpec) -> None:
    frame = pd.DataFrame({**{name: [0.5, 1.0] for name in genre.features}, genre.target: ["rock", "metal"]})
    checked = checked_frame(genre, frame, "training")
    again = checked_frame(genre, from_parquet(to_parquet(checked)), "training")
    assert frame_digest(again) == frame_digest(checked)
    assert frame_digest(checked.iloc[::-1]) != frame_digest(checked)
    assert frame_digest(checked.assign(track_genre="rock")) != frame_digest(checked)
    whole = pd.DataFrame({"n": [1, 2]})
    assert frame_digest(whole) == frame_digest(whole.astype("float64"))


def test_rows_that_do_not_fit_the_declaration(energy: ModelSpec) -> None:
    frame = pd.DataFrame({name: [0.5] for name in (*energy.features, "energy")})
    with pytest.raises(GateInputError, match="lack tempo"):
        checked_frame(energy, frame.drop(columns="tempo"), "training")
    with pytest.raises(GateInputError, match="no held-out rows"):
        checked_frame(energy, frame.head(0), "held-out")
    with pytest.raises(GateInputError, match="not all numbers"):
        checked_frame(energy, frame.assign(tempo="fast"), "training")
    with pytest.raises(GateInputError, match="not a Parquet file"):
        from_parquet(b"nonsense")


def test_model_that_does_not_fit_the_declaration(
    small: Small, energy: ModelSpec, genre: ModelSpec, tmp_path: Path
) -> None:
    _, (train, test), model = small
    for spec, words in ((energy, "reads danceability, valence"), (genre, "is a classification")):
        with pytest.raises(GateInputError, match=words):
            run_gate(spec, train=train, test=test, model=model, report_dir=tmp_path)
