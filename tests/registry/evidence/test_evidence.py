"""Evidence, overrides and rollbacks at the real server: each kind of bad one refused in its own words."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from registry import audit
from registry.client import audit_log
from registry.client.registry import MODEL_FILE, Version
from registry.errors import KeyFileError, RegistryRefusedError
from registry.evidence import keys
from registry.evidence.attestation import attest_override
from registry.evidence.statement import PAYLOAD_TYPE
from registry.evidence.verdict import Incumbent
from registry.names import EVIDENCE, GATE, OVERRIDE, Stage
from registry.settings import KeySettings
from tests.registry.support.registered import Registrar, verdict


def refuse_tag(registrar: Registrar, version: Version, key: str, value: str, *why: str) -> None:
    code, says = why
    with pytest.raises(RegistryRefusedError, match=says):
        registrar.registry.tag(version, key, value)
    assert last(registrar).code == code


def refuse_move(
    registrar: Registrar, version: Version, code: str, says: str, *stages: Stage, unchanged: bool = True
) -> None:
    for stage in stages or (Stage.STAGING, Stage.PRODUCTION):
        body = {"name": version.model, "version": str(version.number), "stage": stage.value}
        with pytest.raises(RegistryRefusedError, match=says):
            registrar.client.post("model-versions/transition-stage", body)
        assert last(registrar).code == code
        if unchanged:
            assert registrar.registry.version(version.model, version.number).stage is version.stage


def last(registrar: Registrar) -> audit.AuditEntry:
    return audit_log.history(registrar.client, registrar.name)[-1]


def new(registrar: Registrar) -> Version:
    return registrar.version(verdict(registrar.name))


def edited(envelope: str, **changed: Any) -> str:
    """The envelope with another predicate under the old signature."""
    raw = json.loads(envelope)
    payload = json.loads(base64.b64decode(raw["payload"]))
    payload["predicate"].update(changed)
    return json.dumps({**raw, "payload": base64.b64encode(json.dumps(payload).encode()).decode()})


def test_missing(registrar: Registrar) -> None:
    refuse_move(registrar, new(registrar), "missing", "has no evidence of the gate")


def test_failed(registrar: Registrar) -> None:
    version = registrar.gate.attest(new(registrar), passed=False)
    assert version.tags[GATE] == "refused"
    refuse_move(registrar, version, "failed", "The gate refused .* Performance failed")


def test_unsigned(registrar: Registrar, sql: Any) -> None:
    version = registrar.good()
    bare = json.dumps({**json.loads(version.tags[EVIDENCE]), "signatures": []})
    refuse_tag(registrar, version, EVIDENCE, bare, "unsigned", "is not signed")
    set_by_sql(sql, version, EVIDENCE, bare)
    refuse_move(registrar, version, "unsigned", "is not signed")


def test_forged(registrar: Registrar, sql: Any) -> None:
    version = registrar.gate.attest(new(registrar), passed=False)
    forged = edited(version.tags[EVIDENCE], result="PASSED", failedTests=[])
    refuse_tag(registrar, version, EVIDENCE, forged, "forged", "not what that key signed")
    set_by_sql(sql, version, EVIDENCE, forged)
    refuse_move(registrar, version, "forged", "not what that key signed")


def test_wrong_key(registrar: Registrar, tmp_path: Path, sql: Any) -> None:
    own = KeySettings(gate_key=str(tmp_path / "gate.pem"), trusted_keys=str(tmp_path / "trusted"))
    keys.create("gate", own)
    version = new(registrar)
    envelope = registrar.gate.envelope(version, signer=keys.signer("gate", own))
    refuse_tag(registrar, version, EVIDENCE, envelope, "wrong-key", "not among the trusted gate keys")
    set_by_sql(sql, version, EVIDENCE, envelope)
    refuse_move(registrar, version, "wrong-key", "not among the trusted gate keys")


def test_an_operators_key_is_no_gate_key(registrar: Registrar) -> None:
    version = new(registrar)
    envelope = registrar.gate.envelope(version, signer=keys.signer("operator", registrar.gate.settings))
    refuse_tag(registrar, version, EVIDENCE, envelope, "wrong-key", "not among the trusted gate keys")


def test_foreign(registrar: Registrar, sql: Any) -> None:
    first, second = registrar.good(), new(registrar)
    for wrong in (first.tags[EVIDENCE], registrar.gate.envelope(second, source="models:/m-other")):
        refuse_tag(registrar, second, EVIDENCE, wrong, "foreign", "is about")
        set_by_sql(sql, second, EVIDENCE, wrong)
        refuse_move(registrar, second, "foreign", "is about")


def test_expired(registrar: Registrar) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=31)
    version = registrar.gate.attest(new(registrar), created_at=long_ago)
    refuse_move(registrar, version, "stale", "is 31 days old")
    renewed = registrar.gate.attest(version)
    assert registrar.registry.promote(renewed, Stage.STAGING).stage is Stage.STAGING


def test_from_the_future(registrar: Registrar, sql: Any) -> None:
    version = new(registrar)
    tomorrow = registrar.gate.envelope(version, created_at=datetime.now(UTC) + timedelta(days=1))
    soon = registrar.gate.envelope(version, created_at=datetime.now(UTC) + timedelta(minutes=1))
    for envelope in (tomorrow, soon):
        refuse_tag(registrar, version, EVIDENCE, envelope, "stale", "in the future")
        set_by_sql(sql, version, EVIDENCE, envelope)
        refuse_move(registrar, version, "stale", "in the future")
    # A clock that was ahead keeps nobody from looking again.
    version = registrar.gate.attest(version)
    assert registrar.registry.promote(version, Stage.STAGING).stage is Stage.STAGING


def test_from_a_clock_that_is_seconds_ahead(registrar: Registrar) -> None:
    version = registrar.gate.attest(new(registrar), created_at=datetime.now(UTC) + timedelta(seconds=2))
    assert registrar.registry.promote(version, Stage.STAGING).stage is Stage.STAGING


@pytest.mark.parametrize("retired", [False, True])
def test_in_a_stage_evidence_is_renewed_for_the_same_files_alone(
    registrar: Registrar, sql: Any, retired: bool
) -> None:
    """Else a version in Production would be another one tomorrow, under the same number."""
    version = registrar.in_production()
    if retired:  # what is there is nobody's any more; the audit still says what came into Production
        set_by_sql(sql, version, EVIDENCE, "{}")
    other = {**registrar.registry.files(version), MODEL_FILE: "0" * 64}
    envelope = registrar.gate.envelope(version, files=other)
    refuse_tag(registrar, version, EVIDENCE, envelope, "bytes", "can only be renewed for the same files")
    by_operator = override(registrar, version, files=other, incumbent=None)
    refuse_tag(registrar, version, OVERRIDE, by_operator, "bytes", "can only be renewed for the same files")
    renewed = registrar.gate.attest(version)
    assert renewed.stage is Stage.PRODUCTION
    # Out of its stage it may be about other files: they count when it comes back.
    registrar.registry.promote(renewed, Stage.ARCHIVED)
    registrar.gate.attest(renewed, files=other)


def test_nor_for_what_came_into_its_stage_without_evidence(registrar: Registrar, sql: Any) -> None:
    version = registrar.good()
    sql.execute("UPDATE model_versions SET current_stage = 'Production' WHERE name = %s", (version.model,))
    other = {**registrar.registry.files(version), MODEL_FILE: "0" * 64}
    envelope = registrar.gate.envelope(version, files=other)
    refuse_tag(registrar, version, EVIDENCE, envelope, "bytes", "can only be renewed for the same files")
    assert registrar.gate.attest(version).stage is Stage.PRODUCTION


def test_tampered(registrar: Registrar) -> None:
    version = registrar.good()
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    refuse_move(registrar, version, "bytes", "does not hold the bytes that were checked")


def test_files_that_were_never_there(registrar: Registrar) -> None:
    version = new(registrar)
    files = {**registrar.registry.files(version), "more.bin": "0" * 64}
    refuse_move(registrar, registrar.gate.attest(version, files=files), "bytes", r"more\.bin \(is gone\)")


def test_files_that_no_served_version_holds(registrar: Registrar) -> None:
    """Whoever signed them: consumers of `models:/…` would load them."""
    version = new(registrar)
    registrar.client.put_artifact(registrar.artifact_uri(version), "code/evil.py", b"import os")
    version = registrar.gate.attest(version)
    refuse_move(registrar, version, "files", r"code/evil\.py may not be there")
    registrar.registry.tag(version, OVERRIDE, override(registrar, version))
    refuse_move(registrar, version, "files", r"code/evil\.py may not be there")


def test_from_before_every_file_was_looked_at(registrar: Registrar) -> None:
    version = new(registrar)
    envelope = signed_anew(registrar, registrar.gate.envelope(version), lambda p: p.pop("greenroom_artifact"))
    registrar.registry.tag(version, EVIDENCE, envelope)
    refuse_move(registrar, version, "stale", "before the gate looked at every file.*--rerun")
    version = registrar.registry.version(version.model, version.number)
    assert registrar.registry.evidence(version, registrar.gate.settings).passed, "it still speaks for it"
    assert registrar.registry.promote(registrar.gate.attest(version), Stage.STAGING).stage is Stage.STAGING


def signed_anew(registrar: Registrar, envelope: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """Another predicate, truly signed."""
    payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    change(payload["predicate"])
    made = Envelope(json.dumps(payload).encode(), PAYLOAD_TYPE, {})
    made.sign(keys.signer("gate", registrar.gate.settings))
    return json.dumps(made.to_dict())


def test_another_incumbent(registrar: Registrar) -> None:
    challenger, other = registrar.good(), registrar.good()
    registrar.gate.to_production(other)
    refuse_move(
        registrar, challenger, "incumbent", f"no version in Production, and now version {other.number}"
    )


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:" + "f" * 64])
def test_an_incumbent_with_other_bytes(registrar: Registrar, digest: str) -> None:
    champion = registrar.in_production()
    wrong = Incumbent(version=champion.number, digest=digest)
    version = registrar.gate.attest(new(registrar), incumbent=wrong)
    refuse_move(registrar, version, "incumbent", "was compared with version")


def test_replayed(registrar: Registrar) -> None:
    """Evidence counts once: a version that was rolled back from does not come back on what it came with."""
    registrar.in_production()
    second = registrar.in_production()
    envelope = registrar.registry.version(registrar.name, second.number).tags[EVIDENCE]
    first = registrar.registry.version(registrar.name, 1)
    registrar.registry.rollback(first, "it hums")
    second = registrar.registry.version(registrar.name, second.number)
    registrar.registry.tag(second, EVIDENCE, envelope)  # the same again does no harm
    refuse_move(registrar, second, "replayed", "counts once", Stage.PRODUCTION)
    again = registrar.gate.to_production(second)
    assert again.stage is Stage.PRODUCTION


def test_older_evidence_does_not_replace_newer(registrar: Registrar) -> None:
    """What passed yesterday is not put over today's refusal."""
    version = new(registrar)
    passed = registrar.gate.envelope(version, created_at=datetime.now(UTC) - timedelta(days=1))
    registrar.registry.tag(version, EVIDENCE, passed)
    version = registrar.gate.attest(version, passed=False)
    refuse_tag(registrar, version, EVIDENCE, passed, "stale", "has newer evidence already")
    assert registrar.registry.version(version.model, version.number).tags[GATE] == "refused"


