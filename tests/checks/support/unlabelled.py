"""Real tracks and real models without a target, for the tests of gate and predictor."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.data import cleaning, sources, splits
from checks.frames import checked_frame
from flows.modeling import candidates, onnx_export
from flows.tasks.registry import task_of
from flows.tasks.similarity import with_index
from registry.model_format.onnx_model import OnnxModel


@dataclass(frozen=True)
class Sides:
    """Training and held-out rows of one model of the catalogue, with the columns of its declaration."""

    spec: ModelSpec
    train: pd.DataFrame
    test: pd.DataFrame

    @property
    def things(self) -> pd.DataFrame:
        """What an index is to hold."""
        return pd.concat([self.train, self.test], ignore_index=True)

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns that the model reads."""
        return frame[list(self.spec.features)]

    def fitted(self, number: int = 0) -> Pipeline:
        """Return one of the declared candidates, fitted on the training rows."""
        pipeline = candidates.build(self.spec, self.spec.candidates[number])
        rows = self.features(self.train)
        if self.spec.task == "similarity":
            return task_of(self.spec).fit(pipeline, rows, self.train[self.spec.related_by])
        return pipeline.fit(rows)

    def exported(self, pipeline: Pipeline, things: pd.DataFrame | None = None) -> OnnxModel:
        """Return a pipeline as it would be served; a similarity finds `things`, all rows by default."""
        if self.spec.task != "similarity":
            return OnnxModel(onnx_export.export(self.spec, pipeline, self.features(self.train)))
        held = self.things if things is None else things
        whole = with_index(pipeline, self.features(held))
        return OnnxModel(onnx_export.export(self.spec, whole, things=held))

    def gate(self, run_gate: Any, model: OnnxModel, folder: Any, **changes: Any) -> Any:
        """Run the gate on these rows."""
        spec = self.spec.model_copy(update=changes)
        return run_gate(spec, train=self.train, test=self.test, model=model, report_dir=folder)


@cache
def sides(name: str, *, shuffled: bool = False) -> Sides:
    """Return a model's rows, split by artist; `shuffled` has every feature in an order of its own."""
    spec = get_model(name)
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(table, spec, read=len(table))
    if shuffled:
        random = np.random.default_rng(3)
        rows = rows.assign(**{name: random.permutation(rows[name].to_numpy()) for name in spec.features})
    train, test = splits.split(rows, spec)
    frame = cleaning.features(rows, spec).join(rows[[c for c in spec.columns if c not in spec.features]])
    return Sides(
        spec, *(checked_frame(spec, frame.iloc[at].reset_index(drop=True), "any") for at in (train, test))
    )
