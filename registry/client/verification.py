"""Checks the audit and what is in a stage, from outside the server and without believing it.

The chain shows whether rows were removed or changed. The rows are then played through again: a version is in
its stage by right only if the row that put it there rests on evidence that a trusted key signed, about that
version, and that held when it was used. Digests show whether it still is what it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from registry import audit
from registry.audit import PRODUCTION, AuditEntry, AuditLink
from registry.client import audit_log
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceError, NotFoundError, RegistryRefusedError
from registry.evidence import keys, rules
from registry.evidence.attestation import Evidence
from registry.evidence.attestation import verify as verify_envelope
from registry.evidence.verdict import Incumbent
from registry.names import GATED, Stage, normalize_name
from registry.settings import KeySettings

# Which kind of evidence each action rests on; None: either.
_BY_EVIDENCE = {"promoted": "gate", "staged": "gate", "override": "override", "rollback": None}
# A name that nobody gives a model: the chain is the same whichever model's it is asked as.
_ANY = "greenroom"


@dataclass
class VerificationReport:
    """The result. Problems say what is wrong now; notes, what was wrong once."""

    rows: int = 0
    head: str = ""
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    client: TrackingClient,
    settings: KeySettings,
    models: Sequence[str] = (),
    *,
    expected_head: str | None = None,
) -> VerificationReport:
    """Check the chain, and every model or the ones that are named.

    `expected_head` is the head of an earlier run, which must still be in the chain.

    Raises `RegistryRefusedError` when the server has no guard, `RegistryUnavailableError` when it does not
    answer.
    """
    registry, report = Registry(client), VerificationReport()
    registered = registry.models()
    links = audit_log.chain(client, registered[0] if registered else _ANY)
    report.rows, report.head = len(links), links[-1].hash if links else ""
    report.problems += audit.broken_links(links)
    if expected_head and expected_head not in {link.hash for link in links}:
        report.problems.append(
            f"the audit does not hold the row {expected_head[:12]}… that it held before: its end was cut off"
        )
    # The audit's models too: a model can be hidden from MLflow's searches.
    known = {*registered, *(link.model for link in links)}
    report.problems += [f"there is no model {name!r}, nor was there" for name in models if name not in known]
    for model in sorted(known.intersection(models) if models else known):
        try:
            _verify_model(client, settings, model, links, report)
        except (RegistryRefusedError, NotFoundError) as error:
            report.problems.append(f"{model} could not be checked: {error}")
    return report


def _verify_model(
    client: TrackingClient,
    settings: KeySettings,
    model: str,
    links: Sequence[AuditLink],
    report: VerificationReport,
) -> None:
    registry = Registry(client)
    texts = audit_log.history_texts(client, model)
    report.problems += _texts(model, texts, links)
    rows = [audit.read(text) for text in texts.values()]
    replay = _replay(rows, settings)
    report.notes += replay.notes
    numbers = {v.number for v in registry.versions(model)} | set(replay.stages)
    versions = [v for v in (_version(registry, model, number) for number in sorted(numbers)) if v]
    for version in versions:
        audited_stage = replay.stages.get(version.number, Stage.NONE.value)
        if audited_stage != version.stage.value:
            report.problems.append(f"{version} is in {version.stage}, and by the audit in {audited_stage}")
        if version.stage in GATED:
            report.problems += replay.faults.get(version.number, [])
            report.problems += _bytes(registry, version, settings)
            report.checked.append(f"{version} in {version.stage}")
    gone = {n for n, stage in replay.stages.items() if stage in list(GATED)} - {v.number for v in versions}
    report.problems += [f"{model} version {n} is gone, and by the audit in {replay.stages[n]}" for n in gone]
    report.problems += _names(client, model, versions, settings)


@dataclass
class _Replay:
    """Where the rows say that each version is, and what is wrong with how it came there."""

    stages: dict[int, str] = field(default_factory=dict)
    faults: dict[int, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _replay(rows: Sequence[AuditEntry], settings: KeySettings) -> _Replay:
    replay = _Replay()
    used: set[str] = set()
    for position, row in enumerate(rows):
        if row.action == audit.UNREADABLE:
            replay.notes.append("a row of the audit cannot be read")
            continue
        if row.action == "sql":
            what = f"version {row.version} of {row.model}" if row.version else row.model
            replay.notes.append(f"row {row.id}: {what} changed by SQL, as {row.role}, at {row.at}")
        if row.version is None:
            continue
        if row.to_stage is None or row.to_stage == "Deleted_Internal":
            if row.action in ("deleted", "renamed", "sql") and row.from_stage:
                replay.stages.pop(row.version, None)
                replay.faults.pop(row.version, None)
            continue
        faults = list(_faults(row, rows[:position], used, settings)) if row.to_stage in list(GATED) else []
        replay.notes += faults
        replay.faults[row.version] = faults
        replay.stages[row.version] = row.to_stage
        if row.to_stage == PRODUCTION and row.evidence:
            used.add(row.evidence)
    return replay


def _faults(
    row: AuditEntry, before: Sequence[AuditEntry], used: set[str], settings: KeySettings
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
        evidence = verify_envelope(row.envelope or "", keys.all_trusted(settings))
        ref = rules.VersionRef(row.model, row.version or 0, evidence.source)
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
            rules.require_good(evidence, ref, _promotion_context(row, before, used, evidence, settings))
    except EvidenceError as error:
        yield f"{what} came to {row.to_stage} on evidence that does not hold: {error}"


def _promotion_context(
    row: AuditEntry, before: Sequence[AuditEntry], used: set[str], evidence: Evidence, settings: KeySettings
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
    age = (
        timedelta(days=settings.evidence_max_age)
        if evidence.kind == "gate"
        else timedelta(minutes=settings.override_max_age)
    )
    return rules.PromotionContext(
        incumbent=incumbent if champion != row.version else None,
        now=datetime.fromisoformat(row.at),
        max_age=age,
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


def _version(registry: Registry, model: str, number: int) -> Version | None:
    """Return a version by its number, not by a search: those hide what is marked as a prompt."""
    try:
        return registry.version(model, number)
    except NotFoundError:
        return None


def _texts(model: str, texts: Mapping[int, str], links: Sequence[AuditLink]) -> Iterator[str]:
    for link in links:
        if link.model != model:
            continue
        text = texts.get(link.id)
        if text is None or sha256(text.encode()).hexdigest() != link.body:
            yield f"row {link.id} of the audit ({model}) does not say what the chain holds"
        elif audit.read(text).action == audit.UNREADABLE:
            yield f"row {link.id} of the audit ({model}) cannot be read"


def _bytes(registry: Registry, version: Version, settings: KeySettings) -> Iterator[str]:
    try:
        evidence = registry.evidence(version, settings)
        rules.require_bytes(evidence, version.ref, registry.files(version))
        if evidence.kind == "gate" and evidence.report_digest != registry.report_digest(version):
            yield f"{version} in {version.stage}: the gate's reports are not those that were signed"
    except (EvidenceError, NotFoundError) as error:
        yield f"{version} in {version.stage}: {error}"


def _names(
    client: TrackingClient, model: str, versions: Sequence[Version], settings: KeySettings
) -> Iterator[str]:
    """Yield where an alias that means Production points elsewhere, or a model is hidden as a prompt."""
    try:
        registered = client.get("registered-models/get", {"name": model})["registered_model"]
    except NotFoundError:
        return
    champion = next((v.number for v in versions if v.stage is Stage.PRODUCTION), None)
    hidden = any(
        tag["key"] == "mlflow.prompt.is_prompt" and str(tag.get("value")).lower() == "true"
        for tag in registered.get("tags", [])
    )
    if hidden and any(v.stage is not Stage.NONE for v in versions):
        yield f"{model} is marked as a prompt, which hides it from MLflow's searches"
    if hidden:
        return  # a prompt's aliases are its own
    for alias in registered.get("aliases", []):
        if (
            normalize_name(alias["alias"]) in settings.production_alias_names
            and int(alias["version"]) != champion
        ):
            yield (
                f"the alias {alias['alias']!r} of {model}, which means Production, points at version "
                f"{alias['version']}, and in Production is {champion or 'none'}"
            )
