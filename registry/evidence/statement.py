"""Reads signed statements, strictly: what two readers could understand in two ways is refused.

A DSSE envelope holds an in-toto Statement, and that a predicate: test-result v0.1 (the gate's verdict) or an
operator's override. Fields that are not known here are ignored, as in-toto asks of consumers; those that are
known have one form each. No key occurs twice in an object, no file, test or digest twice in a list, a digest
is lower-case hexadecimal of its algorithm's length, and the result follows from the tests.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from registry.errors import EvidenceUnreadableError
from registry.evidence.strict_json import load_json, require_unique
from registry.evidence.verdict import DataOrigin, Status
from registry.model_format.mlflow_folder import Artifact

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
# An override has no published predicate; a URN needs no domain.
OVERRIDE = "urn:greenroom:attestation:override:v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
# A custom algorithm is named: `sha256` is that of a file's bytes alone (docs/evidence.md has the formulas).
TREE, POLICY, TABLE = "greenroomTree1", "greenroomPolicy1", "greenroomTable1"
INCUMBENT, REPORT = "incumbent", "report"
# The annotation of the reports with their names, one a line.
REPORT_FILES = "files"

Kind = Literal["gate", "override"]
KINDS: Mapping[str, Kind] = {TEST_RESULT: "gate", OVERRIDE: "override"}

_RESULT_FIELDS = ("result", "passedTests", "warnedTests", "failedTests")
# Far beyond what a statement needs; MLflow's tags hold 100,000 characters.
_MAX_ENVELOPE = 100_000
_MAX_SIGNATURES = 16
# Since in-toto 1.2 the type may name the predicate; which one it is, the statement alone says.
_PAYLOAD_TYPES = re.compile(r"application/vnd\.in-toto(\.[a-z0-9]+([._-][a-z0-9]+)*)?\+json")
_HEX = re.compile(r"[0-9a-f]+")
# Hexadecimal digits of a digest, by algorithm; a commit is a SHA-1 or a SHA-256.
_LENGTHS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("sha256", TREE, POLICY, TABLE), (64,)),
    "gitCommit": (40, 64),
}


def _spoken(text: str) -> str:
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise ValueError("is blank")
    return text


def _file_path(text: str) -> str:
    """Refuse a path that is not the one plain name of a file below the version's folder."""
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or PurePosixPath(text).is_absolute():
        raise ValueError("is no relative path with / between its parts")
    if any(part.strip() in ("", ".", "..") or part != part.strip() for part in parts):
        raise ValueError("has a part that is empty, blank, . or ..")
    return text


def _digests(digests: dict[str, str]) -> dict[str, str]:
    for algorithm, written in digests.items():
        # A checkout that differs from its commit says so (checks/data/fingerprints.py).
        value = written.removesuffix("-dirty") if algorithm == "gitCommit" else written
        if not _HEX.fullmatch(value) or len(value) not in _LENGTHS.get(algorithm, (len(value),)):
            raise ValueError(f"holds a {algorithm} that is not lower-case hexadecimal of its length")
    return digests


Text = Annotated[str, AfterValidator(_spoken)]
DigestSet = Annotated[dict[Text, str], Field(min_length=1), AfterValidator(_digests)]


_Shape = TypeVar("_Shape", bound=BaseModel)


class _Part(BaseModel):
    # In-toto's parsing rule: consumers ignore fields that they do not know.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, strict=True)


class _Subject(_Part):
    name: Annotated[str, AfterValidator(_file_path)]
    digest: DigestSet

    @model_validator(mode="after")
    def _one_digest(self) -> Self:
        # One that nobody here compares could be believed elsewhere.
        if list(self.digest) != ["sha256"]:
            raise ValueError("has other digests than one sha256")
        return self


class Descriptor(_Part):
    """In-toto's ResourceDescriptor: a thing, by name and digest."""

    name: Text
    digest: DigestSet
    annotations: dict[str, str] | None = None


