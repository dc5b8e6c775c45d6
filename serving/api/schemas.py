"""What the predictor answers. Each class appears in the OpenAPI page as it stands here."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from catalog.spec import Task
from serving.inference.contracts import Contract

ModelStatus = Literal["serving", "unavailable"]
Source = Literal["registry", "cache"]


class _Answer(BaseModel):
    # `model` is this domain's word; Pydantic would keep the prefix `model_` for itself.
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ClassPrediction(_Answer):
    """A classifier's answer."""

    id: str = Field(
        description="Names this prediction (a UUID); POST /api/feedback takes it with the true outcome."
    )
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")
    prediction: str = Field(description="The predicted class.")
    probabilities: dict[str, float] = Field(
        description="Probability of each class, 0..1; they sum to 1 within float32 precision."
    )


class NumberPrediction(_Answer):
    """A regression's answer."""

    id: str = Field(
        description="Names this prediction (a UUID); POST /api/feedback takes it with the true outcome."
    )
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")
    prediction: float = Field(description="The predicted number; GET /api/models says its unit.")


Prediction = ClassPrediction | NumberPrediction


class ClassRow(_Answer):
    """A classifier's answer to one object of a list."""

    prediction: str = Field(description="The predicted class.")
    probabilities: dict[str, float] = Field(
        description="Probability of each class, 0..1; they sum to 1 within float32 precision."
    )


class NumberRow(_Answer):
    """A regression's answer to one object of a list."""

    prediction: float = Field(description="The predicted number; GET /api/models says its unit.")


class ClassPredictions(_Answer):
    """A classifier's answer to a list."""

    id: str = Field(
        description="Names this prediction (a UUID); POST /api/feedback takes it with the true outcome."
    )
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave all of these answers.")
    predictions: list[ClassRow] = Field(description="One answer for each object, in their order.")


class NumberPredictions(_Answer):
    """A regression's answer to a list."""

    id: str = Field(
        description="Names this prediction (a UUID); POST /api/feedback takes it with the true outcome."
    )
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave all of these answers.")
    predictions: list[NumberRow] = Field(description="One answer for each object, in their order.")


Predictions = ClassPredictions | NumberPredictions


class ClusterRow(_Answer):
    """A clustering's answer to one object of a list."""

    cluster: int = Field(ge=0, description="The cluster's number; another version may number them otherwise.")
    label: str = Field(description="What marks the cluster.")


class ClusterPrediction(ClusterRow):
    """A clustering's answer."""

    id: str = Field(description="Names this answer (a UUID).")
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")


class ClusterPredictions(_Answer):
    """A clustering's answer to a list."""

    id: str = Field(description="Names this answer (a UUID).")
    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave all of these answers.")
    predictions: list[ClusterRow] = Field(description="One answer for each object, in their order.")


class FeatureInfo(_Answer):
    """One field of a model's input."""

    name: str
    type: str | None = Field(description="JSON type: number, integer, boolean, ...")
    description: str | None = Field(description="Meaning and unit.")
    minimum: float | None = Field(description="Smallest value that is accepted.")
    maximum: float | None = Field(description="Largest value that is accepted.")
    required: bool


class RefusedVersion(_Answer):
    """A version in Production that this process did not take; what it served before goes on."""

    version: int
    reason: str = Field(description="What is wrong with it and what to do.")
    at: datetime = Field(description="When it was tried last.")


class ModelInfo(_Answer):
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


class ModelList(_Answer):
    """Every model of the catalogue, and every other with a version in Production, in alphabetical order."""

    models: tuple[ModelInfo, ...]


class ModelReadiness(_Answer):
    """Whether one model is served."""

    status: ModelStatus
    version: int | None = None
    reason: str | None = None
    source: Source | None = Field(
        default=None, description="`cache` while the registry has not answered yet."
    )
    refused: RefusedVersion | None = None


class RegistryReadiness(_Answer):
    """Whether the registry answered last; predictions do not need it."""

    status: Literal["unknown", "reachable", "unreachable"]
    checked_at: datetime | None = None
    reason: str | None = None


class WorkerVersions(_Answer):
    """One of several processes behind the port, and the versions that it serves."""

    pid: int
    versions: dict[str, int]


class Readiness(_Answer):
    """Ready as soon as one model is served: one missing model must not take the others off the air."""

    status: Literal["ready", "not_ready"]
    models: dict[str, ModelReadiness]
    registry: RegistryReadiness
    workers: tuple[WorkerVersions, ...] = Field(
        default=(), description="Every process behind the port, where there are several."
    )


class Refreshing(_Answer):
    """The registry is being asked."""

    status: Literal["checking"] = "checking"


class Liveness(_Answer):
    """The process lives."""

    status: Literal["alive"] = "alive"


def answers(contract: Contract) -> Any:
    """Return the models of a clustering's or a similarity's answer: to one object, or to a list."""
    if contract.task == "clustering":
        return ClusterPrediction | ClusterPredictions
    return _neighbours(contract)


def _neighbours(contract: Contract) -> Any:
    config = ConfigDict(frozen=True, protected_namespaces=())
    title = contract.request.__name__.removesuffix("Features")
    texts = {str(contract.id_name): "Id of the neighbour.", **{c: f"Its {c}." for c in contract.shown}}
    fields: dict[str, Any] = {name: (str, Field(description=words)) for name, words in texts.items()}
    distance = Field(ge=0, description="How far it is, in the space of the model; 0 is the same.")
    one = create_model(f"{title}Neighbour", __config__=config, **fields, distance=(float, distance))
    found: Any = (list[one], Field(description="The nearest first."))
    row = create_model(f"{title}Row", __config__=config, neighbours=found)
    about: dict[str, Any] = {
        name: (field.annotation, Field(description=field.description))
        for name, field in ClusterPrediction.model_fields.items()
        if name in ("id", "model", "version")
    }
    single = create_model(f"{title}Answer", __config__=config, **about, neighbours=found)
    rows: Any = (list[row], Field(description="One answer for each object, in their order."))
    return single | create_model(f"{title}Answers", __config__=config, **about, predictions=rows)
