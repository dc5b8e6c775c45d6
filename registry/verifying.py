"""Checks the audit and what is in a stage, from outside the server and without believing it.

The chain shows whether rows were removed or changed; signatures, whether what is in Production came there by
right; digests, whether it still is what it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from registry import audit, keys, rules
from registry.attestation import verify as verify_envelope
from registry.audit import Row
from registry.client import TrackingClient
from registry.errors import EvidenceError, NotFoundError, RegistryError
from registry.settings import KeySettings
from registry.stage import GATED, Stage
from registry.stages import Registry, Version

_BY_EVIDENCE = frozenset({"promoted", "staged", "override", "rollback"})


@dataclass
class Finding:
    """What was found. Problems mean that something is not by right now; notes, that something was once."""

    rows: int = 0
    head: str = ""
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(client: TrackingClient, settings: KeySettings, *, expected_head: str | None = None) -> Finding:
    """Check everything; `expected_head` is the head of an earlier run, which must still be in the chain.

    Raises `RegistryRefusedError` when the server has no guard, `RegistryUnavailableError` when it does not
    answer.
    """
    registry = Registry(client)
    found = Finding()
    models = registry.models()
    if not models:
        return found
    links = audit.chain(client, models[0])
    found.rows, found.head = len(links), links[-1].hash if links else ""
    found.problems += audit.broken_links(links)
    if expected_head and expected_head not in {link.hash for link in links}:
        found.problems.append(
            f"the audit does not hold the row {expected_head[:12]}… that it held before: its end was cut off"
        )
    for model in sorted({*models, *(link.model for link in links if link.model)}):
        texts = audit.history_texts(client, model)
        found.problems += _texts(model, texts, links)
        rows = [Row.model_validate_json(text) for text in texts.values()]
        versions = registry.versions(model) if model in models else []
        found.problems += _stages(rows, versions)
        found.notes += _history(rows, settings)
        for version in versions:
            if version.stage in GATED:
                found.problems += _staged(registry, version, settings)
                found.checked.append(f"{version} in {version.stage}")
    return found


def _texts(model: str, texts: dict[int, str], links: Sequence[audit.Link]) -> Iterator[str]:
    expected = {link.id: link.body for link in links if link.model == model}
    for number, body in expected.items():
        if number not in texts or sha256(texts[number].encode()).hexdigest() != body:
            yield f"row {number} of the audit ({model}) does not say what the chain holds"


def _stages(rows: Sequence[Row], versions: Sequence[Version]) -> Iterator[str]:
    """Yield where the registry and the audit do not agree,
    or a stage was last set behind the guard's back.
    """
    last = {row.version: row for row in rows if row.to_stage and row.version is not None}
    for version in versions:
        row = last.get(version.number)
        said = Stage(row.to_stage) if row and row.to_stage in list(Stage) else Stage.NONE
        if said is not version.stage:
            yield f"{version} is in {version.stage}, and by the audit in {said}"
        elif row and row.action == "sql" and version.stage in GATED:
            yield f"{version} was set to {version.stage} by SQL, as {row.role}, at {row.at}"
    in_production = [str(v.number) for v in versions if v.stage is Stage.PRODUCTION]
    if len(in_production) > 1:
        yield f"{versions[0].model} has several versions in Production: {', '.join(in_production)}"


def _history(rows: Sequence[Row], settings: KeySettings) -> Iterator[str]:
    trusted = {role: keys.trusted(role, settings) for role in keys.ROLES}
    for row in rows:
        what = f"row {row.id}: {row.model} version {row.version}"
        if row.action == "sql":
            yield f"{what} changed by SQL, as {row.role}, at {row.at}"
        if row.action not in _BY_EVIDENCE or row.to_stage not in list(GATED):
            continue
        try:
            evidence = verify_envelope(row.envelope or "", trusted)
        except EvidenceError as error:
            yield f"{what} went to {row.to_stage} on evidence that does not hold now: {error}"
            continue
        if (evidence.model, evidence.version) != (row.model, row.version) or not evidence.passed:
            yield f"{what} went to {row.to_stage} on evidence that does not speak for it"


def _staged(registry: Registry, version: Version, settings: KeySettings) -> Iterator[str]:
    try:
        evidence = registry.evidence(version, settings)
        rules.require_bytes(evidence, version.candidate, registry.files(version))
        if evidence.kind == "gate" and evidence.report_digest != registry.report_digest(version):
            yield f"{version} in {version.stage}: the gate's reports are not those that were signed"
    except (EvidenceError, NotFoundError) as error:
        yield f"{version} in {version.stage}: {error}"
    except RegistryError as error:
        raise error from None
