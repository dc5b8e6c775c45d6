"""Classification: the class of a row, and the probability of every class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from registry.model_format.onnx_model import Description
from serving.tasks.base import Column, Contract, ModelOutputs, ServingTask
from serving.tasks.explanation import Explanation
from serving.tasks.responses import Response, SupervisedListResponse, SupervisedResponse

# Up to so many rows Python's own sums are faster than NumPy's calls.
_FEW = 16


class ClassRow(Response):
    """A classifier's answer to one object of a list."""

    prediction: str = Field(description="The predicted class.")
    probabilities: dict[str, float] = Field(
        description="Probability of each class, 0..1; they sum to 1 within float32 precision."
    )


class ClassPrediction(ClassRow, SupervisedResponse):
    """A classifier's answer."""


class ClassPredictions(SupervisedListResponse):
    """A classifier's answer to a list."""

    predictions: list[ClassRow] = Field(description="One answer for each object, in their order.")


class ClassExplanation(Explanation):
    """Why a classifier gives its class the probability that it does."""

    prediction: str = Field(description="The predicted class.")
    probability: float = Field(description="Its probability, 0..1: the explained number.")


class Classification(ServingTask):
    """Labels of shape (n,), `shares` the probabilities in the order of `classes`."""

    name = "classification"
    derived_target = "label"
    pyfunc = True
    explanation = ClassExplanation
    explains = "the probability of the predicted class"

    def check(
        self, labels: npt.NDArray[Any], shares: npt.NDArray[np.float32] | None, description: Description
    ) -> ModelOutputs:
        classes = description.classes
        if shares is None or shares.shape != (len(labels), len(classes)) or not _sum_to_one(shares):
            raise ValueError("its classes and probabilities do not fit")
        if not {str(label) for label in labels.tolist()} <= set(classes):
            raise ValueError("it answers a class that it does not name")
        return ModelOutputs(labels, shares, classes)

    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        probabilities = () if outputs.shares is None else outputs.shares[place]
        return {
            "prediction": str(outputs.labels[place]),
            "probabilities": dict(zip(outputs.classes, probabilities, strict=True)),
        }

    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        labels = np.concatenate([part.labels for part in outputs])
        shares = np.concatenate([part.shares for part in outputs if part.shares is not None])
        columns: dict[str, Column] = {"prediction": [str(label) for label in labels.tolist()]}
        for place, name in enumerate(outputs[0].classes):
            columns[f"probability_{name}"] = shares[:, place]
        return columns

    def response_models(self, contract: Contract) -> Any:  # noqa: ARG002 - the same for every model
        return ClassPrediction | ClassPredictions

    def success(self, contract: Contract) -> str:  # noqa: ARG002
        return "The predicted class and the probability of each."

    def explain(self, label: object, explained: float, common: Mapping[str, Any]) -> BaseModel:
        return ClassExplanation(prediction=str(label), probability=explained, **common)


def _sum_to_one(shares: npt.NDArray[np.float32]) -> bool:
    # Written so that NaN fails as well.
    if len(shares) <= _FEW:
        return all(abs(sum(row) - 1) < 1e-3 for row in shares.tolist())
    return bool((np.abs(shares.sum(axis=1) - 1) < 1e-3).all())