class About(_Part):
    """What both predicates say of the version; in-toto names foreign fields VENDOR_FIELD."""

    model: Text = Field(alias="greenroom_model")
    version: int = Field(alias="greenroom_version", ge=1)
    source: Text = Field(alias="greenroom_source")
    created_at: AwareDatetime = Field(alias="greenroom_createdAt")
    artifact: Artifact | None = Field(
        default=None,
        alias="greenroom_artifact",
        description="What the files are; None in evidence from before every file was looked at.",
    )
    configuration: tuple[Descriptor, ...] = ()

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        require_unique((descriptor.name for descriptor in self.configuration), "the configuration")
        for descriptor in self.configuration:
            version = (descriptor.annotations or {}).get("version", "")
            if descriptor.name == INCUMBENT and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
                raise ValueError("does not say which version the incumbent is")
        return self


class Outcome(_Part):
    """One check of the policy: what in-toto's three lists cannot say."""

    check: Text
    status: Status
    required: bool


class GateResult(About):
    """In-toto's test-result v0.1, as the gate fills it in."""

    # No gate says WARNED: a check that is not required does not make a verdict milder.
    result: Literal["PASSED", "FAILED"]
    passed_tests: tuple[Text, ...] = Field(default=(), alias="passedTests")
    warned_tests: tuple[Text, ...] = Field(default=(), alias="warnedTests")
    failed_tests: tuple[Text, ...] = Field(default=(), alias="failedTests")
    outcomes: tuple[Outcome, ...] | None = Field(
        default=None,
        alias="greenroom_outcomes",
        description="Every check with its status; None in evidence from before it was written down.",
    )

    data: DataOrigin | None = Field(
        default=None,
        alias="greenroom_data",
        description="Where the rows come from; None in evidence from before it was written down.",
    )

    def contradiction(self) -> str | None:
        """Return what in it contradicts itself, None if nothing does."""
        tests = (*self.passed_tests, *self.warned_tests, *self.failed_tests)
        if len(set(tests)) < len(tests):
            return "names a test twice"
        if self.result == "PASSED" and (self.failed_tests or not self.passed_tests):
            return "says PASSED with a test that failed, or without one that passed"
        if self.outcomes is None:
            return None
        if len({outcome.check for outcome in self.outcomes}) < len(self.outcomes):
            return "has two outcomes of one check"
        lists = (self.passed_tests, self.warned_tests, self.failed_tests)
        written = dict(zip(_RESULT_FIELDS, (self.result, *lists), strict=True))
        if written != result_fields(self.outcomes):
            return "has a result or lists of tests that do not follow from its outcomes"
        return None


class Override(About):
    """An operator's decision."""

    reason: Text
    operator: Text


class _Statement(_Part):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[_Subject, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]

    @model_validator(mode="after")
    def _files_beside_each_other(self) -> Self:
        names = [subject.name for subject in self.subject]
        require_unique(names, "the file")
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        if both := folders.intersection(names):
            raise ValueError(f"names {min(both)!r} as a file and as a folder")
        return self


class _Signature(_Part):
    keyid: str | None = None
    sig: str


class _Envelope(_Part):
    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: tuple[_Signature, ...] = Field(max_length=_MAX_SIGNATURES)

    @model_validator(mode="after")
    def _signed_once_by_each(self) -> Self:
        require_unique((signature.keyid for signature in self.signatures if signature.keyid), "the key")
        return self


