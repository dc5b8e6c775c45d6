"""Signed evidence: what is written is what in-toto and DSSE say, and nothing else is believed."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.json_format import Parse
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from registry.digests import tree_digest
from registry.errors import (
    EvidenceError,
    EvidenceForgedError,
    EvidenceUnreadableError,
    EvidenceUnsignedError,
    EvidenceWrongKeyError,
    KeyFileError,
)
from registry.evidence import keys
from registry.evidence.attestation import (
    OVERRIDE,
    PAYLOAD_TYPE,
    STATEMENT_TYPE,
    TEST_RESULT,
    Evidence,
    attest_override,
    attest_verdict,
    read_unverified,
    verify,
)
from registry.evidence.verdict import Incumbent
from registry.settings import KeySettings
from tests.evidence import outcome
from tests.registry.support.registered import verdict

FILES = {"MLmodel": "1" * 64, "model.onnx": "a" * 64}
INCUMBENT = Incumbent(version=2, digest="sha256:" + "b" * 64)


@pytest.fixture
def settings() -> KeySettings:
    """Keys of a home of the test's own."""
    found = KeySettings()
    for role in keys.ROLES:
        keys.create(role, found)
    return found


@pytest.fixture
def envelope(settings: KeySettings) -> str:
    return gate_envelope(settings)


def gate_envelope(settings: KeySettings, **changed: Any) -> str:
    about = verdict("genre").model_copy(update={"incumbent": INCUMBENT, "git_commit": "c" * 40})
    options = {"version": 3, "source": "models:/m-1", "files": FILES, "report_digest": "sha256:" + "d" * 64}
    signer = changed.pop("signer", None) or keys.signer("gate", settings)
    return attest_verdict(changed.pop("verdict", about), **{**options, **changed}, signer=signer)


def override_envelope(settings: KeySettings, **changed: Any) -> str:
    options: dict[str, Any] = {"model": "genre", "version": 3, "source": "models:/m-1", "files": FILES}
    options |= {"incumbent": None, "reason": "the shop is on fire", "operator": "olga"}
    signer = changed.pop("signer", None) or keys.signer("operator", settings)
    return attest_override(**{**options, **changed}, signer=signer)


def believed(text: str, settings: KeySettings) -> Evidence:
    return verify(text, {role: keys.trusted(role, settings) for role in keys.ROLES})


def payload_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(text)["payload"]))
    return found


def with_payload(text: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """The same envelope and signatures around another payload."""
    raw, payload = json.loads(text), payload_of(text)
    change(payload)
    raw["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(raw)


def test_what_was_attested_is_what_is_read(settings: KeySettings, envelope: str) -> None:
    found = believed(envelope, settings)
    assert (found.kind, found.model, found.version, found.source) == ("gate", "genre", 3, "models:/m-1")
    assert found.files == FILES
    assert found.files_digest == tree_digest(FILES)
    assert found.incumbent == INCUMBENT
    assert found.passed
    assert found.report_digest == "sha256:" + "d" * 64
    assert found.configuration["code"] == {"gitCommit": "c" * 40}
    assert found.configuration["dataset/train"]
    assert found.policy_digest == verdict("genre").policy_digest
    assert found.keyid == keys.trusted("gate", settings)[0].keyid
    assert read_unverified(envelope) == Evidence(**{**found.__dict__, "keyid": ""})


def test_the_statement_is_in_totos(envelope: str) -> None:
    """Their own library reads and validates it, and the predicate has test-result's fields."""
    payload = payload_of(envelope)
    found = Parse(json.dumps(payload), statement_pb2.Statement(), ignore_unknown_fields=False)
    Statement.copy_from_pb(found).validate()
    assert (payload["_type"], payload["predicateType"]) == (STATEMENT_TYPE, TEST_RESULT)
    assert TEST_RESULT == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = payload["predicate"]
    assert predicate["result"] == "PASSED"
    assert (predicate["passedTests"], predicate["warnedTests"], predicate["failedTests"]) == (
        ["Performance", "Drift"],
        ["Segments"],
        [],
    )
    assert {found["name"] for found in predicate["configuration"]} >= {
        "policy",
        "report",
        "incumbent",
        "code",
    }
    assert json.loads(envelope)["payloadType"] == PAYLOAD_TYPE


def test_a_refusal_is_attested_as_one(settings: KeySettings) -> None:
    bad = verdict("genre", outcome("Performance"), outcome("Drift", "error"))
    found = believed(gate_envelope(settings, verdict=bad), settings)
    assert not found.passed
    assert found.failed_tests == ("Drift",)


def test_an_override_says_who_and_why(settings: KeySettings) -> None:
    found = believed(override_envelope(settings), settings)
    assert (found.kind, found.operator, found.reason) == ("override", "olga", "the shop is on fire")
    assert payload_of(override_envelope(settings))["predicateType"] == OVERRIDE


def test_without_a_signature_it_is_refused(settings: KeySettings, envelope: str) -> None:
    bare = json.dumps({**json.loads(envelope), "signatures": []})
    with pytest.raises(EvidenceUnsignedError, match="not signed"):
        believed(bare, settings)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["predicate"].update(result="PASSED", failedTests=[]),
        lambda p: p["predicate"].update(greenroom_version=4),
        lambda p: p["subject"][0]["digest"].update(sha256="f" * 64),
        lambda p: p["predicate"].update(greenroom_createdAt="2099-01-01T00:00:00+00:00"),
        lambda p: p["predicate"].update(configuration=[]),
    ],
)
def test_any_change_of_what_was_signed_is_a_forgery(settings: KeySettings, change: Any) -> None:
    bad = verdict("genre", outcome("Performance", "failed"))
    with pytest.raises(EvidenceForgedError, match="not what that key signed"):
        believed(with_payload(gate_envelope(settings, verdict=bad), change), settings)


