"""Signed evidence: in-toto Statements in DSSE envelopes.

Two kinds: the gate's verdict on one model version (predicate test-result v0.1), and an operator's override.
Both name the version's files by digest, the version itself, and the version that was in Production when they
were made. Formats: https://github.com/in-toto/attestation (Statement v1, test-result v0.1) and
https://github.com/secure-systems-lab/dsse. Signing and verifying is securesystemslib's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.exceptions import VerificationError

from registry.digests import tree_digest
from registry.errors import (
    EvidenceForgedError,
    EvidenceUnreadableError,
    EvidenceUnsignedError,
    EvidenceWrongKeyError,
)
from registry.evidence.keys import Role, TrustedKey
from registry.evidence.verdict import DataOrigin, Incumbent, Verdict

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
# An override has no published predicate; a URN needs no domain.
OVERRIDE = "urn:greenroom:attestation:override:v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
# Far beyond what a statement needs; MLflow's tags hold 100,000 characters.
_MAX_ENVELOPE = 100_000

Kind = Literal["gate", "override"]
_KINDS: Mapping[str, tuple[Kind, Role]] = {TEST_RESULT: ("gate", "gate"), OVERRIDE: ("override", "operator")}


class _Lenient(BaseModel):
    # in-toto's parsing rule: consumers ignore fields that they do not know.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Descriptor(_Lenient):
    """in-toto's ResourceDescriptor: a thing, by name and digest."""

    name: str
    digest: dict[str, str] = Field(min_length=1)
    annotations: dict[str, str] | None = None


class _About(_Lenient):
    """What both predicates say of the version; in-toto names foreign fields VENDOR_FIELD."""

    model: str = Field(alias="greenroom_model")
    version: int = Field(alias="greenroom_version", ge=1)
    source: str = Field(alias="greenroom_source")
    created_at: AwareDatetime = Field(alias="greenroom_createdAt")
    configuration: tuple[Descriptor, ...] = ()


class _TestResult(_About):
    result: Literal["PASSED", "WARNED", "FAILED"]
    passed_tests: tuple[str, ...] = Field(default=(), alias="passedTests")
    warned_tests: tuple[str, ...] = Field(default=(), alias="warnedTests")
    failed_tests: tuple[str, ...] = Field(default=(), alias="failedTests")
    data: DataOrigin | None = Field(default=None, alias="greenroom_data")


class _Override(_About):
    reason: str = Field(min_length=1)
    operator: str = Field(min_length=1)


class _Statement(_Lenient):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Descriptor, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """A statement whose signature was verified, or that was just made."""

    kind: Kind
    model: str
    version: int
    source: str
    files: Mapping[str, str]
    created_at: datetime
    passed: bool
    incumbent: Incumbent | None
    configuration: Mapping[str, Mapping[str, str]]
    failed_tests: tuple[str, ...]
    data: DataOrigin | None
    reason: str | None
    operator: str | None
    keyid: str
    digest: str

    @property
    def files_digest(self) -> str:
        """One digest of all the version's files."""
        return tree_digest(self.files)

    @property
    def policy_digest(self) -> str | None:
        """Digest of the gate policy that was applied."""
        hexdigest = self.configuration.get("policy", {}).get("sha256")
        return f"sha256:{hexdigest}" if hexdigest else None

    @property
    def report_digest(self) -> str | None:
        """Digest of the gate's reports."""
        hexdigest = self.configuration.get("report", {}).get("sha256")
        return f"sha256:{hexdigest}" if hexdigest else None


def attest_verdict(
    verdict: Verdict,
    *,
    version: int,
    source: str,
    files: Mapping[str, str],
    report_digest: str,
    signer: "CryptoSigner",
    created_at: datetime | None = None,
) -> str:
    """Return the gate's verdict on a version as a signed envelope, JSON.

    `files` maps the path of each of the version's files to its SHA-256 (64 hexadecimal digits);
    `report_digest` is the digest of the reports, `sha256:HEX`.
    """
    datasets = {
        f"dataset/{side}": {"sha256": _hex(digest)} for side, digest in verdict.dataset_digests.items()
    }
    configuration: dict[str, dict[str, str]] = {
        "policy": {"sha256": _hex(verdict.policy_digest)},
        **datasets,
        "report": {"sha256": _hex(report_digest)},
        **({"code": {"gitCommit": verdict.git_commit}} if verdict.git_commit else {}),
    }
    passed = [o.check for o in verdict.outcomes if o.status == "passed"]
    warned = [o.check for o in verdict.outcomes if o.status != "passed" and not o.required]
    predicate = {
        "result": "PASSED" if verdict.passed else "FAILED",
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": [o.check for o in verdict.refusals],
        **({"greenroom_data": verdict.data.model_dump(mode="json")} if verdict.data else {}),
    }
    return _sign(
        TEST_RESULT,
        predicate,
        about=(verdict.model, version, source),
        files=files,
        configuration=configuration,
        incumbent=verdict.incumbent,
        created_at=created_at or verdict.created_at,
        signer=signer,
    )


def attest_override(
    *,
    model: str,
    version: int,
    source: str,
    files: Mapping[str, str],
    incumbent: Incumbent | None,
    reason: str,
    operator: str,
    signer: "CryptoSigner",
    created_at: datetime | None = None,
) -> str:
    """Return an operator's decision to promote a version without the gate's consent, signed, JSON."""
    return _sign(
        OVERRIDE,
        {"reason": reason, "operator": operator},
        about=(model, version, source),
        files=files,
        configuration={},
        incumbent=incumbent,
        created_at=created_at or datetime.now(UTC),
        signer=signer,
    )


