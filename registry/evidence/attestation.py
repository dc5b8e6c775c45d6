"""Signed evidence: in-toto Statements in DSSE envelopes.

Two kinds: the gate's verdict on one model version (predicate test-result v0.1), and an operator's override.
Both name the version's files by digest, the version itself, and the version that was in Production when they
were made. Formats: https://github.com/in-toto/attestation (Statement v1, test-result v0.1) and
https://github.com/secure-systems-lab/dsse; registry/evidence/statement.py reads them. Signing and verifying
is securesystemslib's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from securesystemslib.exceptions import UnverifiedSignatureError

from registry.digests import tree_digest
from registry.errors import (
    EvidenceForgedError,
    EvidenceUnreadableError,
    EvidenceUnsignedError,
    EvidenceWrongKeyError,
)
from registry.evidence.keys import Role, TrustedKey
from registry.evidence.model_signature import public_pem
from registry.evidence.statement import (
    INCUMBENT,
    OVERRIDE,
    PAYLOAD_TYPE,
    POLICY,
    REPORT,
    REPORT_FILES,
    STATEMENT_TYPE,
    TABLE,
    TEST_RESULT,
    TREE,
    GateResult,
    Kind,
    Outcome,
    Override,
    SignedStatement,
    read_envelope,
    result_fields,
)
from registry.evidence.verdict import DataOrigin, Incumbent, Verdict
from registry.model_format.mlflow_folder import Artifact, artifact_of

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.signer import CryptoSigner

_ROLES: Mapping[Kind, Role] = {"gate": "gate", "override": "operator"}


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
    artifact: Artifact | None = None
    outcomes: tuple[Outcome, ...] | None = None
    report_files: tuple[str, ...] | None = None

    @property
    def files_digest(self) -> str:
        """One digest of all the version's files."""
        return tree_digest(self.files)

    @property
    def policy_digest(self) -> str | None:
        """Digest of the gate policy that was applied."""
        return self._configured("policy", POLICY)

    @property
    def report_digest(self) -> str | None:
        """Digest of the gate's reports."""
        return self._configured(REPORT, TREE)

    @property
    def dataset_digests(self) -> Mapping[str, str]:
        """Digests of the rows that the gate looked at, by side: `train` and `test`."""
        sides = ("train", "test")
        digests = {side: self._configured(f"dataset/{side}", TABLE) for side in sides}
        return {side: digest for side, digest in digests.items() if digest}

    def _configured(self, name: str, algorithm: str) -> str | None:
        digests = self.configuration.get(name, {})
        # Older evidence calls every digest a sha256.
        hexdigest = digests.get(algorithm) or digests.get("sha256")
        return f"sha256:{hexdigest}" if hexdigest else None


