"""When evidence lets a version move up. The server asks these rules; `greenroom gate` asks the same ones.

Nothing here reads a registry or a file: the caller brings the facts.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.digests import tree_digest
from registry.errors import (
    EvidenceBytesError,
    EvidenceFailedError,
    EvidenceForeignError,
    EvidenceIncumbentError,
    EvidenceMissingError,
    EvidenceStaleError,
    EvidenceUsedError,
)
from registry.evidence.attestation import Evidence
from registry.evidence.verdict import Incumbent

# How far a clock may be ahead of ours before its evidence counts as made in the future.
_CLOCK_SKEW = timedelta(minutes=5)
_SHOWN = 3


@dataclass(frozen=True)
class Candidate:
    """A version as the registry has it now."""

    model: str
    version: int
    source: str

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


@dataclass(frozen=True)
class Situation:
    """What evidence is held against.

    `policy_digest` is that of the policy that applies now, None where the catalogue has no such model;
    `changed_at` is when what is in Production changed last, None if it never did;
    `used` holds the digests of evidence that took a version of this model to Production before.
    """

    incumbent: Incumbent | None
    now: datetime
    max_age: timedelta
    policy_digest: str | None = None
    changed_at: datetime | None = None
    used: Set[str] = frozenset()


def missing(candidate: Candidate) -> EvidenceMissingError:
    """Return the refusal of a version that has no evidence."""
    return EvidenceMissingError(
        f"{candidate} has no evidence of the gate. Run `greenroom gate {candidate.model} "
        f"{candidate.version} --rerun`, or train it with `greenroom train {candidate.model}`."
    )


def require_about(evidence: Evidence, candidate: Candidate) -> None:
    """Raise `EvidenceForeignError` unless evidence is about this very version."""
    said = Candidate(evidence.model, evidence.version, evidence.source)
    if said != candidate:
        what = (
            f"{said}"
            if (said.model, said.version) != (candidate.model, candidate.version)
            else (f"another registration of {said}, from {said.source}")
        )
        raise EvidenceForeignError(f"The evidence on {candidate} is about {what}. {_again(candidate)}")


def require_passed(evidence: Evidence, candidate: Candidate) -> None:
    """Raise `EvidenceFailedError` if evidence says that the gate refused a version."""
    if evidence.passed:
        return
    failed = ", ".join(evidence.failed_tests) or "a check"
    raise EvidenceFailedError(
        f"The gate refused {candidate}: {failed} failed. "
        f"`greenroom gate {candidate.model} {candidate.version}` says why."
    )


def require_good(evidence: Evidence, candidate: Candidate, situation: Situation) -> None:
    """Raise the `EvidenceError` that says why a version may not move up; its bytes are not asked about."""
    require_about(evidence, candidate)
    require_passed(evidence, candidate)
    _require_fresh(evidence, candidate, situation)
    if not _same(evidence.incumbent, situation.incumbent):
        was = _incumbent(evidence.incumbent)
        raise EvidenceIncumbentError(
            f"{candidate} was compared with {was} in Production, and now {_incumbent(situation.incumbent)} "
            f"is there. {_again(candidate)}"
        )
    if evidence.digest in situation.used:
        raise EvidenceUsedError(
            f"The evidence on {candidate} took it to Production before and counts once. {_again(candidate)}"
        )
    if situation.changed_at and evidence.created_at < situation.changed_at:
        # Else somebody could take a better version away for a moment, and with it what had to be beaten.
        raise EvidenceIncumbentError(
            f"What is in Production changed since {candidate} was compared with it. {_again(candidate)}"
        )


def require_bytes(evidence: Evidence, candidate: Candidate, files: Mapping[str, str]) -> None:
    """Raise `EvidenceBytesError` unless a version holds exactly the files that evidence is about.

    `files` maps the path of each file that it holds now to its SHA-256.
    """
    if dict(evidence.files) == dict(files):
        return
    names = sorted(evidence.files.keys() | files.keys())
    changed = [name for name in names if evidence.files.get(name) != files.get(name)]
    kinds = [
        f"{name} "
        f"({'is gone' if name not in files else 'was added' if name not in evidence.files else 'differs'})"
        for name in changed[:_SHOWN]
    ]
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    raise EvidenceBytesError(
        f"{candidate} does not hold the bytes that were checked: {', '.join(kinds)}{more}. They are "
        f"{tree_digest(files)[:19]}…, the evidence is about {evidence.files_digest[:19]}…. Register the "
        "model again from a training."
    )


def _require_fresh(evidence: Evidence, candidate: Candidate, situation: Situation) -> None:
    age = situation.now - evidence.created_at
    if age > situation.max_age:
        days = age / timedelta(days=1)
        how_old = f"{days:.0f} days" if days >= 2 else f"{age / timedelta(minutes=1):.0f} minutes"
        raise EvidenceStaleError(f"The evidence on {candidate} is {how_old} old. {_again(candidate)}")
    if age < -_CLOCK_SKEW:
        raise EvidenceStaleError(
            f"The evidence on {candidate} was made in the future, {evidence.created_at:%Y-%m-%d %H:%M} UTC. "
            f"Set the clock of the machine that made it. {_again(candidate)}"
        )
    if evidence.kind == "gate" and situation.policy_digest not in (None, evidence.policy_digest):
        raise EvidenceStaleError(
            f"The evidence on {candidate} was made under another gate policy than the one that applies now. "
            f"{_again(candidate)}"
        )


def _same(compared: Incumbent | None, now: Incumbent | None) -> bool:
    if compared is None or now is None:
        return compared is now
    # Of an incumbent without evidence (from before the guard) only the number is known.
    return compared.version == now.version and now.digest in (None, compared.digest)


def _again(candidate: Candidate) -> str:
    return f"Run `greenroom gate {candidate.model} {candidate.version} --rerun`."


def _incumbent(found: Incumbent | None) -> str:
    if found is None:
        return "no version"
    return f"version {found.version}" + (f" ({found.digest[:19]}…)" if found.digest else "")