def test_kinds_do_not_stand_in_for_each_other(registrar: Registrar) -> None:
    version = registrar.good()
    envelope = override(registrar, version)
    refuse_tag(registrar, version, EVIDENCE, envelope, "missing", "another kind of evidence")
    refuse_tag(registrar, version, OVERRIDE, version.tags[EVIDENCE], "missing", "another kind of evidence")


def set_by_sql(sql: Any, version: Version, key: str, value: str) -> None:
    sql.execute(
        "INSERT INTO model_version_tags (workspace, name, version, key, value) "
        "VALUES ('default', %s, %s, %s, %s) "
        "ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value",
        (version.model, version.number, key, value),
    )


# Overrides


def override(registrar: Registrar, version: Version, **changed: Any) -> str:
    settings = registrar.gate.settings
    current = registrar.registry.in_stage(version.model, Stage.PRODUCTION)
    options: dict[str, Any] = {
        "model": version.model,
        "version": version.number,
        "source": version.source,
        "files": registrar.registry.files(version),
        "incumbent": registrar.registry.identity(current) if current else None,
        "reason": "the shop is on fire",
        "operator": "olga",
        "signer": keys.signer("operator", settings),
    }
    return attest_override(**{**options, **changed})


def test_an_override_promotes_and_stands_out(registrar: Registrar) -> None:
    champion = registrar.in_production()
    version = registrar.gate.attest(new(registrar), passed=False)
    settings = registrar.gate.settings
    moved = registrar.registry.override(
        version, Stage.PRODUCTION, reason="the shop is on fire", operator="olga", settings=settings
    )
    assert moved.stage is Stage.PRODUCTION
    assert registrar.registry.version(version.model, champion.number).stage is Stage.ARCHIVED
    row = next(r for r in audit_log.history(registrar.client, registrar.name) if r.action == "override")
    assert (row.version, row.to_stage, row.reason) == (version.number, "Production", "the shop is on fire")
    assert (row.message or "").startswith("Overrode: The gate refused")
    assert row.incumbent == champion.number
    assert "olga" in base64.b64decode(json.loads(row.envelope or "")["payload"]).decode()


