"""From what the registry holds to a decision: the rules (registry/evidence/rules.py),
asked with the server's facts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from catalog.loader import load_catalog
from registry.audit import Row, production_changed, rollback_targets, used_evidence
from registry.errors import (
    EvidenceBytesError,
    EvidenceError,
    EvidenceMissingError,
    EvidenceStaleError,
)
from registry.evidence import keys, rules
from registry.evidence.attestation import Evidence, Kind, verify
from registry.evidence.verdict import Incumbent, policy_digest
from registry.names import EVIDENCE, OVERRIDE, Stage
from registry.server.settings import GuardSettings

# Reads the SHA-256 of each file that a version holds, by path.
Files = Callable[[], Mapping[str, str]]
_KINDS: Mapping[str, Kind] = {EVIDENCE: "gate", OVERRIDE: "override"}


@dataclass(frozen=True)
class View:
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
    history: tuple[Row, ...] = field(default=(), compare=False)

    @property
    def candidate(self) -> rules.Candidate:
        """The version, as the rules speak of it."""
        return rules.Candidate(self.name, self.number, self.source)


@dataclass(frozen=True)
class Decision:
    """Why a move is allowed: `action` for the audit, and the evidence that it rests on."""

    action: str
    evidence: Evidence | None = None
    envelope: str | None = None
    message: str | None = None

    def context(self) -> dict[str, Any]:
        """Return what the audit's row says of it."""
        found = self.evidence
        return {
            "action": self.action,
            "message": self.message,
            "digest": found.files_digest if found else None,
            "evidence": found.digest if found else None,
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

    def view(
        self,
        row: Any,
        tags: Mapping[str, str],
        other: Any,
        other_tags: Mapping[str, str],
        history: Iterable[Row],
    ) -> View:
        """Return the view of a version from its row and tags, those of the version in Production,
        and the audit.
        """
        rows = tuple(history)
        return View(
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

    def acceptable(self, view: View, key: str, envelope: str) -> Evidence:
        """Return evidence that somebody wants to put on a version;
        raises `EvidenceError` if it may not be there.
        """
        evidence = self._verify(envelope)
        rules.require_about(evidence, view.candidate)
        if evidence.kind != _KINDS[key]:
            raise EvidenceMissingError(f"The tag {key} holds another kind of evidence than this.")
        before = view.evidence if key == EVIDENCE else view.override
        if before and before != envelope:
            there = self._believed(before)
            # The same in another writing would only disturb a promotion that is under way.
            if there and there.created_at >= evidence.created_at:
                raise EvidenceStaleError(
                    f"{view.candidate} has newer evidence already, made {there.created_at:%Y-%m-%d %H:%M:%S} "
                    "UTC; older evidence cannot take its place."
                )
        return evidence

    def promotion(self, view: View, target: Stage, files: Files) -> Decision:
        """Return on what ground a version may move to Staging or Production; raises `EvidenceError`.

        `files` reads what the version holds, and is asked last: all else is decided without.
        """
        try:
            evidence = self._gate_evidence(view, files)
            return Decision("promoted" if target is Stage.PRODUCTION else "staged", evidence, view.evidence)
        except EvidenceError as refusal:
            if not view.override:
                raise
            try:
                override = self._override(view, files)
            except EvidenceError as error:
                raise type(refusal)(
                    f"{refusal} There is an override, which does not hold either: {error}"
                ) from error
            return Decision("override", override, view.override, f"Overrode: {refusal}")

    def rollback(self, view: View, files: Files, reason: str | None) -> Decision:
        """Return on what ground a version that was in Production before may come back; raises
        `EvidenceError`.

        Its evidence may be old and compared with another incumbent, but must be genuine, and its bytes
        intact.
        """
        current = view.incumbent.version if view.incumbent else None
        if view.number not in rollback_targets(view.history, current):
            raise EvidenceMissingError(
                f"{view.candidate} was never in Production by right, or a rollback left it behind, so it "
                f"cannot be rolled back to. `greenroom history {view.name}` shows what was."
            )
        if not reason:
            raise EvidenceMissingError(
                f"A rollback needs a reason: `greenroom rollback {view.name} --reason …`."
            )
        evidence, envelope = self._genuine(view)
        rules.require_bytes(evidence, view.candidate, files())
        return Decision("rollback", evidence, envelope)

    def confirmation(self, view: View, files: Files) -> Decision | None:
        """Return an override of a version that is in its stage already,
        if it has one that is new and good.
        """
        if not view.override:
            return None
        try:
            override = self._override(view, files)
        except EvidenceError:
            return None  # nothing was asked for that it would have to allow
        if any(row.evidence == override.digest for row in view.history):
            return None
        return Decision("override", override, view.override, "It was in the stage already.")

    def mismatch(self, view: View, files: Files) -> EvidenceBytesError | None:
        """Return how a version's bytes differ from its evidence, or None."""
        try:
            evidence, _ = self._genuine(view)
            rules.require_bytes(evidence, view.candidate, files())
        except EvidenceBytesError as error:
            return error
        return None

    def _gate_evidence(self, view: View, files: Files) -> Evidence:
        if not view.evidence:
            raise rules.missing(view.candidate)
        evidence = self._verify(view.evidence)
        situation = rules.Situation(
            incumbent=view.incumbent,
            now=datetime.now(UTC),
            max_age=timedelta(days=self._settings.evidence_max_age),
            policy_digest=self._policies.get(view.name),
            changed_at=view.changed_at,
            used=view.used,
        )
        rules.require_good(evidence, view.candidate, situation)
        rules.require_bytes(evidence, view.candidate, files())
        return evidence

    def _override(self, view: View, files: Files) -> Evidence:
        """Return an operator's override that holds now; else raise what is wrong with it."""
        situation = rules.Situation(
            incumbent=view.incumbent,
            now=datetime.now(UTC),
            max_age=timedelta(minutes=self._settings.override_max_age),
            changed_at=view.changed_at if view.stage is not Stage.PRODUCTION else None,
            used=view.used,
        )
        override = self._verify(view.override or "")
        rules.require_good(override, view.candidate, situation)
        rules.require_bytes(override, view.candidate, files())
        return override

    def _genuine(self, view: View) -> tuple[Evidence, str]:
        """Return evidence or override that is signed, about the version, and not a refusal;
        age does not count.
        """
        problem: EvidenceError = rules.missing(view.candidate)
        for envelope in filter(None, (view.evidence, view.override)):
            try:
                evidence = self._verify(envelope)
                rules.require_about(evidence, view.candidate)
                rules.require_passed(evidence, view.candidate)
            except EvidenceError as error:
                problem = error
            else:
                return evidence, envelope
        raise problem

    def _verify(self, envelope: str) -> Evidence:
        return verify(envelope, {role: keys.trusted(role, self._settings) for role in keys.ROLES})

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
