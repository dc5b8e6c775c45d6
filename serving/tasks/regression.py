"""Regression: a number for a row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from registry.model_format.onnx_model import Description
from serving.tasks.base import Column, Contract, ModelOutputs, ServingTask
from serving.tasks.explanation import Explanation
from serving.tasks.responses import Response, SupervisedListResponse, SupervisedResponse


class NumberRow(Response):
    """A regression's answer to one object of a list."""

    prediction: float = Field(description="The predicted number; GET /api/models says its unit.")


class NumberPrediction(NumberRow, SupervisedResponse):
    """A regression's answer."""


class NumberPredictions(SupervisedListResponse):
    """A regression's answer to a list."""

    predictions: list[NumberRow] = Field(description="One answer for each object, in their order.")


class NumberExplanation(Explanation):
    """Why a regression answers what it does."""

    prediction: float = Field(description="The predicted number: the explained number.")


class Regression(ServingTask):
    """Numbers of shape (n,), no shares."""

    name = "regression"
    derived_target = "value"
    pyfunc = True
    explanation = NumberExplanation
    explains = "the prediction"

    def check(
        self,
        labels: npt.NDArray[Any],
        shares: npt.NDArray[np.float32] | None,
        description: Description,  # noqa: ARG002
    ) -> ModelOutputs:
        if shares is not None or not np.isfinite(labels).all():
            raise ValueError("it is not a finite number")
        return ModelOutputs(labels, None)

    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        return {"prediction": outputs.labels[place]}

    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        return {"prediction": np.concatenate([part.labels for part in outputs]).astype(np.float64)}

    def response_models(self, contract: Contract) -> Any:  # noqa: ARG002 - the same for every model
        return NumberPrediction | NumberPredictions

    def success(self, contract: Contract) -> str:
        return f"The predicted {contract.target}" + (f", {contract.unit}." if contract.unit else ".")

    def explain(self, label: object, explained: float, common: Mapping[str, Any]) -> BaseModel:  # noqa: ARG002
        return NumberExplanation(prediction=explained, **common)
