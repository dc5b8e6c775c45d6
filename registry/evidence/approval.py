"""An operator's approval of a dataset that somebody brought: versions judged on it may go to Production.

An in-toto Statement in a DSSE envelope, signed with an operator's key, stored as a tag of the registered
model. The signature counts and not the place: whoever can write the tag can at most take an approval away.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.exceptions import VerificationError

from registry.evidence.keys import TrustedKey
from registry.evidence.statement import PAYLOAD_TYPE, STATEMENT_TYPE
from registry.evidence.strict_json import load_json

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.signer import CryptoSigner

# An approval has no published predicate; a URN needs no domain.
APPROVAL = "urn:greenroom:attestation:dataset-approval:v0.1"
# The tag of a registered model; one for each dataset.
TAG_PREFIX = "greenroom.approval."
_ID = r"^sha256:[0-9a-f]{64}$"
_MAX_ENVELOPE = 20_000


@dataclass(frozen=True)
class Approval:
    """A dataset, `sha256:HEX`, that a named operator approved for one model."""

    model: str
    dataset: str
    operator: str
    reason: str
    created_at: datetime


class _Predicate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    dataset: str = Field(pattern=_ID)
    operator: str = Field(min_length=1, pattern=r"\S")
    reason: str = Field(min_length=1, pattern=r"\S")
    created_at: AwareDatetime


class _Statement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["urn:greenroom:attestation:dataset-approval:v0.1"] = Field(alias="predicateType")
    predicate: _Predicate


def approval_tag(dataset: str) -> str:
    """Return the tag of a registered model that holds the approval of a dataset."""
    return f"{TAG_PREFIX}{dataset.removeprefix('sha256:')}"


def sign_approval(approval: Approval, signer: "CryptoSigner") -> str:
    """Return an approval as a signed envelope, JSON. Raises `ValueError` for what is no approval."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    predicate = _Predicate(**vars(approval))
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": "dataset", "digest": {"greenroom-dataset": approval.dataset.removeprefix("sha256:")}}
        ],
        "predicateType": APPROVAL,
        "predicate": predicate.model_dump(mode="json"),
    }
    envelope = Envelope(json.dumps(statement, separators=(",", ":")).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":"))


def read_approval(text: str, operators: Sequence[TrustedKey]) -> Approval | None:
    """Return an approval that a trusted operator's key signed; None for anything else."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    if len(text) > _MAX_ENVELOPE:
        return None
    try:
        envelope = Envelope.from_dict(load_json(text))
        if envelope.payload_type != PAYLOAD_TYPE:
            return None
        envelope.verify([key.key for key in operators], 1)
        predicate = _Statement.model_validate_json(json.dumps(load_json(envelope.payload.decode()))).predicate
    except (
        VerificationError,
        ValidationError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return None
    return Approval(**predicate.model_dump())


def approved_datasets(
    model: str, tags: Mapping[str, str], operators: Sequence[TrustedKey], *, at: datetime | None = None
) -> frozenset[str]:
    """Return the datasets that operators approved for a model until `at`, by the tags of the model."""
    moment = at or datetime.now(UTC)
    approvals: Iterable[Approval | None] = (
        read_approval(value, operators) for key, value in tags.items() if key.startswith(TAG_PREFIX)
    )
    return frozenset(a.dataset for a in approvals if a and a.model == model and a.created_at <= moment)