@dataclass(frozen=True)
class SignedStatement:
    """An envelope, taken apart and not believed yet.

    `signatures` are pairs of a key's id, None where the envelope names none, and the signature's bytes.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str | None, bytes], ...]
    kind: Kind
    files: Mapping[str, str]
    predicate: GateResult | Override

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are of: DSSE's pre-authentication encoding."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    def require_consistent(self) -> None:
        """Raise `EvidenceUnreadableError` if the result does not follow from the tests."""
        gate_result = self.predicate if isinstance(self.predicate, GateResult) else None
        if gate_result and (contradiction := gate_result.contradiction()):
            raise EvidenceUnreadableError(f"The evidence contradicts itself: it {contradiction}.")


def result_fields(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return in-toto's fields for some outcomes: `result` and the three lists, in the outcomes' order.

    A check that is not required warns if it ran and failed. One that is not required and gave no result is in
    no list: nobody was warned of anything.
    """
    every = tuple(outcomes)
    required = [outcome for outcome in every if outcome.required]
    refusing = tuple(outcome.check for outcome in required if outcome.status != "passed")
    values = (
        "PASSED" if required and not refusing else "FAILED",
        tuple(outcome.check for outcome in every if outcome.status == "passed"),
        tuple(outcome.check for outcome in every if not outcome.required and outcome.status == "failed"),
        refusing,
    )
    return dict(zip(_RESULT_FIELDS, values, strict=True))


def read_envelope(text: str) -> SignedStatement:
    """Return what is in an envelope, JSON. Nothing of it is believed yet.

    Raises `EvidenceUnreadableError` for everything that is not of the form that this module describes.
    `SignedStatement.require_consistent` asks the rest: of what is forged it need not be asked.
    """
    if len(text) > _MAX_ENVELOPE:
        raise EvidenceUnreadableError(f"The evidence is longer than {_MAX_ENVELOPE} characters.")
    envelope = _parsed(_Envelope, text, "a DSSE envelope")
    if not _PAYLOAD_TYPES.fullmatch(envelope.payload_type):
        raise EvidenceUnreadableError(
            f"The evidence holds {envelope.payload_type[:100]!r}, not {PAYLOAD_TYPE}."
        )
    payload = _from_base64(envelope.payload)
    try:
        statement = _parsed(_Statement, payload.decode(), "an in-toto Statement")
    except UnicodeDecodeError as error:
        raise EvidenceUnreadableError("The evidence's payload is no UTF-8 text.") from error
    kind = KINDS.get(statement.predicate_type)
    if kind is None:
        raise EvidenceUnreadableError(
            f"The evidence is of the kind {statement.predicate_type[:100]!r}, which counts for nothing here."
        )
    shape: type[GateResult | Override] = GateResult if kind == "gate" else Override
    predicate = _parsed(shape, json.dumps(statement.predicate), f"a predicate {statement.predicate_type}")
    return SignedStatement(
        payload=payload,
        payload_type=envelope.payload_type,
        signatures=tuple((s.keyid or None, _from_base64(s.sig)) for s in envelope.signatures),
        kind=kind,
        files={subject.name: subject.digest["sha256"] for subject in statement.subject},
        predicate=predicate,
    )


def _parsed(shape: type[_Shape], text: str, what: str) -> _Shape:
    try:
        # Read once and written anew, so that both readers see the same.
        content = load_json(text)
        return shape.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":  # half a character: JSON has it, text does not
            why = "is no text"
        raise EvidenceUnreadableError(
            f"The evidence is not {what}: {f'{where} is wrong, ' if where else 'it '}{why}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise EvidenceUnreadableError(f"The evidence is not {what}: {_why(error)}.") from error


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "it is no JSON"
    return "it is nested too deeply" if isinstance(error, RecursionError) else f"it {error}"


def _from_base64(text: str) -> bytes:
    """Return the bytes of DSSE's base64, standard or for URLs, each written in one way alone."""
    plain = text.translate(str.maketrans("-_", "+/"))
    try:
        content = b64decode(plain.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise EvidenceUnreadableError("The evidence's payload or signature is not base64.") from error
    if binascii.b2a_base64(content, newline=False).decode() != plain or (
        (set(text) & {"-", "_"}) and (set(text) & {"+", "/"})
    ):
        raise EvidenceUnreadableError("The evidence's payload or signature is base64 in a form of its own.")
    return content
