"""Checks the audit and what is in a stage, from outside the server and without believing it.

The chain shows whether rows were removed or changed; the rows are played through again
(registry/client/audit_replay.py); digests show whether each version in a stage still is what it was, and the
catalogue whether it was judged by the policy of today. The report always ends: each model is looked at by
itself, and what cannot be looked at is a problem of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from catalog.loader import CatalogError, load_catalog
from registry import audit
from registry.audit import AuditLink
from registry.client import audit_log, verification_state
from registry.client.audit_replay import ModelRecord, Move, replay
from registry.client.registry import Registry, Version
from registry.client.standing import without_standing
from registry.client.tracking_client import TrackingClient
from registry.client.verification_state import RegistryState
from registry.errors import NotFoundError, RegistryError
from registry.evidence import rules
from registry.evidence.attestation import Evidence
from registry.evidence.keys import KeyRing, key_ring
from registry.evidence.verdict import policy_digest
from registry.names import GATED, Stage, normalize_name
from registry.settings import KeySettings

# A name that nobody gives a model: the chain is the same whichever model's it is asked as.
_ANY = "greenroom"
_SHOWN = 3


@dataclass
class VerificationReport:
    """The result. Problems say what is wrong now; notes, what was wrong once; `unknown`, what this run cannot
    tell. `walked` is how many rows were read anew.
    """

    rows: int = 0
    walked: int = 0
    head: str = ""
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def verify(
    client: TrackingClient,
    settings: KeySettings,
    models: Sequence[str] = (),
    *,
    expected_head: str | None = None,
    full: bool = False,
) -> VerificationReport:
    """Check the chain, and every model or the ones that are named.

    `expected_head` is the head of an earlier run, which must still be in the chain. Rows that an earlier run
    walked are not walked again, unless `full`; the files of what is in a stage are compared in every run.

    Raises `RegistryRefusedError` when the server has no guard, `RegistryUnavailableError` when it does not
    answer from the beginning, `KeyFileError` when a key in the trusted folder is none.
    """
    return _Verification(client, settings, full=full).run(models, expected_head)


class _Verification:
    """One run."""

    def __init__(self, client: TrackingClient, settings: KeySettings, *, full: bool) -> None:
        self._client, self._settings = client, settings
        self._registry, self._report = Registry(client), VerificationReport()
        self._ring: KeyRing = key_ring(settings)
        self._before = verification_state.load(client.url)
        # What is remembered of each model, for those whose rows are the same since.
        usable = self._before.keys == self._ring.digest() and not full
        self._remembered: dict[str, ModelRecord] = dict(self._before.models) if usable else {}
        self._links: list[AuditLink] = []
        self._new: set[str] = set()
        self._policies = self._declared_policies()

    def run(self, models: Sequence[str], expected_head: str | None) -> VerificationReport:
        registered = self._registry.models()
        self._walk_chain(registered[0] if registered else _ANY, expected_head)
        # The audit's models too: a model can be hidden from MLflow's searches.
        known = {*registered, *self._remembered, *(link.model for link in self._links)}
        self._report.problems += [f"there is no model {m!r}, nor was there" for m in models if m not in known]
        records: dict[str, ModelRecord] = {}
        for model in sorted(known.intersection(models) if models else known):
            with self._finding(f"{model} could not be checked"):
                records[model] = self._record(model)
                if model in registered or not records[model].only_refusals:
                    self._verify_model(model, records[model])
        self._group({m: r for m, r in records.items() if m not in registered and r.only_refusals and r.rows})
        if not models:
            self._remember(records, unwalked=sorted(known - records.keys()))
        return self._report

    def _walk_chain(self, model: str, expected_head: str | None) -> None:
        """Read the chain from the remembered head on, or whole, and check that it holds together."""
        report, since = self._report, self._before.head
        whole = not (since and self._remembered) or bool(expected_head or self._before.unwalked)
        after = 0 if since is None or whole else since.id - 1
        self._links = audit_log.chain(self._client, model, after)
        if since and since.hash not in {link.hash for link in self._links if link.id == since.id}:
            report.problems.append(
                f"the audit does not hold the row {since.id}, {since.hash[:12]}…, that it held before: its "
                "end was cut off, or another registry answers. If it was meant (a restored backup), delete "
                f"{verification_state.state_path()}"
            )
            self._remembered, whole = {}, True
            self._links = audit_log.chain(self._client, model) if after else self._links
        elif since is None and expected_head is None:
            report.unknown.append(
                "whether the end of the audit was cut off before this first run; the next one can tell"
            )
        self._new = {link.model for link in self._links if since is None or link.id > since.id}
        if since is None or whole:
            report.problems += audit.broken_links(self._links)
            report.rows = len(self._links)
        else:
            self._links = [link for link in self._links if link.id > since.id]
            report.problems += audit.broken_links(self._links, since)
            report.rows = since.id + len(self._links)
            report.unknown.append(
                f"whether rows 1 to {since.id}, walked before, were changed since; `greenroom verify --full` "
                "walks them again"
            )
        self._broken = bool(report.problems)
        self._head = self._links[-1] if self._links else since
        report.head, report.walked = self._head.hash if self._head else "", len(self._links)
        if expected_head and expected_head not in {link.hash for link in self._links}:
            report.problems.append(
                f"the audit does not hold the row {expected_head[:12]}… that it held before: "
                "its end was cut off"
            )

    def _record(self, model: str) -> ModelRecord:
        """Return what a model's rows say: as it is remembered, or read anew if there are new ones."""
        remembered = self._remembered.get(model)
        if remembered and model not in self._new:
            return remembered
        texts = audit_log.history_texts(self._client, model)
        return replay(model, texts, self._links, self._ring, remembered)

    def _verify_model(self, model: str, record: ModelRecord) -> None:
        report = self._report
        report.problems += record.broken
        report.notes += record.notes
        found = {version.number: version for version in self._registry.versions(model)}
        # By number what a search does not tell: those hide what is marked as a prompt.
        for number in record.moves.keys() - found.keys():
            if hidden := _version(self._registry, model, number):
                found[number] = hidden
        for _, version in sorted(found.items()):
            with self._finding(str(version)):
                self._verify_version(version, record.moves.get(version.number))
        for number in sorted(record.moves.keys() - found.keys()):
            if (stage := record.moves[number].stage) in list(GATED):
                report.problems.append(f"{model} version {number} is gone, and by the audit in {stage}")
        with self._finding(model):
            report.problems += _names(self._client, model, list(found.values()), self._settings)

    def _verify_version(self, version: Version, move: Move | None) -> None:
        report = self._report
        audited_stage = move.stage if move else Stage.NONE.value
        if audited_stage != version.stage.value:
            report.problems.append(f"{version} is in {version.stage}, and by the audit in {audited_stage}")
        if version.stage not in GATED:
            return
        report.problems += move.faults if move else []
        report.checked.append(f"{version} in {version.stage}")
        if standings := without_standing([version], self._settings):
            report.problems += map(str, standings)
            return
        evidence = self._registry.evidence(version, self._settings)
        where = f"{version} in {version.stage}"
        if move and move.digest not in (None, evidence.files_digest):
            report.problems.append(f"{where}: its evidence is about other files than it came there with")
        elif move and move.retired:
            report.notes.append(
                f"{where} came there on evidence of {move.retired}; re-signed on "
                f"{evidence.created_at:%Y-%m-%d}. Whether the gate signed the old one, or whoever had the "
                "key, nobody can tell"
            )
        self._check_policy(version, evidence)
        if version.stage is Stage.PRODUCTION:
            with self._finding(where):
                approved = self._registry.approved_datasets(version.model, self._settings)
                rules.require_approved_rows(evidence, version.ref, approved)
        with self._finding(where):
            rules.require_bytes(evidence, version.ref, self._registry.files(version))
        with self._finding(where):
            if evidence.kind == "gate":
                self._check_reports(version, evidence, where)

    def _check_reports(self, version: Version, evidence: Evidence, where: str) -> None:
        names = evidence.report_files
        if evidence.report_digest != self._registry.report_digest(version, names):
            self._report.problems.append(f"{where}: the gate's reports are not those that were signed")
        foreign = sorted(set(self._registry.report_paths(version)) - set(names)) if names is not None else []
        if foreign:
            shown = ", ".join(foreign[:_SHOWN])
            self._report.notes.append(
                f"{where}: its run holds {shown} below gate/, which the gate did not write"
            )

    def _check_policy(self, version: Version, evidence: Evidence) -> None:
        if evidence.kind != "gate":
            return
        policy = self._policies.get(version.model)
        if policy is None:
            self._report.unknown.append(
                f"whether {version} was judged by the right policy: no catalogue here declares the model"
            )
        elif policy != evidence.policy_digest:
            self._report.problems.append(
                f"{version} in {version.stage} was judged by another policy than the catalogue's of now. "
                f"`greenroom gate {version.model} {version.number} --rerun` judges it again; it stays in its "
                "stage"
            )

    def _declared_policies(self) -> Mapping[str, str]:
        try:
            return {name: policy_digest(spec.gate) for name, spec in load_catalog().items()}
        except CatalogError as error:
            self._report.unknown.append(f"by which policies versions should be judged: {error}")
            return {}

    def _group(self, absent: Mapping[str, ModelRecord]) -> None:
        """Say in one sentence what was refused about names that no model has."""
        if not absent:
            return
        names = sorted(absent)
        shown = ", ".join(name[:40] for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        refusals = sum(record.refusals for record in absent.values())
        self._report.notes.append(
            f"{refusals} requests about models that are not there were refused: {shown}{more}"
        )

    def _remember(self, records: Mapping[str, ModelRecord], unwalked: list[str]) -> None:
        if self._head is None or self._broken or any(record.broken for record in records.values()):
            return  # what is broken is walked again, until it is not
        state = RegistryState(
            head=self._head, keys=self._ring.digest(), models=dict(records), unwalked=unwalked
        )
        try:
            verification_state.save(self._client.url, state)
        except OSError as error:
            self._report.notes.append(f"what was walked could not be remembered: {error}")

    @contextmanager
    def _finding(self, what: str) -> Iterator[None]:
        """Make a problem of whatever keeps something from being looked at."""
        try:
            yield
        except RegistryError as error:
            self._report.problems.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 - a report about everything must not end at one thing
            self._report.problems.append(f"{what}: {type(error).__name__}: {error}")


def _version(registry: Registry, model: str, number: int) -> Version | None:
    try:
        return registry.version(model, number)
    except NotFoundError:
        return None


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
