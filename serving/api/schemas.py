"""What the predictor answers beside predictions. Each class appears in the OpenAPI page as it stands here."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from catalog.spec import Task
from serving.tasks.responses import Response

ModelStatus = Literal["serving", "unavailable"]
Source = Literal["registry", "cache"]


class FeatureInfo(Response):
    """One field of a model's input."""

    name: str
    type: str | None = Field(description="JSON type: number, integer, boolean, ...")
    description: str | None = Field(description="Meaning and unit.")
    minimum: float | None = Field(description="Smallest value that is accepted.")
    maximum: float | None = Field(description="Largest value that is accepted.")
    required: bool


class RefusedVersion(Response):
    """A version in Production that this process did not take; what it served before goes on."""

    version: int
    reason: str = Field(description="What is wrong with it and what to do.")
    at: datetime = Field(description="When it was tried last.")


class ModelInfo(Response):
    """One model, and the version of it that is served, if there is one."""

    name: str
    declared: bool = Field(description="Whether the catalogue declares it; else its file says what it reads.")
    description: str
    task: Task | None = Field(description="Not known of a version that could not be read.")
    unit: str | None = Field(description="Unit or range of a regression's prediction.")
    features: tuple[FeatureInfo, ...]
    classes: tuple[str, ...] | None = Field(
        description="A served classifier's classes, or a clustering's labels in the order of their numbers."
    )
    items: int | None = Field(default=None, description="How many things a served similarity finds among.")
    status: ModelStatus
    reason: str | None = Field(description="Why it is not served and what to do.")
    version: int | None = Field(description="Version that is served.")
    digest: str | None = Field(
        description="SHA-256 of the served file (of a pyfunc model: of all its files), as `sha256:HEX`."
    )
    loaded_at: datetime | None = Field(description="When this process loaded it.")
    source: Source | None = Field(description="Loaded from the registry, or from this machine's cache.")
    refused: RefusedVersion | None = Field(description="A newer version that was not taken, if there is one.")


class ModelList(Response):
    """Every model of the catalogue, and every other with a version in Production, in alphabetical order."""

    models: tuple[ModelInfo, ...]


class ModelReadiness(Response):
    """Whether one model is served."""

    status: ModelStatus
    version: int | None = None
    reason: str | None = None
    source: Source | None = Field(
        default=None, description="`cache` while the registry has not answered yet."
    )
    refused: RefusedVersion | None = None


class RegistryReadiness(Response):
    """Whether the registry answered last; predictions do not need it."""

    status: Literal["unknown", "reachable", "unreachable"]
    checked_at: datetime | None = None
    reason: str | None = None


class WorkerVersions(Response):
    """One of several processes behind the port, and the versions that it serves."""

    pid: int
    versions: dict[str, int]


class Readiness(Response):
    """Ready as soon as one model is served: one missing model must not take the others off the air."""

    status: Literal["ready", "not_ready"]
    models: dict[str, ModelReadiness]
    registry: RegistryReadiness
    workers: tuple[WorkerVersions, ...] = Field(
        default=(), description="Every process behind the port, where there are several."
    )


class Liveness(Response):
    """The process lives."""

    status: Literal["alive"] = "alive"
