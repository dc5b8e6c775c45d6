"""Plays a model's audit through again: where each version is by its rows, and by what right.

A version is in its stage by right only if the row that put it there rests on evidence that a trusted key
signed, about that version, and that held when it was used.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256

from pydantic import BaseModel, ConfigDict, Field

from registry import audit
from registry.audit import PRODUCTION, AuditEntry, AuditLink
from registry.digests import tree_digest
from registry.errors import EvidenceError, EvidenceWrongKeyError
from registry.evidence import rules
from registry.evidence.attestation import Evidence, verify
from registry.evidence.keys import KeyRing, RetiredKey
from registry.evidence.verdict import Incumbent
from registry.names import GATED

# Which kind of evidence each action rests on; None: either.
_BY_EVIDENCE = {"promoted": "gate", "staged": "gate", "override": "override", "rollback": None}


class Move(BaseModel):
    """How a version came into the stage that it is in by the audit."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    digest: str | None = Field(default=None, description="Of the files with which it came; None: not known.")
    faults: list[str] = Field(default_factory=list, description="Why the row had no right to do it.")
    retired: str | None = Field(default=None, description="Which key it stands on, if that is retired.")


class ModelRecord(BaseModel):
    """What a model's rows say, and what is wrong with them."""

    model_config = ConfigDict(extra="forbid")

    rows: int = 0
    last: int = Field(default=0, description="The number of its last row.")
    digest: str = Field(default="", description="Of the texts of its rows up to that.")
    refusals: int = 0
    moves: dict[int, Move] = Field(default_factory=dict, description="By version.")
    broken: list[str] = Field(default_factory=list, description="Rows that are not those of the chain.")
    notes: list[str] = Field(default_factory=list)

    @property
    def only_refusals(self) -> bool:
        """Whether nothing was ever done to it."""
        return self.rows == self.refusals and not self.broken


def replay(
    model: str,
    texts: Mapping[int, str],
    links: Sequence[AuditLink],
    ring: KeyRing,
    before: ModelRecord | None = None,
) -> ModelRecord:
    """Return what a model's rows say, given their texts by number and the links of the chain.

    Where the links are those since an earlier run, `before` is what that run found: the rows of then must say
    what they said then.
    """
    rows = [audit.read(text) for text in texts.values()]
    record = ModelRecord(
        rows=len(rows),
        last=max(texts, default=0),
        refusals=sum(row.action == "refused" for row in rows),
        digest=_texts_digest(texts),
        broken=list(_broken(model, texts, links)),
    )
    if before and before.digest != _texts_digest({n: t for n, t in texts.items() if n <= before.last}):
        record.broken.append(
            f"rows up to {before.last} of the audit ({model}) do not say what they said before"
        )
    used: set[str] = set()
    for position, row in enumerate(rows):
        _play(record, row, rows[:position], used, ring)
    return record


def _texts_digest(texts: Mapping[int, str]) -> str:
    return tree_digest({str(number): sha256(text.encode()).hexdigest() for number, text in texts.items()})


def _broken(model: str, texts: Mapping[int, str], links: Sequence[AuditLink]) -> Iterator[str]:
    for link in links:
        if link.model != model:
            continue
        text = texts.get(link.id)
        if text is None or sha256(text.encode()).hexdigest() != link.body:
            yield f"row {link.id} of the audit ({model}) does not say what the chain holds"
        elif audit.read(text).action == audit.UNREADABLE:
            yield f"row {link.id} of the audit ({model}) cannot be read"


def _play(
    record: ModelRecord, row: AuditEntry, before: Sequence[AuditEntry], used: set[str], ring: KeyRing
) -> None:
    if row.action == audit.UNREADABLE:
        record.notes.append("a row of the audit cannot be read")
        return
    if row.action == "sql":
        what = f"version {row.version} of {row.model}" if row.version else row.model
        record.notes.append(f"row {row.id}: {what} changed by SQL, as {row.role}, at {row.at}")
    if row.version is None:
        return
    if row.to_stage is None or row.to_stage == "Deleted_Internal":
        if row.action in ("deleted", "renamed", "sql") and row.from_stage:
            record.moves.pop(row.version, None)
        return
    move = Move(stage=row.to_stage, digest=row.digest)
    if row.to_stage in list(GATED):
        move.faults = list(_faults(move, row, before, used, ring))
        record.notes += move.faults
    record.moves[row.version] = move
    if row.to_stage == PRODUCTION and row.evidence:
        used.add(row.evidence)


