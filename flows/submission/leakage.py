"""Checks whether a model that was fitted elsewhere has learned the held-out rows.

The same estimator is fitted again on the training rows alone. A model that scores higher than that on
held-out rows, beyond noise, has learned from other rows: the held-out rows, or rows outside of the data. Then
its score does not say how well it does on new rows (docs/decisions/020-submitted-models.md has numbers).
"""

import pandas as pd

from catalog.spec import ModelSpec
from checks.builtin.context import CheckContext
from checks.comparison import IncumbentModel, compare
from checks.frames import checked_frame
from flows.errors import LeakageError
from registry.evidence.verdict import Incumbent
from registry.model_format.onnx_model import OnnxModel


def require_no_leakage(
    spec: ModelSpec, as_fitted: OnnxModel, refitted: OnnxModel, train: pd.DataFrame, test: pd.DataFrame
) -> float:
    """Return the headline metric of the submitted model less that of the one fitted here.

    `train` and `test` have the columns of `spec`. Raises `LeakageError` when the whole 95 % interval of the
    difference (paired bootstrap, checks/comparison.py) is above 0, or when there is none.
    """
    strict = spec.model_copy(update={"gate": spec.gate.model_copy(update={"max_worse": 0.0})})
    held_out = checked_frame(spec, test, "held-out")
    context = CheckContext(strict, checked_frame(spec, train, "training"), held_out, refitted)
    incumbent = IncumbentModel(Incumbent(version=1, digest=as_fitted.digest), lambda: as_fitted)
    comparison = compare(context, incumbent)
    if comparison.value is None:
        raise LeakageError(
            f"{spec.name}: the model as fitted cannot be compared with the same one fitted here: "
            f"{comparison.reason}"
        )
    if comparison.status != "passed":
        raise LeakageError(
            f"{spec.name}: on held-out rows the model as fitted has {spec.metric} {-comparison.value:.3f} "
            "more than the same estimator fitted on the training rows alone, which is beyond noise. So it "
            "has seen held-out rows, or rows that are not in the data, and the gate cannot judge it. "
            f"Submit it without --as-fitted (as_fitted=True), or fit it on training_rows({spec.name!r})."
        )
    return -comparison.value