def attest_verdict(
    verdict: Verdict,
    *,
    version: int,
    source: str,
    files: Mapping[str, str],
    report_digest: str,
    report_files: Iterable[str] = (),
    signer: "CryptoSigner",
    created_at: datetime | None = None,
) -> str:
    """Return the gate's verdict on a version as a signed envelope, JSON.

    `files` maps the path of each of the version's files to its SHA-256 (64 hexadecimal digits);
    `report_digest` is the digest of the reports, `sha256:HEX`, and `report_files` are their names. Raises
    `EvidenceUnreadableError` rather than sign what `verify` would not read.
    """
    configuration: dict[str, dict[str, str]] = {
        "policy": {POLICY: _hex(verdict.policy_digest)},
        **{f"dataset/{side}": {TABLE: _hex(digest)} for side, digest in verdict.dataset_digests.items()},
        REPORT: {TREE: _hex(report_digest)},
        **({"code": {"gitCommit": verdict.git_commit}} if verdict.git_commit else {}),
        "model-signing-key": {"sha256": sha256(public_pem(signer)).hexdigest()},
    }
    outcomes = [Outcome(check=o.check, status=o.status, required=o.required) for o in verdict.outcomes]
    predicate = {
        **result_fields(outcomes),
        "greenroom_outcomes": [outcome.model_dump() for outcome in outcomes],
        **({"greenroom_data": verdict.data.model_dump(mode="json")} if verdict.data else {}),
    }
    return _sign(
        TEST_RESULT,
        predicate,
        about=(verdict.model, version, source),
        files=files,
        configuration=configuration,
        report_files=report_files,
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
    report_files: Iterable[str] = (),
) -> str:
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    model, version, source = about
    descriptors: list[dict[str, Any]] = [{"name": n, "digest": dict(d)} for n, d in configuration.items()]
    for descriptor in descriptors:
        if descriptor["name"] == REPORT and (names := sorted(report_files)):
            descriptor["annotations"] = {REPORT_FILES: "\n".join(names)}
    if incumbent:
        descriptors.append(
            {
                "name": INCUMBENT,
                "digest": {TREE: _hex(incumbent.digest or "")},
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
            "greenroom_artifact": artifact_of(files),
            "greenroom_createdAt": created_at.astimezone(UTC).isoformat(),
        },
    }
    envelope = Envelope(json.dumps(statement, separators=(",", ":")).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    text = json.dumps(envelope.to_dict(), separators=(",", ":"))
    read_envelope(text).require_consistent()
    return text


def verify(text: str, keys: Mapping[Role, Sequence[TrustedKey]]) -> Evidence:
    """Return what an envelope says, once its signature is known to be a trusted key's.

    `keys` are the trusted keys of each role: the gate's count for verdicts, operators' for overrides.
    A signature that names no key is held against each of them; one that names a trusted key must be that
    key's. Raises `EvidenceUnreadableError`, `EvidenceUnsignedError`, `EvidenceWrongKeyError` or
    `EvidenceForgedError`. Whether it is about the version at hand is the caller's question.
    """
    statement = read_envelope(text)
    if not statement.signatures:
        raise EvidenceUnsignedError("The evidence is not signed.")
    role = _ROLES[statement.kind]
    keyid = _signer(statement, role, keys.get(role, ()))
    statement.require_consistent()
    return _evidence(statement, keyid=keyid)


def read_unverified(text: str) -> Evidence | None:
    """Return what an envelope says without believing it, for display; None if it cannot be read."""
    try:
        statement = read_envelope(text)
        statement.require_consistent()
        return _evidence(statement, keyid="")
    except EvidenceUnreadableError:
        return None


def signing_keyids(text: str) -> frozenset[str]:
    """Return the ids of the keys that an envelope names, without believing it; none if it cannot be read."""
    try:
        return frozenset(keyid for keyid, _ in read_envelope(text).signatures if keyid)
    except EvidenceUnreadableError:
        return frozenset()


def _signer(statement: SignedStatement, role: Role, trusted: Sequence[TrustedKey]) -> str:
    """Return the id of the trusted key that signed a statement."""
    named = [(key, sig) for keyid, sig in statement.signatures for key in trusted if key.keyid == keyid]
    for key, sig in named:
        if not _signed(statement, [key], sig):
            raise EvidenceForgedError(
                f"The evidence names the {role} key {key.keyid[:12]}, but it is not what that key signed: "
                "it was changed or made up."
            )
    if named:
        return named[0][0].keyid
    for signer, sig in statement.signatures:
        if signer is None and (keyid := _signed(statement, trusted, sig)):
            return keyid
    ids = ", ".join(sorted((keyid or "a key it does not name")[:22] for keyid, _ in statement.signatures))
    raise EvidenceWrongKeyError(
        f"The evidence is signed with a key that is not among the trusted {role} keys ({ids}). "
        f"`greenroom keys list` shows the trusted ones."
    )


def _signed(statement: SignedStatement, keys: Iterable[TrustedKey], signature: bytes) -> str | None:
    """Return the id of the key whose signature this is, None if it is none of theirs."""
    from securesystemslib.signer import Signature  # noqa: PLC0415 - see above

    for key in keys:
        try:
            key.key.verify_signature(Signature(key.keyid, signature.hex()), statement.signed_bytes)
        except UnverifiedSignatureError:
            continue
        return key.keyid
    return None


def _evidence(statement: SignedStatement, *, keyid: str) -> Evidence:
    about = statement.predicate
    test = about if isinstance(about, GateResult) else None
    override = about if isinstance(about, Override) else None
    return Evidence(
        kind=statement.kind,
        model=about.model,
        version=about.version,
        source=about.source,
        files=statement.files,
        created_at=about.created_at,
        passed=test is None or test.result == "PASSED",
        incumbent=_incumbent(about),
        configuration={descriptor.name: descriptor.digest for descriptor in about.configuration},
        failed_tests=test.failed_tests if test else (),
        data=test.data if test else None,
        reason=override.reason if override else None,
        operator=override.operator if override else None,
        keyid=keyid,
        # Of what was signed, not of the envelope, which anyone can write in another way.
        digest=f"sha256:{sha256(statement.payload).hexdigest()}",
        artifact=about.artifact,
        outcomes=test.outcomes if test else None,
        report_files=_report_files(about),
    )


def _report_files(about: GateResult | Override) -> tuple[str, ...] | None:
    """Return the names of the reports that were signed, None in evidence from before it named them."""
    for descriptor in about.configuration:
        if descriptor.name == REPORT and (names := (descriptor.annotations or {}).get(REPORT_FILES)):
            return tuple(names.split("\n"))
    return None


def _incumbent(about: GateResult | Override) -> Incumbent | None:
    for descriptor in about.configuration:
        if descriptor.name == INCUMBENT:
            version = (descriptor.annotations or {})["version"]
            hexdigest = descriptor.digest.get(TREE) or descriptor.digest.get("sha256", "")
            return Incumbent(version=int(version), digest=f"sha256:{hexdigest}")
    return None


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
