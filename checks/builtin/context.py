"""What a built-in check reads, and what it returns."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from catalog.spec import ModelSpec
from checks.builtin.encoding import encoder
from registry.model_format.onnx_model import OnnxModel, Rows

Side = Literal["train", "test"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """The number that a condition is about, and a sentence for people."""

    value: float
    sentence: str


@dataclass(frozen=True)
class CheckContext:
    """One model and its rows, with the columns of `spec` (checks.frames); `test` are the held-out ones."""

    spec: ModelSpec
    train: pd.DataFrame
    test: pd.DataFrame
    model: OnnxModel

    @cached_property
    def _encoder(self) -> Any:
        return encoder(self.spec).fit(self.features("train"))

    def features(self, side: Side) -> Floats:
        """Return the raw features of one side's rows, in the declared order."""
        frame = self.train if side == "train" else self.test
        return frame[list(self.spec.features)].to_numpy(np.float64)

    def space(self, rows: Floats) -> Floats:
        """Return raw features in the space that the training rows span, where distances mean something."""
        encoded: Floats = self._encoder.transform(rows).astype(np.float64)
        return encoded

    def answers(self, rows: Floats, model: OnnxModel | None = None) -> tuple[Any, Any]:
        """Return what the model, or another one, predicts for raw features in the declared order."""
        model = model or self.model
        reads = [self.spec.features.index(name) for name in model.description.features]
        matrix: Rows = rows[:, reads].astype(np.float32)
        return model.predict(matrix)