def _faults(
    move: Move, row: AuditEntry, before: Sequence[AuditEntry], used: set[str], ring: KeyRing
) -> Iterator[str]:
    """Yield why a row had no right to put a version into Staging or Production."""
    what = f"{row.model} version {row.version}"
    if row.action == "found":
        return  # was there before the guard; its bytes and evidence are asked about all the same
    if row.action == "sql":
        yield f"{what} was set to {row.to_stage} by SQL, as {row.role}, at {row.at}"
        return
    if row.action not in _BY_EVIDENCE:
        yield f"{what} came to {row.to_stage} as {row.action!r}, which takes nothing there"
        return
    try:
        evidence, retired = _proof(row, ring)
        ref = rules.VersionRef(row.model, row.version or 0, evidence.source)
        if retired:
            move.retired = (
                f"the {retired.role} key {retired.keyid[:12]}, retired on {_day(retired.retired_at)}"
            )
            if datetime.fromisoformat(row.at) > retired.retired_at + rules.CLOCK_SKEW:
                yield f"{what} came to {row.to_stage} on {move.retired}, after that"
        wanted = _BY_EVIDENCE[row.action]
        if wanted not in (None, evidence.kind):
            yield f"{what} came to {row.to_stage} as {row.action}, on evidence of the kind {evidence.kind}"
        if (row.evidence, row.digest) != (evidence.digest, evidence.files_digest):
            yield f"{what} came to {row.to_stage} in a row that does not say what its evidence does"
        if row.action == "rollback":
            rules.require_about(evidence, ref)
            rules.require_passed(evidence, ref)
            if row.version not in audit.rollback_targets(before, _champion(before)):
                yield f"{what} was rolled back to without having been in Production by right"
        else:
            rules.require_good(evidence, ref, _promotion_context(row, before, used, evidence))
    except EvidenceError as error:
        yield f"{what} came to {row.to_stage} on evidence that does not hold: {error}"


def _proof(row: AuditEntry, ring: KeyRing) -> tuple[Evidence, RetiredKey | None]:
    """Return the evidence of a row, and the retired key that signed it, None if a trusted one did."""
    try:
        return verify(row.envelope or "", ring.trusted), None
    except EvidenceWrongKeyError as error:
        try:
            evidence = verify(row.envelope or "", ring.retired)
        except EvidenceWrongKeyError:
            raise error from None
        return evidence, ring.retired_key(evidence.keyid)


def _promotion_context(
    row: AuditEntry, before: Sequence[AuditEntry], used: set[str], evidence: Evidence
) -> rules.PromotionContext:
    """Return what the rules were asked with, as far as the rows before tell."""
    # The rows before end with the versions that this very move archived; the state is the one before them.
    made_room = f"made room for version {row.version}"
    earlier = list(before)
    while earlier and earlier[-1].reason == made_room and earlier[-1].action == "archived":
        earlier.pop()
    champion = _champion(earlier)
    # The champion's digest is in the row that took it there; one from before the guard has none.
    lead = next((r for r in reversed(earlier) if r.version == champion and r.to_stage == PRODUCTION), None)
    digest = lead.digest if lead else None
    incumbent = Incumbent(version=champion, digest=digest) if champion is not None else None
    return rules.PromotionContext(
        incumbent=incumbent if champion != row.version else None,
        now=datetime.fromisoformat(row.at),
        max_age=rules.EVIDENCE_MAX_AGE if evidence.kind == "gate" else rules.OVERRIDE_MAX_AGE,
        # An override of what is there already compares with nothing.
        changed_at=audit.production_changed(earlier) if row.from_stage != row.to_stage else None,
        used=used,
    )


def _champion(rows: Sequence[AuditEntry]) -> int | None:
    """Return the version that is in Production after some rows."""
    champion: int | None = None
    for row in rows:
        if row.version is None:
            continue
        if row.to_stage == PRODUCTION:
            champion = row.version
        elif row.version == champion and row.from_stage == PRODUCTION:
            champion = None
    return champion


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