def _sign(
    predicate_type: str,
    predicate: dict[str, Any],
    *,
    about: tuple[str, int, str],
    files: Mapping[str, str],
    configuration: Mapping[str, Mapping[str, str]],
    incumbent: Incumbent | None,
    created_at: datetime,
    signer: "CryptoSigner",
) -> str:
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    model, version, source = about
    descriptors: list[dict[str, Any]] = [{"name": n, "digest": dict(d)} for n, d in configuration.items()]
    if incumbent:
        descriptors.append(
            {
                "name": "incumbent",
                "digest": {"sha256": _hex(incumbent.digest or "")},
                "annotations": {"version": str(incumbent.version)},
            }
        )
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": path, "digest": {"sha256": hexdigest}} for path, hexdigest in sorted(files.items())
        ],
        "predicateType": predicate_type,
        "predicate": {
            **predicate,
            "configuration": descriptors,
            "greenroom_model": model,
            "greenroom_version": version,
            "greenroom_source": source,
            "greenroom_createdAt": created_at.astimezone(UTC).isoformat(),
        },
    }
    envelope = Envelope(json.dumps(statement, separators=(",", ":")).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":"))


def verify(text: str, keys: Mapping[Role, Sequence[TrustedKey]]) -> Evidence:
    """Return what an envelope says, once its signature is known to be a trusted key's.

    `keys` are the trusted keys of each role: the gate's count for verdicts, operators' for overrides.
    Raises `EvidenceUnreadableError`, `EvidenceUnsignedError`, `EvidenceWrongKeyError` or
    `EvidenceForgedError`. Whether it is about the version at hand is the caller's question.
    """
    envelope = _envelope(text)
    if not envelope.signatures:
        raise EvidenceUnsignedError("The evidence is not signed.")
    statement, about, kind, role = _statement(envelope.payload)
    by_id = {key.keyid: key for key in keys.get(role, ())}
    known = [by_id[keyid] for keyid in envelope.signatures if keyid in by_id]
    if not known:
        signed = ", ".join(sorted(keyid[:12] for keyid in envelope.signatures))
        raise EvidenceWrongKeyError(
            f"The evidence is signed with a key that is not among the trusted {role} keys ({signed}). "
            f"`greenroom keys list` shows the trusted ones."
        )
    try:
        accepted = envelope.verify([key.key for key in known], 1)
    except VerificationError as error:
        raise EvidenceForgedError(
            f"The evidence names the {role} key {known[0].keyid[:12]}, but it is not what that key signed: "
            "it was changed or made up."
        ) from error
    return _evidence(statement, about, kind, keyid=next(iter(accepted)), payload=envelope.payload)


def read_unverified(text: str) -> Evidence | None:
    """Return what an envelope says without believing it, for display; None if it cannot be read."""
    try:
        envelope = _envelope(text)
        statement, about, kind, _ = _statement(envelope.payload)
    except EvidenceUnreadableError:
        return None
    return _evidence(statement, about, kind, keyid="", payload=envelope.payload)


def _envelope(text: str) -> "Envelope":
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    if len(text) > _MAX_ENVELOPE:
        raise EvidenceUnreadableError(f"The evidence is longer than {_MAX_ENVELOPE} characters.")
    try:
        envelope = Envelope.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceUnreadableError(
            f"The evidence is not a DSSE envelope ({type(error).__name__})."
        ) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise EvidenceUnreadableError(f"The evidence holds {envelope.payload_type!r}, not {PAYLOAD_TYPE}.")
    return envelope


def _statement(payload: bytes) -> tuple[_Statement, _About, Kind, Role]:
    try:
        statement = _Statement.model_validate_json(payload)
        if statement.predicate_type not in _KINDS:
            raise EvidenceUnreadableError(
                f"The evidence is of the kind {statement.predicate_type!r}, which counts for nothing here."
            )
        kind, role = _KINDS[statement.predicate_type]
        shape = _TestResult if kind == "gate" else _Override
        about = shape.model_validate(statement.predicate)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise EvidenceUnreadableError(
            f"The evidence is not an in-toto Statement: {where} is wrong."
        ) from error
    return statement, about, kind, role


def _evidence(statement: _Statement, about: _About, kind: Kind, *, keyid: str, payload: bytes) -> Evidence:
    files = {subject.name: subject.digest.get("sha256", "") for subject in statement.subject}
    configuration = {descriptor.name: descriptor.digest for descriptor in about.configuration}
    test = about if isinstance(about, _TestResult) else None
    override = about if isinstance(about, _Override) else None
    return Evidence(
        kind=kind,
        model=about.model,
        version=about.version,
        source=about.source,
        files=files,
        created_at=about.created_at,
        passed=test is None or (test.result == "PASSED" and not test.failed_tests),
        incumbent=_incumbent(about),
        configuration=configuration,
        failed_tests=test.failed_tests if test else (),
        data=test.data if test else None,
        reason=override.reason if override else None,
        operator=override.operator if override else None,
        keyid=keyid,
        # Of what was signed, not of the envelope, which anyone can write in another way.
        digest=f"sha256:{sha256(payload).hexdigest()}",
    )


def _incumbent(about: _About) -> Incumbent | None:
    for descriptor in about.configuration:
        if descriptor.name == "incumbent":
            version = (descriptor.annotations or {}).get("version", "0")
            return Incumbent(
                version=int(version) if version.isdecimal() else 0,
                digest=f"sha256:{descriptor.digest.get('sha256', '')}",
            )
    return None


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