def test_another_envelopes_signature_is_a_forgery(settings: KeySettings, envelope: str) -> None:
    other = json.loads(gate_envelope(settings, version=4))
    mixed = json.dumps({**json.loads(envelope), "signatures": other["signatures"]})
    with pytest.raises(EvidenceForgedError):
        believed(mixed, settings)


def test_a_key_that_is_not_trusted_is_refused(settings: KeySettings, envelope: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    others = KeySettings(gate_key=str(elsewhere / "gate.pem"), trusted_keys=str(elsewhere / "trusted"))
    keys.create("gate", others)
    with pytest.raises(EvidenceWrongKeyError, match="not among the trusted gate keys"):
        believed(gate_envelope(others), settings)
    with pytest.raises(EvidenceWrongKeyError):
        verify(envelope, {})


def test_a_key_counts_for_its_own_role_alone(settings: KeySettings) -> None:
    with pytest.raises(EvidenceWrongKeyError, match="trusted gate keys"):
        believed(gate_envelope(settings, signer=keys.signer("operator", settings)), settings)
    with pytest.raises(EvidenceWrongKeyError, match="trusted operator keys"):
        believed(override_envelope(settings, signer=keys.signer("gate", settings)), settings)


def test_rotation_keeps_what_was_signed_and_retirement_does_not(settings: KeySettings, envelope: str) -> None:
    old = keys.trusted("gate", settings)[0]
    new = keys.create("gate", settings, replace=True)
    assert new.keyid != old.keyid
    assert believed(envelope, settings).keyid == old.keyid
    assert believed(gate_envelope(settings), settings).keyid == new.keyid
    assert keys.retire(old.keyid[:10], settings).keyid == old.keyid
    with pytest.raises(EvidenceWrongKeyError):
        believed(envelope, settings)
    assert believed(gate_envelope(settings), settings).keyid == new.keyid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "passed",
        "{}",
        "[]",
        "null",
        '{"payload": 1, "payloadType": "x", "signatures": []}',
        '{"payload": "eA==", "payloadType": "text/plain", "signatures": []}',
        '{"payload": "eA==", "payloadType": "application/vnd.in-toto+json", "signatures": {"a": 1}}',
        '{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": "a"}]}',
        '{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", '
        '"signatures": [{"keyid": "a", "sig": "eA=="}, {"keyid": "a", "sig": "eA=="}]}',
        "x" * 100_001,
        "[" * 90_000,
    ],
)
def test_what_is_no_envelope_is_refused(settings: KeySettings, text: str) -> None:
    with pytest.raises(EvidenceUnreadableError):
        believed(text, settings)
    assert read_unverified(text) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.update(predicateType="https://slsa.dev/provenance/v1"), "counts for nothing"),
        (lambda p: p.update(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (lambda p: p.update(subject=[]), "subject"),
        (lambda p: p["predicate"].pop("result"), "result"),
        (lambda p: p["predicate"].update(result="passed"), "result"),
        (lambda p: p["predicate"].update(greenroom_version=0), "greenroom_version"),
        (lambda p: p["predicate"].update(greenroom_createdAt="2026-11-24T12:00:00"), "createdAt"),
        (lambda p: p["predicate"].pop("greenroom_source"), "greenroom_source"),
    ],
)
def test_a_signed_thing_of_another_kind_is_refused(
    settings: KeySettings, envelope: str, change: Any, says: str
) -> None:
    with pytest.raises(EvidenceUnreadableError, match=says):
        believed(with_payload(envelope, change), settings)


def test_the_same_verdict_is_signed_the_same(settings: KeySettings) -> None:
    """So that an attestation that is tried again does no harm."""
    about = verdict("genre").model_copy(update={"created_at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert gate_envelope(settings, verdict=about) == gate_envelope(settings, verdict=about)


def test_private_keys_are_for_their_owner_alone(settings: KeySettings) -> None:
    for role in keys.ROLES:
        path = keys.private_path(role, settings)
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE" not in keys.trusted(role, settings)[0].path.read_bytes()


def test_keys_are_not_replaced_by_accident(settings: KeySettings) -> None:
    before = keys.private_path("gate", settings).read_bytes()
    with pytest.raises(KeyFileError, match="keys rotate gate"):
        keys.create("gate", settings)
    assert keys.private_path("gate", settings).read_bytes() == before
    keys.private_path("gate", settings).unlink()
    with pytest.raises(KeyFileError, match="keys create gate"):
        keys.create("gate", settings, replace=True)
    with pytest.raises(KeyFileError, match="keys create gate"):
        keys.signer("gate", settings)


def test_a_key_id_must_name_one_key(settings: KeySettings) -> None:
    with pytest.raises(KeyFileError, match="Several"):
        keys.retire("", settings)
    with pytest.raises(KeyFileError, match="No trusted key"):
        keys.retire("zz", settings)
    assert all(keys.trusted(role, settings) for role in keys.ROLES)


def test_files_that_are_no_ed25519_keys_are_refused(settings: KeySettings) -> None:
    other = generate_private_key(SECP256R1())
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content, says in ((b"hello", "not an unencrypted private key"), (private, "not an Ed25519")):
        keys.private_path("gate", settings).write_bytes(content)
        with pytest.raises(KeyFileError, match=says):
            keys.signer("gate", settings)
    trusted = keys.trusted("gate", settings)[0].path
    for content, says in ((b"hello", "not a public key"), (public, "not an Ed25519")):
        trusted.write_bytes(content)
        with pytest.raises(KeyFileError, match=says):
            keys.trusted("gate", settings)


def test_every_refusal_has_a_code_of_its_own() -> None:
    kinds = EvidenceError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds) == 12
