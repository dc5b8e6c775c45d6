"""From what the registry holds to a decision: the rules (registry/evidence/rules.py),
asked with the server's facts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from catalog.loader import load_catalog
from registry.audit import AuditEntry, production_changed, rollback_targets, used_evidence
from registry.errors import (
    EvidenceBytesError,
    EvidenceError,
    EvidenceMissingError,
    EvidenceStaleError,
)
from registry.evidence import keys, rules
from registry.evidence.attestation import Evidence, Kind, verify
from registry.evidence.verdict import Incumbent, policy_digest
from registry.names import EVIDENCE, GATED, OVERRIDE, Stage
from registry.server.settings import GuardSettings

# Reads the SHA-256 of each file that a version holds, by path.
Files = Callable[[], Mapping[str, str]]
_KINDS: Mapping[str, Kind] = {EVIDENCE: "gate", OVERRIDE: "override"}


@dataclass(frozen=True)
class VersionSnapshot:
    """A version, and what else decides over it, as the registry has them at one moment."""

    name: str
    number: int
    stage: Stage
    source: str
    location: str
    evidence: str | None
    override: str | None
    incumbent: Incumbent | None
    used: frozenset[str]
    changed_at: datetime | None
    history: tuple[AuditEntry, ...] = field(default=(), compare=False)

    @property
    def ref(self) -> rules.VersionRef:
        """The version, as the rules speak of it."""
        return rules.VersionRef(self.name, self.number, self.source)


@dataclass(frozen=True)
class Decision:
    """Why a move is allowed: `action` for the audit, and the evidence that it rests on."""

    action: str
    evidence: Evidence | None = None
    envelope: str | None = None
    message: str | None = None

    def context(self) -> dict[str, Any]:
        """Return the fields of the audit's row."""
        evidence = self.evidence
        return {
            "action": self.action,
            "message": self.message,
            "digest": evidence.files_digest if evidence else None,
            "evidence": evidence.digest if evidence else None,
            "envelope": self.envelope,
        }


