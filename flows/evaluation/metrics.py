"""The metrics of each task, of a model's held-out predictions."""

from typing import Any

import pandas as pd
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline

from catalog.spec import ModelSpec
from flows.modeling import clustering, similarity
from flows.modeling.threads import one_thread


@one_thread()
def score(
    spec: ModelSpec, pipeline: Pipeline, rows: pd.DataFrame, target: "pd.Series[Any] | None"
) -> dict[str, float]:
    """Return the metrics of a pipeline on rows, the headline metric and the task's usual ones."""
    if spec.task == "clustering":
        return clustering.score(pipeline, rows)
    if spec.task == "similarity" and target is not None:
        return similarity.score(pipeline, rows, target)
    usual = {
        "classification": ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss"),
        "regression": ("r2", "neg_mean_absolute_error", "neg_root_mean_squared_error"),
    }[spec.task]
    found = {}
    for name in dict.fromkeys((spec.metric, *usual)):
        value = float(get_scorer(name)(pipeline, rows, target))
        # scikit-learn turns losses round so that higher is better; people compare the losses themselves.
        found[name.removeprefix("neg_")] = -value if name.startswith("neg_") else value
    return found
