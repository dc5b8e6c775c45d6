"""Whether a model passed is worked out from the outcomes, never read."""

import json
from hashlib import sha256

import pytest
from pydantic import ValidationError

from catalog.spec import GatePolicy
from registry.digests import digest
from registry.evidence.verdict import Status, Verdict, policy_digest
from tests.registry.support.registered import CONTENT, POLICY, outcome, verdict


def test_all_required_passed_is_passed() -> None:
    assert verdict("m").passed
    assert verdict("m").refusals == []


@pytest.mark.parametrize("status", ["failed", "error", "not_run", "missing"])
def test_anything_but_passed_counts_against_a_required_check(status: Status) -> None:
    found = verdict("m", outcome("A"), outcome("B", status))
    assert not found.passed
    assert [refusal.check for refusal in found.refusals] == ["B"]


def test_nothing_required_is_not_passed() -> None:
    assert not verdict("m", outcome("A", required=False)).passed
    assert not verdict("m").model_copy(update={"outcomes": ()}).passed


@pytest.mark.parametrize("claimed", [True, "yes", None])
def test_a_stored_passed_is_never_believed(claimed: object) -> None:
    stored = json.loads(verdict("m", outcome("A", "failed")).model_dump_json())
    assert stored["passed"] is False
    assert not Verdict.model_validate_json(json.dumps({**stored, "passed": claimed})).passed


def test_a_verdict_survives_being_stored() -> None:
    before = verdict("m")
    assert Verdict.model_validate_json(before.model_dump_json()) == before


def test_two_outcomes_for_one_check_are_refused() -> None:
    with pytest.raises(ValidationError, match="two outcomes for one check"):
        verdict("m", outcome("A", "failed"), outcome("A"))


def test_an_unknown_status_or_field_is_refused() -> None:
    stored = json.loads(verdict("m", outcome("A")).model_dump_json())
    with pytest.raises(ValidationError, match="override"):
        Verdict.model_validate({**stored, "override": True})
    stored["outcomes"][0]["status"] = "PASSED"
    with pytest.raises(ValidationError, match="status"):
        Verdict.model_validate(stored)


def test_digests_are_of_the_bytes_and_of_the_rules() -> None:
    assert digest(CONTENT) == f"sha256:{sha256(CONTENT).hexdigest()}"
    looser = GatePolicy(
        checks=(
            POLICY.checks[0].model_copy(update={"condition_params": {"threshold": 9}}),
            *POLICY.checks[1:],
        )
    )
    assert policy_digest(looser) != policy_digest(POLICY)
    assert policy_digest(POLICY.model_copy()) == policy_digest(POLICY)