def test_an_override_needs_an_operators_key(registrar: Registrar, tmp_path: Path) -> None:
    settings = KeySettings(operator_key=str(tmp_path / "none.pem"), trusted_keys=str(tmp_path / "trusted"))
    version = new(registrar)
    with pytest.raises(KeyFileError, match="keys create operator"):
        registrar.registry.override(
            version, Stage.PRODUCTION, reason="because", operator="eve", settings=settings
        )
    by_gate = override(registrar, version, signer=keys.signer("gate", registrar.gate.settings))
    refuse_tag(registrar, version, OVERRIDE, by_gate, "wrong-key", "trusted operator keys")
    assert registrar.registry.version(version.model, version.number).stage is Stage.NONE


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"created_at": datetime.now(UTC) - timedelta(hours=1)}, "minutes old"),
        ({"files": {"model.onnx": "0" * 64}}, "does not hold the bytes"),
        ({"incumbent": Incumbent(version=9, digest="sha256:" + "9" * 64)}, "was compared with version 9"),
    ],
)
def test_an_override_that_does_not_hold(registrar: Registrar, changed: dict[str, Any], says: str) -> None:
    version = new(registrar)
    registrar.registry.tag(version, OVERRIDE, override(registrar, version, **changed))
    refuse_move(registrar, version, "missing", f"There is an override, which does not hold either.*{says}")


