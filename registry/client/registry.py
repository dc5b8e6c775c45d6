"""Versions and the stages they move through, as a client of the tracking server sees them.

The mechanism (MLflow's stages today, aliases one day) is known to this module alone. Whether a version may
move is decided by the server (registry/server); this module asks, signs and tells.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from registry.audit import ALIAS_PREFIX, REPORT
from registry.client import audit_log
from registry.client.tracking_client import TrackingClient
from registry.digests import digest, tree_digest
from registry.errors import (
    BadTransitionError,
    EvidenceBytesError,
    ModelFormatError,
    NotFoundError,
    RegistryError,
    RegistryRefusedError,
    TooLargeError,
)
from registry.evidence import keys, model_signature, rules
from registry.evidence.approval import Approval, approval_tag, approved_datasets, sign_approval
from registry.evidence.attestation import Evidence, attest_override, attest_verdict, read_unverified
from registry.evidence.verdict import VERDICT_ARTIFACT, Incumbent, Verdict
from registry.model_format.mlflow_folder import CLOSED_LIST, MODEL_FILE
from registry.names import ACTION_HEADER, EVIDENCE, GATED, OVERRIDE, REASON_HEADER, ROLLBACK, Stage
from registry.settings import KeySettings

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.signer import CryptoSigner

__all__ = ["MODEL_FILE", "Registry", "Version", "digest_of", "genuine_evidence", "require_checked_bytes"]

# Of the run: the signature by OpenSSF's rules, and the public key that it is checked with.
MODEL_SIGNATURE, MODEL_SIGNATURE_KEY = "gate/model.sig", "gate/model.pub"
# What the gate found, without the rows that it looked at.
REPORT_SUFFIXES = (".html", ".json")

# Upwards one step at a time; an archived version comes back through Staging.
_ALLOWED = {
    Stage.STAGING: {Stage.NONE, Stage.ARCHIVED, Stage.PRODUCTION},
    Stage.PRODUCTION: {Stage.STAGING},
    Stage.ARCHIVED: {Stage.NONE, Stage.STAGING, Stage.PRODUCTION},
    Stage.NONE: {Stage.STAGING, Stage.ARCHIVED},
}


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    model: str
    number: int
    stage: Stage
    run_id: str
    source: str
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

    @property
    def ref(self) -> rules.VersionRef:
        """The version, as the rules of promotion speak of it."""
        return rules.VersionRef(self.model, self.number, self.source)


class Registry:
    """The model registry, as this project speaks of it. Errors are those of `TrackingClient` too."""

    def __init__(self, client: TrackingClient) -> None:
        self._client = client

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, newest first; none if the model is not registered."""
        raw = self._client.pages(
            "model-versions/search", {"filter": f"name = {_quoted(model)}"}, "model_versions"
        )
        return sorted(map(_version, raw), key=lambda version: version.number, reverse=True)

    def newest(self, model: str) -> Version | None:
        """Return the newest version of a model, None if it has none."""
        return next(iter(self.versions(model)), None)

    def models(self) -> list[str]:
        """Return the names of all registered models."""
        registered = self._client.pages("registered-models/search", {}, "registered_models")
        return sorted(str(model["name"]) for model in registered)

    def version(self, model: str, number: int) -> Version:
        """Return one version; `NotFoundError` if there is none."""
        try:
            answer = self._client.get("model-versions/get", {"name": model, "version": number})
        except NotFoundError as error:
            raise NotFoundError(f"{model} has no version {number}; `greenroom status` lists them.") from error
        return _version(self._client.require(answer, "model_version"))

    def in_stage(self, model: str, stage: Stage) -> Version | None:
        """Return the newest version in a stage, or None."""
        try:
            answer = self._client.post(
                "registered-models/get-latest-versions", {"name": model, "stages": [stage.value]}
            )
        except NotFoundError:
            return None
        latest = answer.get("model_versions", [])
        return _version(latest[0]) if latest else None

    def production_versions(self) -> dict[str, Version]:
        """Return the version in Production of every model that has one, in one request per 1,000 models.

        MLflow's search leaves out what is marked as a prompt; ask `in_stage` before relying on an absence.
        """
        registered = self._client.pages(
            "registered-models/search", {"max_results": 1000}, "registered_models"
        )
        versions = (_version(raw) for model in registered for raw in model.get("latest_versions", []))
        return {version.model: version for version in versions if version.stage is Stage.PRODUCTION}

    def staged_versions(self) -> list[Version]:
        """Return every version in Staging or Production, of all models that MLflow's search shows."""
        raw = self._client.pages("model-versions/search", {}, "model_versions")
        staged = [version for version in map(_version, raw) if version.stage in GATED]
        return sorted(staged, key=lambda version: (version.model, version.number))

    # What a version is made of

    def verdict(self, version: Version) -> Verdict:
        """Return the gate's verdict on a version; `NotFoundError` if there is none that can be read."""
        try:
            content = self._client.artifact(self._run_artifacts(version), VERDICT_ARTIFACT)
            return Verdict.model_validate_json(content)
        except NotFoundError as error:
            raise NotFoundError(
                f"{version} has no verdict of the gate: it was not registered by `greenroom train`."
            ) from error
        except ValidationError as error:
            raise NotFoundError(f"{version} has a verdict that cannot be read: {error}") from error

    def run(self, version: Version) -> dict[str, Any]:
        """Return the run that made a version, as MLflow describes it."""
        if not version.run_id:
            raise NotFoundError(f"{version} was not made by a run, so there is no evidence to look at.")
        answer = self._client.get("runs/get", {"run_id": version.run_id})
        run: dict[str, Any] = self._client.require(answer, "run")
        return run

    def artifact(self, version: Version, path: str) -> bytes:
        """Return the bytes of an artifact of the run that made a version."""
        return self._client.artifact(self._run_artifacts(version), path)

    def put_artifact(self, version: Version, path: str, content: bytes) -> None:
        """Write an artifact to the run that made a version."""
        self._client.put_artifact(self._run_artifacts(version), path, content)

    def model_bytes(self, version: Version, *, max_bytes: int | None = None) -> bytes:
        """Return the ONNX file of a version, as the tracking server holds it now.

        Raises `ModelFormatError` when it is larger than `max_bytes`, without reading more than that.
        """
        try:
            return self._client.artifact(self._location(version), MODEL_FILE, max_bytes=max_bytes)
        except TooLargeError as error:
            raise ModelFormatError(
                f"The {MODEL_FILE} of {version} is larger than {max_bytes} bytes."
            ) from error
        except NotFoundError as error:
            raise NotFoundError(f"{version} has no {MODEL_FILE}: only ONNX models are served.") from error

    def verified_model_bytes(
        self, version: Version, settings: KeySettings, *, max_bytes: int | None = None
    ) -> bytes:
        """Return the ONNX file of a version, after its bytes were compared with its evidence.

        Raises what `model_bytes` raises, and the `EvidenceError` that says what is wrong with the evidence.
        Other bytes than the evidence is about are reported to the server as well, which records them.
        """
        content = self.model_bytes(version, max_bytes=max_bytes)
        try:
            require_checked_bytes(version, content, settings)
        except EvidenceBytesError:
            with suppress(RegistryError):  # the server may be gone meanwhile
                self.report_mismatch(version)
            raise
        return content

    def files(self, version: Version) -> dict[str, str]:
        """Return the SHA-256 of each of a version's files, by path, as the tracking server holds them now."""
        return self._digests(self._location(version))

    def contents(self, version: Version) -> Iterator[tuple[str, bytes]]:
        """Yield each of a version's files, path and bytes, as the tracking server holds them now."""
        return self._contents(self._location(version))

    def reports(self, version: Version) -> Iterator[tuple[str, bytes]]:
        """Yield what the gate left in the run that made a version, path and bytes."""
        return self._contents(f"{self._run_artifacts(version)}/gate")

    def report_paths(self, version: Version) -> list[str]:
        """Return the names of the files below `gate/` in a run that a person could take for reports."""
        uri = f"{self._run_artifacts(version)}/gate"
        return [path for path in self._client.artifact_paths(uri) if path.endswith(REPORT_SUFFIXES)]

    def report_digest(self, version: Version, names: Iterable[str] | None = None) -> str:
        """Return the digest of the reports of these `names`, as the tracking server holds them now.

        Without names, as in older evidence: of all reports that are there. Raises `NotFoundError` when one
        is gone.
        """
        uri = f"{self._run_artifacts(version)}/gate"
        paths = self.report_paths(version) if names is None else names
        return tree_digest({path: sha256(self._client.artifact(uri, path)).hexdigest() for path in paths})

    def identity(self, version: Version) -> Incumbent:
        """Return which version this is, by the files that it holds now."""
        return Incumbent(version=version.number, digest=tree_digest(self.files(version)))

    def evidence_identity(self, version: Version) -> Incumbent:
        """Return which version this is, by the files that its evidence is about: as the server names it."""
        for tag in (EVIDENCE, OVERRIDE):
            if tag in version.tags and (evidence := read_unverified(version.tags[tag])):
                return Incumbent(version=version.number, digest=evidence.files_digest)
        return self.identity(version)

    # Evidence

    def attest(
        self, version: Version, verdict: Verdict, settings: KeySettings, reports: Mapping[str, bytes]
    ) -> Evidence:
        """Sign a verdict on a version, and put it on the version.

        `reports` are the gate's own, by their names below `gate/` in the run, where they are already: what
        else lies there is somebody else's and is not signed.

        Raises `KeyFileError` without the gate's key, `EvidenceBytesError` when the registry holds another
        model file than the one that was checked, or a file that no served version may hold, and
        `ModelFormatError` when one of MLflow's files says what it may not say.
        """
        signer = keys.signer("gate", settings)
        files, small = {}, {}
        for path, content in self.contents(version):
            files[path] = sha256(content).hexdigest()
            if path in CLOSED_LIST and path != MODEL_FILE:
                small[path] = content
        if digest_of(files, MODEL_FILE) != verdict.model_digest:
            raise EvidenceBytesError(
                f"{version} does not hold the model that was checked: its {MODEL_FILE} is "
                f"{digest_of(files, MODEL_FILE) or 'not there'}, the verdict is about {verdict.model_digest}."
            )
        rules.require_closed_files(files, version.ref)
        _require_mlflow_files(small)
        envelope = attest_verdict(
            verdict,
            version=version.number,
            source=version.source,
            files=files,
            report_digest=tree_digest({name: sha256(raw).hexdigest() for name, raw in reports.items()}),
            report_files=reports,
            signer=signer,
        )
        self._put_model_signature(version, files, signer, passed=verdict.passed)
        self.tag(version, EVIDENCE, envelope)
        evidence = read_unverified(envelope)
        if evidence is None:
            raise AssertionError("a statement that was just made can be read")
        return evidence

    def _put_model_signature(
        self, version: Version, files: Mapping[str, str], signer: "CryptoSigner", *, passed: bool
    ) -> None:
        """Write a signature beside the evidence, for who has OpenSSF's tool and not ours.

        That tool asks for no verdict. So what the gate refused has none, and loses the one it had.
        """
        name = f"{version.model}-{version.number}"
        signature = model_signature.sign(name, files, signer) if passed else b"{}"
        self.put_artifact(version, MODEL_SIGNATURE, signature)
        self.put_artifact(version, MODEL_SIGNATURE_KEY, model_signature.public_pem(signer))

    def evidence(self, version: Version, settings: KeySettings) -> Evidence:
        """Return the evidence that speaks for a version: the gate's, else an operator's override.

        It is genuine (signed by a key in `settings`, about this version) and no refusal; the bytes are the
        caller's to compare. Raises the `EvidenceError` that says what is wrong.
        """
        return genuine_evidence(version, settings)

    def approve(self, approval: Approval, settings: KeySettings) -> None:
        """Sign an operator's approval of a dataset, and put it on the model.

        Raises `KeyFileError` without the operator's key, `ValueError` for what is no approval, and
        `NotFoundError` for a model that is not registered.
        """
        envelope = sign_approval(approval, keys.signer("operator", settings))
        body = {"name": approval.model, "key": approval_tag(approval.dataset), "value": envelope}
        self._client.post("registered-models/set-tag", body)

    def approved_datasets(self, model: str, settings: KeySettings) -> frozenset[str]:
        """Return the datasets that operators approved for a model's way to Production."""
        answer = self._client.get("registered-models/get", {"name": model})
        raw = self._client.require(answer, "registered_model")
        tags = {tag["key"]: tag.get("value", "") for tag in raw.get("tags", [])}
        return approved_datasets(model, tags, keys.trusted("operator", settings))

    def tag(self, version: Version, key: str, value: str) -> None:
        """Set a tag of a version."""
        body = {"name": version.model, "version": str(version.number), "key": key, "value": value}
        self._client.post("model-versions/set-tag", body)

    def report_mismatch(self, version: Version) -> None:
        """Tell the server that a version's bytes are not those of its evidence; it looks, and records it.

        The right to read the model is enough.
        """
        alias = f"{ALIAS_PREFIX}{REPORT}-{version.number}"
        self._client.get("registered-models/alias", {"name": version.model, "alias": alias})

    # Moves

    def promote(self, version: Version, to: Stage, reason: str | None = None) -> Version:
        """Move a version to a stage and return it as it stands then. A version already there is left alone.

        Raises `RegistryRefusedError` with the server's reason, also when the server has no guard, and
        `BadTransitionError` for a step that is not allowed.
        """
        version = self.version(version.model, version.number)
        if version.stage == to:
            return version
        if version.stage not in _ALLOWED[to]:
            raise BadTransitionError(
                f"{version} is in {version.stage} and cannot move straight to {to}; "
                f"it must be in {' or '.join(sorted(_ALLOWED[to]))}. Promote it to Staging first."
            )
        return self._move(version, to, {REASON_HEADER: reason} if reason else {})

    def promote_to_production(self, version: Version, reason: str | None = None) -> Version:
        """Move a version to Production, through Staging if it is in neither; raises what `promote` raises."""
        version = self.version(version.model, version.number)
        if version.stage in (Stage.NONE, Stage.ARCHIVED):
            version = self.promote(version, Stage.STAGING, reason)
        return self.promote(version, Stage.PRODUCTION, reason)

    def override(
        self, version: Version, to: Stage, *, reason: str, operator: str, settings: KeySettings
    ) -> Version:
        """Move a version to a stage on an operator's signed word instead of the gate's, and return it.

        Raises `KeyFileError` without the operator's key, and `RegistryRefusedError` with the server's reason.
        """
        signer = keys.signer("operator", settings)
        version = self.version(version.model, version.number)
        current = self.in_stage(version.model, Stage.PRODUCTION)
        envelope = attest_override(
            model=version.model,
            version=version.number,
            source=version.source,
            files=self.files(version),
            incumbent=self.evidence_identity(current)
            if current and current.number != version.number
            else None,
            reason=reason,
            operator=operator,
            signer=signer,
        )
        audit_log.require_guard(self._client, version.model)
        self.tag(version, OVERRIDE, envelope)
        return self._move(version, to, {REASON_HEADER: reason})

    def rollback(self, version: Version, reason: str) -> Version:
        """Bring a version that was in Production before back there; `RegistryRefusedError` if it may not."""
        return self._move(version, Stage.PRODUCTION, {REASON_HEADER: reason, ACTION_HEADER: ROLLBACK})

    def _move(self, version: Version, to: Stage, headers: Mapping[str, str]) -> Version:
        audit_log.require_guard(self._client, version.model)
        answer = self._client.post(
            "model-versions/transition-stage",
            {
                "name": version.model,
                "version": str(version.number),
                "stage": to.value,
                # MLflow takes this flag for Staging and Production only.
                "archive_existing_versions": to is Stage.PRODUCTION,
            },
            headers,
        )
        return _version(self._client.require(answer, "model_version"))

    def _digests(self, uri: str) -> dict[str, str]:
        return {path: sha256(content).hexdigest() for path, content in self._contents(uri)}

    def _contents(self, uri: str) -> Iterator[tuple[str, bytes]]:
        for path in self._client.artifact_paths(uri):
            yield path, self._client.artifact(uri, path)

    def _location(self, version: Version) -> str:
        answer = self._client.get(
            "model-versions/get-download-uri", {"name": version.model, "version": version.number}
        )
        return str(self._client.require(answer, "artifact_uri"))

    def _run_artifacts(self, version: Version) -> str:
        return str(self.run(version)["info"]["artifact_uri"])


