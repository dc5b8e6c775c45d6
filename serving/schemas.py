"""What the predictor answers. Each class appears in the OpenAPI page as it stands here."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from catalog.spec import Task

ModelStatus = Literal["serving", "unavailable"]


class _Answer(BaseModel):
    # `model` is this domain's word; Pydantic would keep the prefix `model_` for itself.
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ClassPrediction(_Answer):
    """A classifier's answer."""

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")
    prediction: str = Field(description="The predicted class.")
    probabilities: dict[str, float] = Field(
        description="Probability of each class, 0..1; they sum to 1 within float32 precision."
    )


class NumberPrediction(_Answer):
    """A regression's answer."""

    model: str = Field(description="Name of the model.")
    version: int = Field(description="Version in the registry that gave this answer.")
    prediction: float = Field(description="The predicted number; GET /api/models says its unit.")


Prediction = ClassPrediction | NumberPrediction


class FeatureInfo(_Answer):
    """One field of a model's input."""

    name: str
    type: str | None = Field(description="JSON type: number, integer, boolean, ...")
    description: str | None = Field(description="Meaning and unit.")
    minimum: float | None = Field(description="Smallest value that is accepted.")
    maximum: float | None = Field(description="Largest value that is accepted.")
    required: bool


class ModelInfo(_Answer):
    """One model of the catalogue, and the version of it that is served, if there is one."""

    name: str
    description: str
    task: Task
    unit: str | None = Field(description="Unit or range of a regression's prediction.")
    features: tuple[FeatureInfo, ...]
    classes: tuple[str, ...] | None = Field(description="A served classifier's classes.")
    status: ModelStatus
    reason: str | None = Field(description="Why it is not served and what to do.")
    version: int | None = Field(description="Version that is served.")
    digest: str | None = Field(description="SHA-256 of the served ONNX file, as `sha256:HEX`.")
    loaded_at: datetime | None = Field(description="When this process loaded it.")


class ModelList(_Answer):
    """Every model of the catalogue, in alphabetical order."""

    models: tuple[ModelInfo, ...]


class ModelReadiness(_Answer):
    """Whether one model is served."""

    status: ModelStatus
    version: int | None = None
    reason: str | None = None


class Readiness(_Answer):
    """Ready as soon as one model is served: one missing model must not take the others off the air."""

    status: Literal["ready", "not_ready"]
    models: dict[str, ModelReadiness]


class Liveness(_Answer):
    """The process lives."""

    status: Literal["alive"] = "alive"


class ErrorDetail(_Answer):
    """One field of the input and what is wrong with it."""

    field: str = Field(description="Name of the field; `body` is the input as a whole.")
    problem: str


class ErrorContent(_Answer):
    """What went wrong."""

    code: str = Field(description="Stable name of the error, for programs.")
    message: str = Field(description="What happened and what to do, for people.")
    details: tuple[ErrorDetail, ...] = ()


class ErrorBody(_Answer):
    """Every error of this API has this form."""

    error: ErrorContent
