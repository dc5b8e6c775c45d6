"""When evidence lets a version move up. The server asks these rules; `greenroom gate` asks the same ones.

Nothing here reads a registry or a file: the caller brings the facts.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.digests import tree_digest
from registry.errors import (
    EvidenceBytesError,
    EvidenceError,
    EvidenceFailedError,
    EvidenceFilesError,
    EvidenceForeignError,
    EvidenceIncumbentError,
    EvidenceMissingError,
    EvidenceStaleError,
    EvidenceUnapprovedError,
    EvidenceUsedError,
)
from registry.evidence.attestation import Evidence, verify
from registry.evidence.keys import Role, TrustedKey
from registry.evidence.verdict import Incumbent
from registry.model_format.mlflow_folder import beyond_closed_list

# Data and thresholds of the day of the check may be others after a month. Constants, so that the server, the
# gate and `greenroom verify` always say the same.
EVIDENCE_MAX_AGE = timedelta(days=30)
# An override is signed by the person who then promotes; a longer one could be kept for another occasion.
OVERRIDE_MAX_AGE = timedelta(minutes=15)
# How far a clock may be ahead of ours before its evidence counts as made in the future. Synchronised clocks
# differ by milliseconds.
CLOCK_SKEW = timedelta(seconds=5)
_SHOWN = 3


@dataclass(frozen=True)
class VersionRef:
    """A version as the registry has it now."""

    model: str
    version: int
    source: str

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


@dataclass(frozen=True)
class PromotionContext:
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


def missing(ref: VersionRef) -> EvidenceMissingError:
    """Return the refusal of a version that has no evidence."""
    return EvidenceMissingError(
        f"{ref} has no evidence of the gate. Run `greenroom gate {ref.model} "
        f"{ref.version} --rerun`, or train it with `greenroom train {ref.model}`."
    )


def require_about(evidence: Evidence, ref: VersionRef) -> None:
    """Raise `EvidenceForeignError` unless evidence is about this very version."""
    subject = VersionRef(evidence.model, evidence.version, evidence.source)
    if subject != ref:
        what = (
            f"{subject}"
            if (subject.model, subject.version) != (ref.model, ref.version)
            else (f"another registration of {subject}, from {subject.source}")
        )
        raise EvidenceForeignError(f"The evidence on {ref} is about {what}. {_again(ref)}")


def require_passed(evidence: Evidence, ref: VersionRef) -> None:
    """Raise `EvidenceFailedError` if evidence says that the gate refused a version."""
    if evidence.passed:
        return
    failed = ", ".join(evidence.failed_tests) or "a check"
    raise EvidenceFailedError(
        f"The gate refused {ref}: {failed} failed. `greenroom gate {ref.model} {ref.version}` says why."
    )


def require_closed_files(files: Iterable[str], ref: VersionRef) -> None:
    """Raise `EvidenceFilesError` if a version holds a file that no served version may hold.

    `files` are paths. What an ONNX version may consist of is a closed list
    (registry/model_format/mlflow_folder.py). A pyfunc version's files are those that its model needs; a
    predictor runs it only where a setting allows it.
    """
    extra, absent = beyond_closed_list(files)
    if not (extra or absent):
        return
    kinds = [
        *(f"{name} may not be there" for name in extra),
        *(f"{name} is not there" for name in absent),
    ]
    more = f" and {len(kinds) - _SHOWN} more" if len(kinds) > _SHOWN else ""
    raise EvidenceFilesError(
        f"{ref} holds other files than a served version may hold: {', '.join(kinds[:_SHOWN])}{more}. Log the "
        "model again with `mlflow.onnx.log_model` alone, and register that (docs/evidence.md)."
    )


def require_looked_at(evidence: Evidence, ref: VersionRef) -> None:
    """Raise `EvidenceStaleError` if evidence is from before the gate looked at every file of a version.

    It counts for what is in its stage already; a version moves up on new evidence.
    """
    if evidence.kind == "gate" and evidence.artifact is None:
        raise EvidenceStaleError(
            f"The evidence on {ref} is from before the gate looked at every file of a version. {_again(ref)}"
        )


def require_not_future(evidence: Evidence, ref: VersionRef, now: datetime) -> None:
    """Raise `EvidenceStaleError` if evidence says that it was made later than now."""
    if evidence.created_at - now > CLOCK_SKEW:
        raise EvidenceStaleError(
            f"The evidence on {ref} was made in the future, {evidence.created_at:%Y-%m-%d %H:%M:%S} UTC. "
            f"Set the clock of the machine that made it. {_again(ref)}"
        )


def require_successor(
    evidence: Evidence, ref: VersionRef, before: Evidence | None, now: datetime, staged: str | None = None
) -> None:
    """Raise an `EvidenceError` unless evidence may take the place of what a version has.

    `before` is genuine evidence of the same kind that it has, if any; `staged` is the digest of the files
    with which it came into the stage that it is in, None if it is in none or that is not known.

    It is newer, unless what is there was made in the future: a clock that was ahead must not keep a version
    from new evidence. And about a version in a stage it says something about the same files.
    """
    require_not_future(evidence, ref, now)
    if before and evidence.created_at <= before.created_at <= now + CLOCK_SKEW:
        # The same in another writing would only disturb a promotion that is under way.
        raise EvidenceStaleError(
            f"{ref} has newer evidence already, made {before.created_at:%Y-%m-%d %H:%M:%S} UTC; older "
            "evidence cannot take its place."
        )
    if staged not in (None, evidence.files_digest):
        raise EvidenceBytesError(
            f"{ref} came into its stage with the files {(staged or '')[:19]}…, and the evidence is about "
            f"{evidence.files_digest[:19]}…: evidence about a version in a stage can only be renewed for the "
            f"same files. Register other files as a new version."
        )


def first_genuine(
    envelopes: Iterable[str], ref: VersionRef, trusted: Mapping[Role, Sequence[TrustedKey]]
) -> tuple[Evidence, str]:
    """Return the first evidence that a trusted key signed, about a version, no refusal, and about files that
    a served version may hold; and its envelope.

    Its age and the bytes do not count here. Raises the `EvidenceError` of the last one.
    """
    problem: EvidenceError = missing(ref)
    for envelope in envelopes:
        try:
            evidence = verify(envelope, trusted)
            require_about(evidence, ref)
            require_passed(evidence, ref)
            require_closed_files(evidence.files, ref)
        except EvidenceError as error:
            problem = error
        else:
            return evidence, envelope
    raise problem


def require_good(evidence: Evidence, ref: VersionRef, context: PromotionContext) -> None:
    """Raise the `EvidenceError` that says why a version may not move up; its bytes are not asked about."""
    require_about(evidence, ref)
    require_passed(evidence, ref)
    _require_fresh(evidence, ref, context)
    if not _same(evidence.incumbent, context.incumbent):
        was = _incumbent(evidence.incumbent)
        raise EvidenceIncumbentError(
            f"{ref} was compared with {was} in Production, and now {_incumbent(context.incumbent)} "
            f"is there. {_again(ref)}"
        )
    if evidence.digest in context.used:
        raise EvidenceUsedError(
            f"The evidence on {ref} took it to Production before and counts once. {_again(ref)}"
        )
    if context.changed_at and evidence.created_at < context.changed_at:
        # Else somebody could take a better version away for a moment, and with it what had to be beaten.
        raise EvidenceIncumbentError(
            f"What is in Production changed since {ref} was compared with it. {_again(ref)}"
        )


def require_approved_rows(evidence: Evidence, ref: VersionRef, approved: Set[str]) -> None:
    """Raise `EvidenceUnapprovedError` if a version may not go to Production for the rows it was judged on.

    Rows that no declaration names were brought by somebody: a version that was judged on them goes to
    Production only if an operator approved the dataset. `approved` are the approved datasets of the model.
    """
    data = evidence.data
    if data is None or data.declared or data.source in approved:
        return
    by = f", as it says by {data.brought_by}" if data.brought_by else ""
    raise EvidenceUnapprovedError(
        f"{ref} was judged on rows that somebody brought{by} ({data.source}), and no operator approved them "
        f"for Production. Look at them, then `greenroom approve {ref.model} {data.source} --reason …`."
    )


def require_bytes(evidence: Evidence, ref: VersionRef, files: Mapping[str, str]) -> None:
    """Raise `EvidenceBytesError` unless a version holds exactly the files that evidence is about, and
    `EvidenceFilesError` if a file is among them that no served version may hold.

    `files` maps the path of each file that it holds now to its SHA-256.
    """
    if dict(evidence.files) == dict(files):
        require_closed_files(files, ref)
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
        f"{ref} does not hold the bytes that were checked: {', '.join(kinds)}{more}. They are "
        f"{tree_digest(files)[:19]}…, the evidence is about {evidence.files_digest[:19]}…. Register the "
        "model again from a training."
    )


def _require_fresh(evidence: Evidence, ref: VersionRef, context: PromotionContext) -> None:
    age = context.now - evidence.created_at
    if age > context.max_age:
        days = age / timedelta(days=1)
        how_old = f"{days:.0f} days" if days >= 2 else f"{age / timedelta(minutes=1):.0f} minutes"
        raise EvidenceStaleError(f"The evidence on {ref} is {how_old} old. {_again(ref)}")
    require_not_future(evidence, ref, context.now)
    if evidence.kind == "gate" and context.policy_digest not in (None, evidence.policy_digest):
        raise EvidenceStaleError(
            f"The evidence on {ref} was made under another gate policy than the one that applies now. "
            f"{_again(ref)}"
        )


def _same(compared: Incumbent | None, now: Incumbent | None) -> bool:
    if compared is None or now is None:
        return compared is now
    # Of an incumbent without evidence (from before the guard) only the number is known.
    return compared.version == now.version and now.digest in (None, compared.digest)


def _again(ref: VersionRef) -> str:
    return f"Run `greenroom gate {ref.model} {ref.version} --rerun`."


def _incumbent(incumbent: Incumbent | None) -> str:
    if incumbent is None:
        return "no version"
    return f"version {incumbent.version}" + (f" ({incumbent.digest[:19]}…)" if incumbent.digest else "")
