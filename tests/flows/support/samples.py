"""Some of the real tracks, split, and pipelines fitted on them."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from catalog.loader import get_model
from catalog.spec import Candidate, ModelSpec
from checks.data import cleaning, sources
from checks.data.splits import Rows
from flows.modeling import candidates

SMALL = {"n_estimators": 10}
CLUSTERS, SIMILAR = get_model("clusters"), get_model("similar")


class Sample:
    """Some of a model's rows, in two halves."""

    def __init__(self, spec: ModelSpec) -> None:
        table = sources.read_table(spec.dataset)
        rows = cleaning.clean(table, spec, read=len(table))[0].sample(800, random_state=1)
        self.spec = spec
        self.rows = cleaning.features(rows, spec).reset_index(drop=True)
        self.target = rows[spec.target].reset_index(drop=True)
        self.folds = [(np.arange(400), np.arange(400, 600)), (np.arange(200, 600), np.arange(200))]

    @property
    def train(self) -> Rows:
        return Rows(self.rows[:600], self.target[:600].to_frame(), self.spec.target)

    @property
    def test(self) -> Rows:
        return Rows(self.rows[600:], self.target[600:].to_frame(), self.spec.target)

    @property
    def held_out(self) -> pd.DataFrame:
        return self.rows.iloc[600:]

    def pipeline(self, estimator: str, **params: Any) -> Pipeline:
        candidate = Candidate(name="one", estimator=estimator, params=params)
        return candidates.build(self.spec, candidate).fit(self.rows[:600], self.target[:600])


def sample(spec: ModelSpec, count: int = 700) -> pd.DataFrame:
    """Some rows, with the columns of the declaration."""
    table = sources.read_table(spec.dataset)
    rows = cleaning.clean(table, spec, read=len(table))[0].sample(count, random_state=1)
    others = rows[[name for name in spec.columns if name not in spec.features]].astype(str)
    return cleaning.features(rows, spec).join(others).reset_index(drop=True)