def genuine_evidence(version: Version, settings: KeySettings) -> Evidence:
    """Return the evidence among a version's tags that speaks for it; see `Registry.evidence`."""
    envelopes = [version.tags[tag] for tag in (EVIDENCE, OVERRIDE) if tag in version.tags]
    return rules.first_genuine(envelopes, version.ref, keys.all_trusted(settings))[0]


def require_checked_bytes(version: Version, content: bytes, settings: KeySettings) -> None:
    """Raise an `EvidenceError` unless a trusted key signed that these very bytes passed the gate."""
    if digest(content) != digest_of(genuine_evidence(version, settings).files, MODEL_FILE):
        raise EvidenceBytesError(
            f"{version} does not hold the bytes that were checked: its {MODEL_FILE} was exchanged. "
            f"`greenroom rollback {version.model} --reason …` brings the last good version back."
        )


def digest_of(files: Mapping[str, str], path: str) -> str | None:
    """Return the digest of one file as `sha256:HEX`, or None if it is not there."""
    return f"sha256:{files[path]}" if path in files else None


def _require_mlflow_files(contents: Mapping[str, bytes]) -> None:
    # Here: YAML's parser is not for the predictor, which signs nothing.
    from registry.model_format.mlmodel import check_file  # noqa: PLC0415

    for path, content in contents.items():
        check_file(path, content)


def _version(raw: dict[str, Any]) -> Version:
    return Version(
        model=raw["name"],
        number=int(raw["version"]),
        stage=Stage(raw.get("current_stage") or "None"),
        run_id=raw.get("run_id", ""),
        source=raw.get("source", ""),
        tags={tag["key"]: tag.get("value", "") for tag in raw.get("tags", [])},
    )


def _quoted(name: str) -> str:
    """Return a name as MLflow's searches take it: in quotes that it does not hold itself."""
    for quote in ("'", '"'):
        if quote not in name:
            return f"{quote}{name}{quote}"
    raise RegistryRefusedError(f"MLflow cannot search for a name that holds both kinds of quotes: {name}")