class Judge:
    """Decides by the rules; reads keys, settings and the catalogue, never the database."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        # Now, so that a broken declaration stops the server's start and not a promotion.
        self._policies = {name: policy_digest(spec.gate) for name, spec in load_catalog().items()}

    def declares(self, name: str) -> bool:
        """Whether the catalogue declares a model of that name."""
        return name in self._policies

    def snapshot(
        self,
        row: Any,
        tags: Mapping[str, str],
        other: Any,
        other_tags: Mapping[str, str],
        history: Iterable[AuditEntry],
    ) -> VersionSnapshot:
        """Return the snapshot of a version from its row and tags, those of the version in Production,
        and the audit.
        """
        rows = tuple(history)
        return VersionSnapshot(
            name=row.name,
            number=row.version,
            stage=Stage(row.current_stage),
            source=row.source or "",
            location=row.storage_location or row.source or "",
            evidence=tags.get(EVIDENCE),
            override=tags.get(OVERRIDE),
            incumbent=self._incumbent(other, other_tags) if other is not None else None,
            used=used_evidence(rows),
            changed_at=production_changed(rows),
            history=rows,
        )

    def accept_evidence(self, snapshot: VersionSnapshot, key: str, envelope: str) -> Evidence:
        """Return evidence that somebody wants to put on a version;
        raises `EvidenceError` if it may not be there.
        """
        evidence = self._verify(envelope)
        rules.require_about(evidence, snapshot.ref)
        if evidence.kind != _KINDS[key]:
            raise EvidenceMissingError(f"The tag {key} holds another kind of evidence than this.")
        before = snapshot.evidence if key == EVIDENCE else snapshot.override
        if before and before != envelope:
            there = self._believed(before)
            if there and snapshot.stage in GATED and there.files_digest != evidence.files_digest:
                # Else two predictors could serve different bytes as one version.
                raise EvidenceBytesError(
                    f"{snapshot.ref} is in {snapshot.stage}, where evidence is renewed for the same bytes "
                    "alone. Register the other bytes as a version of their own."
                )
            # The same in another writing would only disturb a promotion that is under way.
            if there and there.created_at >= evidence.created_at:
                raise EvidenceStaleError(
                    f"{snapshot.ref} has newer evidence already, made {there.created_at:%Y-%m-%d %H:%M:%S} "
                    "UTC; older evidence cannot take its place."
                )
        return evidence

    def promotion(self, snapshot: VersionSnapshot, target: Stage, files: Files) -> Decision:
        """Return on what ground a version may move to Staging or Production; raises `EvidenceError`.

        `files` reads what the version holds, and is asked last: all else is decided without.
        """
        try:
            evidence = self._gate_evidence(snapshot, files)
            return Decision(
                "promoted" if target is Stage.PRODUCTION else "staged", evidence, snapshot.evidence
            )
        except EvidenceError as refusal:
            if not snapshot.override:
                raise
            try:
                override = self._override(snapshot, files)
            except EvidenceError as error:
                raise type(refusal)(
                    f"{refusal} There is an override, which does not hold either: {error}"
                ) from error
            return Decision("override", override, snapshot.override, f"Overrode: {refusal}")

    def rollback(self, snapshot: VersionSnapshot, files: Files, reason: str | None) -> Decision:
        """Return on what ground a version that was in Production before may come back; raises
        `EvidenceError`.

        Its evidence may be old and compared with another incumbent, but must be genuine, and its bytes
        intact.
        """
        current = snapshot.incumbent.version if snapshot.incumbent else None
        if snapshot.number not in rollback_targets(snapshot.history, current):
            raise EvidenceMissingError(
                f"{snapshot.ref} was never in Production by right, or a rollback left it behind, so it "
                f"cannot be rolled back to. `greenroom history {snapshot.name}` shows what was."
            )
        if not reason:
            raise EvidenceMissingError(
                f"A rollback needs a reason: `greenroom rollback {snapshot.name} --reason …`."
            )
        evidence, envelope = self._genuine(snapshot)
        rules.require_bytes(evidence, snapshot.ref, files())
        return Decision("rollback", evidence, envelope)

    def confirm_override(self, snapshot: VersionSnapshot, files: Files) -> Decision | None:
        """Return an override of a version that is in its stage already,
        if it has one that is new and good.
        """
        if not snapshot.override:
            return None
        try:
            override = self._override(snapshot, files)
        except EvidenceError:
            return None  # nothing was asked for that it would have to allow
        if any(row.evidence == override.digest for row in snapshot.history):
            return None
        return Decision("override", override, snapshot.override, "It was in the stage already.")

    def find_mismatch(self, snapshot: VersionSnapshot, files: Files) -> EvidenceBytesError | None:
        """Return how a version's bytes differ from its evidence, or None."""
        try:
            evidence, _ = self._genuine(snapshot)
            rules.require_bytes(evidence, snapshot.ref, files())
        except EvidenceBytesError as error:
            return error
        return None

    def _gate_evidence(self, snapshot: VersionSnapshot, files: Files) -> Evidence:
        if not snapshot.evidence:
            raise rules.missing(snapshot.ref)
        evidence = self._verify(snapshot.evidence)
        context = rules.PromotionContext(
            incumbent=snapshot.incumbent,
            now=datetime.now(UTC),
            max_age=rules.EVIDENCE_MAX_AGE,
            policy_digest=self._policies.get(snapshot.name),
            changed_at=snapshot.changed_at,
            used=snapshot.used,
        )
        rules.require_good(evidence, snapshot.ref, context)
        rules.require_bytes(evidence, snapshot.ref, files())
        return evidence

    def _override(self, snapshot: VersionSnapshot, files: Files) -> Evidence:
        """Return an operator's override that holds now; else raise what is wrong with it."""
        context = rules.PromotionContext(
            incumbent=snapshot.incumbent,
            now=datetime.now(UTC),
            max_age=rules.OVERRIDE_MAX_AGE,
            changed_at=snapshot.changed_at if snapshot.stage is not Stage.PRODUCTION else None,
            used=snapshot.used,
        )
        override = self._verify(snapshot.override or "")
        rules.require_good(override, snapshot.ref, context)
        rules.require_bytes(override, snapshot.ref, files())
        return override

    def _genuine(self, snapshot: VersionSnapshot) -> tuple[Evidence, str]:
        envelopes = filter(None, (snapshot.evidence, snapshot.override))
        return rules.first_genuine(envelopes, snapshot.ref, keys.all_trusted(self._settings))

    def _verify(self, envelope: str) -> Evidence:
        return verify(envelope, keys.all_trusted(self._settings))

    def _believed(self, envelope: str) -> Evidence | None:
        try:
            return self._verify(envelope)
        except EvidenceError:
            return None

    def _incumbent(self, row: Any, tags: Mapping[str, str]) -> Incumbent:
        for key in (EVIDENCE, OVERRIDE):
            evidence = self._believed(tags[key]) if key in tags else None
            if evidence and (evidence.model, evidence.version) == (row.name, row.version):
                return Incumbent(version=row.version, digest=evidence.files_digest)
        return Incumbent(version=row.version, digest=None)