def test_an_override_counts_once(registrar: Registrar) -> None:
    first = registrar.in_production()
    version = new(registrar)
    registrar.registry.tag(version, OVERRIDE, override(registrar, version))
    body = {"name": version.model, "version": str(version.number), "stage": "Production"}
    registrar.client.post("model-versions/transition-stage", body)
    registrar.registry.rollback(registrar.registry.version(first.model, first.number), "it was worse")
    version = registrar.registry.version(version.model, version.number)
    refuse_move(registrar, version, "missing", "which does not hold either.*counts once", Stage.PRODUCTION)


def test_an_override_of_what_is_there_already_is_written_down(registrar: Registrar, sql: Any) -> None:
    """How a version from before the guard gets a signature that the predictor believes."""
    version = new(registrar)
    sql.execute("UPDATE model_versions SET current_stage = 'Production' WHERE name = %s", (version.model,))
    settings = registrar.gate.settings
    registrar.registry.override(
        version, Stage.PRODUCTION, reason="was there before", operator="olga", settings=settings
    )
    row = last(registrar)
    assert (row.action, row.from_stage, row.to_stage) == ("override", "Production", "Production")
    found = registrar.registry.evidence(registrar.registry.version(version.model, version.number), settings)
    assert found.kind == "override"


# Rollbacks


