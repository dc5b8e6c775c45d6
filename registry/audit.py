"""The audit: an append-only, hash-chained list of what happened to stages. See registry/server/schema.sql.

The server hands it out through MLflow's own API, as the tags of a version that an alias of a reserved name
seems to point at; so reading it needs nothing but the address of the tracking server and, where there is a
login, the right to read the model.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# `ALIAS_PREFIX + kind + "-" + id` asks for the rows after that id.
ALIAS_PREFIX = "greenroom-"
HISTORY = "history"
CHAIN = "chain"
# Asks the server to compare the bytes of the version of that number with its evidence, and to write down what
# differs: so whoever may read a model can report it.
REPORT = "report"
# Under which name refusals about names that no model has are counted (schema.sql).
UNKNOWN_NAMES = "(unknown names)"
PAGE = 200
PRODUCTION = "Production"
UNREADABLE = "unreadable"
_LEADING = frozenset({"promoted", "override", "rollback", "found"})


class AuditEntry(BaseModel):
    """One thing that happened. Fields that do not apply are None."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    id: int
    at: str = Field(description="When, UTC, by the database's clock.")
    action: str = Field(
        description="promoted, staged, archived, moved, rollback, override, deleted, renamed, alias, "
        "refused, mismatch, evidence (put on a version that is in a stage), found (when the audit began), or "
        "sql: done behind the guard's back."
    )
    model: str
    version: int | None = None
    from_stage: str | None = Field(default=None, alias="from")
    to_stage: str | None = Field(default=None, alias="to")
    actor: str = Field(description="Who did it.")
    proven: bool = Field(default=False, description="Whether MLflow's login said so, or the caller.")
    role: str = Field(default="", description="The database role that did it.")
    address: str | None = None
    reason: str | None = None
    code: str | None = Field(default=None, description="Of a refusal: which kind of evidence error.")
    message: str | None = None
    digest: str | None = Field(default=None, description="Digest of the version's files.")
    evidence: str | None = Field(default=None, description="Digest of the evidence that allowed it.")
    envelope: str | None = Field(default=None, description="That evidence itself.")
    incumbent: int | None = Field(default=None, description="The version that was in Production before.")
    changed: dict[str, Any] | None = None


class AuditLink(BaseModel):
    """One link of the chain: enough to check it without reading what others' rows say."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    model: str
    body: str = Field(description="SHA-256 of the row's text.")
    hash: str
    scheme: int = Field(default=1, description="By which rule it was hashed; the row's text says it.")


def link_hash(number: int, previous: str, body: str, model: str | None = None) -> str:
    """Return the hash of a link: SHA-256 over its number, the hash before, the digest of its text, its model.

    Links of scheme 1 have no model in it.
    """
    parts = [str(number), previous, body, *([] if model is None else [model])]
    return sha256("\n".join(parts).encode()).hexdigest()


def _hash_of(link: AuditLink, previous: str) -> str:
    return link_hash(link.id, previous, link.body, None if link.scheme == 1 else link.model)


def broken_links(links: Sequence[AuditLink], since: AuditLink | None = None) -> Iterator[str]:
    """Yield a sentence for each place where the chain does not hold together.

    `since` is the link before the first one, where the chain up to it was checked already.
    """
    previous, expected, scheme = (since.hash, since.id + 1, since.scheme) if since else ("", 1, 1)
    for link in links:
        if link.id != expected:
            gone = f"row {expected}" if link.id == expected + 1 else f"rows {expected} to {link.id - 1}"
            yield (
                f"{gone} of the audit is missing"
                if link.id == expected + 1
                else f"{gone} of the audit are missing"
            )
        elif link.hash != _hash_of(link, previous):
            yield f"row {link.id} of the audit ({link.model}) was changed, or the one before it was"
        elif link.scheme not in (1, 2) or link.scheme < scheme:
            yield f"row {link.id} of the audit ({link.model}) is hashed by an older rule than those before it"
        previous, expected, scheme = link.hash, link.id + 1, max(scheme, link.scheme)


def good_versions(rows: Iterable[AuditEntry]) -> list[int]:
    """Return the versions that were in Production by right, oldest first; the last is the newest such one.

    A version that a rollback left behind is not among them until it is promoted again; one that came to
    Production by SQL never is.
    """
    good: list[int] = []
    for row in rows:
        if row.version is None:
            continue
        if row.action in ("deleted", "renamed"):  # the next version with its number is another one
            good = [version for version in good if version != row.version]
        if row.to_stage != PRODUCTION or row.action not in _LEADING:
            continue
        if row.action == "rollback" and row.version in good:
            del good[good.index(row.version) + 1 :]
            continue
        good = [version for version in good if version != row.version] + [row.version]
    return good


def rollback_targets(rows: Iterable[AuditEntry], current: int | None) -> list[int]:
    """Return the versions that a rollback may go to, the nearest first."""
    return [version for version in reversed(good_versions(rows)) if version != current]


def read(text: str) -> AuditEntry:
    """Return a row from its text; one that cannot be read says so, and hides no other."""
    try:
        return AuditEntry.model_validate_json(text)
    except ValidationError:
        return AuditEntry(id=0, at="", action=UNREADABLE, model="", actor="")


def used_evidence(rows: Iterable[AuditEntry]) -> frozenset[str]:
    """Return the digests of the evidence that took versions to Production; each counts once."""
    return frozenset(row.evidence for row in rows if row.evidence and row.to_stage == PRODUCTION)


def production_changed(rows: Iterable[AuditEntry]) -> datetime | None:
    """Return when what is in Production changed last."""
    changes = [r.at for r in rows if PRODUCTION in (r.from_stage, r.to_stage) and r.from_stage != r.to_stage]
    return datetime.fromisoformat(changes[-1]) if changes else None


def staged_digest(rows: Iterable[AuditEntry], version: int) -> str | None:
    """Return the digest of the files with which a version came into its stage, None if no row says it."""
    digest: str | None = None
    for row in rows:
        if row.version == version and row.to_stage and row.to_stage != row.from_stage:
            digest = row.digest
        elif row.version == version and row.action == "override" and row.digest:
            digest = row.digest  # of what was in its stage before there was evidence
    return digest


def as_json(rows: Iterable[AuditEntry]) -> str:
    """Return rows as a JSON list, with the names that they have in the database."""
    return json.dumps(
        [row.model_dump(mode="json", by_alias=True, exclude_none=True) for row in rows], indent=2
    )
