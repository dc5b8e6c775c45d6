"""Clustering: which cluster a row is in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from registry.model_format.onnx_model import Description
from serving.tasks.base import Column, Contract, ModelOutputs, ServingTask
from serving.tasks.responses import ModelListResponse, ModelResponse, Response


class ClusterRow(Response):
    """A clustering's answer to one object of a list."""

    cluster: int = Field(ge=0, description="The cluster's number; another version may number them otherwise.")
    label: str = Field(description="What marks the cluster.")


class ClusterPrediction(ClusterRow, ModelResponse):
    """A clustering's answer."""


class ClusterPredictions(ModelListResponse):
    """A clustering's answer to a list."""

    predictions: list[ClusterRow] = Field(description="One answer for each object, in their order.")


class Clustering(ServingTask):
    """Numbers of clusters of shape (n,), whose names are `classes`; no shares."""

    name = "clustering"
    path = "/api/cluster"
    summary = "Find its cluster"
    words = "In which cluster is it? {description}\n\nThe cluster's label says what marks it."
    unexplained = "Its clusters' labels say what marks them."

    def check(
        self,
        labels: npt.NDArray[Any],
        shares: npt.NDArray[np.float32] | None,  # noqa: ARG002
        description: Description,
    ) -> ModelOutputs:
        if not ((labels >= 0) & (labels < len(description.classes))).all():
            raise ValueError("it answers a cluster that it does not name")
        return ModelOutputs(labels, None, description.classes)

    def row(self, outputs: ModelOutputs, place: int) -> dict[str, Any]:
        number = int(outputs.labels[place])
        return {"cluster": number, "label": outputs.classes[number]}

    def columns(self, outputs: Sequence[ModelOutputs]) -> dict[str, Column]:
        numbers = np.concatenate([part.labels for part in outputs]).tolist()
        return {"prediction": [outputs[0].classes[number] for number in numbers]}

    def response_models(self, contract: Contract) -> Any:  # noqa: ARG002 - the same for every model
        return ClusterPrediction | ClusterPredictions