def test_rollback_goes_to_the_last_good_version_and_not_back(registrar: Registrar) -> None:
    numbers = [registrar.in_production().number for _ in range(3)]
    registry = registrar.registry
    for target in (2, 1):
        moved = registry.rollback(registry.version(registrar.name, target), "it hums")
        assert (moved.number, moved.stage) == (target, Stage.PRODUCTION)
        assert last_move(registrar).action == "rollback"
        assert last_move(registrar).reason == "it hums"
    assert numbers == [1, 2, 3]
    with pytest.raises(RegistryRefusedError, match="a rollback left it behind"):
        registry.rollback(registry.version(registrar.name, 3), "changed my mind")
    stages = {v.number: v.stage for v in registry.versions(registrar.name)}
    assert stages == {1: Stage.PRODUCTION, 2: Stage.ARCHIVED, 3: Stage.ARCHIVED}


def last_move(registrar: Registrar) -> audit.AuditEntry:
    rows = audit_log.history(registrar.client, registrar.name)
    return next(row for row in reversed(rows) if row.to_stage == "Production")


def test_rollback_is_no_way_up_for_what_was_never_there(registrar: Registrar) -> None:
    registrar.in_production()
    with pytest.raises(RegistryRefusedError, match="was never in Production by right"):
        registrar.registry.rollback(registrar.good(), "let me in")


def test_rollback_needs_a_reason_and_whole_bytes(registrar: Registrar) -> None:
    first = registrar.in_production()
    second = registrar.in_production()
    with pytest.raises(RegistryRefusedError, match="needs a reason"):
        registrar.registry.rollback(first, "")
    registrar.client.put_artifact(registrar.artifact_uri(first), MODEL_FILE, b"other bytes")
    with pytest.raises(RegistryRefusedError, match="does not hold the bytes"):
        registrar.registry.rollback(first, "it hums")
    assert registrar.registry.version(second.model, second.number).stage is Stage.PRODUCTION


def test_rollback_does_not_ask_how_old_evidence_is(registrar: Registrar) -> None:
    """Nor whom it was compared with: it was good enough then, and this is an emergency."""
    first = registrar.in_production()
    registrar.in_production()
    old = registrar.gate.envelope(first, created_at=datetime.now(UTC) + timedelta(seconds=1))
    registrar.registry.tag(first, EVIDENCE, old)
    assert registrar.registry.rollback(first, "it hums").stage is Stage.PRODUCTION


def test_a_later_refusal_ends_that_a_version_is_good(registrar: Registrar) -> None:
    first = registrar.in_production()
    registrar.in_production()
    registrar.gate.attest(first, passed=False)
    with pytest.raises(RegistryRefusedError, match="The gate refused"):
        registrar.registry.rollback(first, "it hums")


def test_what_is_signed_and_can_be_understood_in_two_ways(registrar: Registrar, sql: Any) -> None:
    """The server reads as strictly as everybody else (test_statement.py has every kind)."""
    version = registrar.good()
    payload = json.loads(base64.b64decode(json.loads(version.tags[EVIDENCE])["payload"]))
    payload["subject"].append(payload["subject"][0])
    envelope = Envelope(json.dumps(payload).encode(), PAYLOAD_TYPE, {})
    envelope.sign(keys.signer("gate", registrar.gate.settings))
    text = json.dumps(envelope.to_dict())
    refuse_tag(registrar, version, EVIDENCE, text, "unreadable", "twice")
    set_by_sql(sql, version, EVIDENCE, text)
    refuse_move(registrar, version, "unreadable", "twice")
