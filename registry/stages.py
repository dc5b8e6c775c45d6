"""Versions and the stages they move through.

The mechanism (MLflow's stages today, aliases one day) is known to this module alone.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from catalog.spec import GatePolicy
from registry.client import TrackingClient
from registry.errors import (
    BadTransitionError,
    GateNotPassedError,
    NotFoundError,
    RegistryRefusedError,
)
from registry.evidence import VERDICT_ARTIFACT, Verdict, digest

# The file of a version that is served; MLflow's ONNX flavour gives it this name.
MODEL_FILE = "model.onnx"


class Stage(StrEnum):
    """Where a version stands."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


# Upwards one step at a time; an archived version comes back through Staging.
_ALLOWED = {
    Stage.STAGING: {Stage.NONE, Stage.ARCHIVED, Stage.PRODUCTION},
    Stage.PRODUCTION: {Stage.STAGING},
    Stage.ARCHIVED: {Stage.NONE, Stage.STAGING, Stage.PRODUCTION},
    Stage.NONE: {Stage.STAGING, Stage.ARCHIVED},
}
_GATED = {Stage.STAGING, Stage.PRODUCTION}


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


class Registry:
    """The model registry, as this project speaks of it. Errors are those of `TrackingClient` too."""

    def __init__(self, client: TrackingClient) -> None:
        self._client = client

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model, newest first; none if the model is not registered."""
        found = self._client.pages(
            "model-versions/search", {"filter": f"name = '{_quoted(model)}'"}, "model_versions"
        )
        return sorted(map(_version, found), key=lambda version: version.number, reverse=True)

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
        found = answer.get("model_versions", [])
        return _version(found[0]) if found else None

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

    def artifact(self, version: Version, path: str) -> bytes:
        """Return the bytes of an artifact of the run that made a version."""
        return self._client.artifact(self._run_artifacts(version), path)

    def put_artifact(self, version: Version, path: str, content: bytes) -> None:
        """Write an artifact to the run that made a version."""
        self._client.put_artifact(self._run_artifacts(version), path, content)

    def model_bytes(self, version: Version) -> bytes:
        """Return the ONNX file of a version, as the tracking server holds it now."""
        answer = self._client.get(
            "model-versions/get-download-uri", {"name": version.model, "version": version.number}
        )
        try:
            return self._client.artifact(self._client.require(answer, "artifact_uri"), MODEL_FILE)
        except NotFoundError as error:
            raise NotFoundError(f"{version} has no {MODEL_FILE}: only ONNX models are served.") from error

    def promote(self, version: Version, to: Stage, policy: GatePolicy) -> Version:
        """Move a version to a stage and return it as it stands then.

        A move to Staging or Production needs a passing verdict on exactly the bytes that the version
        holds, with every check that `policy` requires; `GateNotPassedError` says what is missing.
        `BadTransitionError` for a step that is not allowed. A version already there is left alone.
        The version that was in Production before is archived, so that there is never a second one.
        """
        version = self.version(version.model, version.number)
        if version.stage == to:
            return version
        if version.stage not in _ALLOWED[to]:
            raise BadTransitionError(
                f"{version} is in {version.stage} and cannot move straight to {to}; "
                f"it must be in {' or '.join(sorted(_ALLOWED[to]))}. Promote it to Staging first."
            )
        if to in _GATED:
            self.require_passed(version, policy)
        answer = self._client.post(
            "model-versions/transition-stage",
            {
                "name": version.model,
                "version": str(version.number),
                "stage": to.value,
                # MLflow takes this flag for Staging and Production only.
                "archive_existing_versions": to is Stage.PRODUCTION,
            },
        )
        return _version(self._client.require(answer, "model_version"))

    def require_passed(self, version: Version, policy: GatePolicy) -> Verdict:
        """Return the passing verdict of a version, or raise `GateNotPassedError` with the reasons."""
        try:
            verdict = self.verdict(version)
        except NotFoundError as error:
            raise GateNotPassedError(str(error)) from error
        if verdict.model != version.model:
            raise GateNotPassedError(f"The verdict of {version} is about the model {verdict.model}.")
        if not verdict.passed:
            reasons = "; ".join(f"{o.check} {o.status}: {o.reason}" for o in verdict.refusals)
            raise GateNotPassedError(f"The gate refused {version}: {reasons or 'no check was required'}")
        if absent := verdict.missing_from(policy):
            raise GateNotPassedError(
                f"The verdict of {version} lacks checks that the policy requires now: {', '.join(absent)}. "
                f"Run `greenroom gate {version.model} {version.number} --rerun`."
            )
        if (found := digest(self.model_bytes(version))) != verdict.model_digest:
            raise GateNotPassedError(
                f"{version} does not hold the bytes that were checked: its file is {found}, "
                f"the verdict is about {verdict.model_digest}."
            )
        return verdict

    def _run_artifacts(self, version: Version) -> str:
        if not version.run_id:
            raise NotFoundError(f"{version} was not made by a run, so there is no evidence to look at.")
        run = self._client.get("runs/get", {"run_id": version.run_id})
        return str(self._client.require(run, "run")["info"]["artifact_uri"])


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
    if "'" in name:
        raise RegistryRefusedError(f"A model's name cannot hold a quote: {name}")
    return name
