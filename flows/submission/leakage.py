"""Has a model that was fitted elsewhere seen the held-out rows? Asked of what can be fitted again.

The same estimator is fitted anew on the training rows alone. What answers the held-out rows better than that,
beyond noise, has learned from more than those: from the held-out rows themselves, or from rows that nobody
here knows. Neither score says how it does on new rows (docs/decisions/020-submitted-models.md has numbers).
"""

import pandas as pd

from catalog.spec import ModelSpec
from checks.builtin.context import CheckContext
from checks.comparison import IncumbentModel, compare
from checks.frames import checked_frame
from flows.errors import SeenError
from registry.evidence.verdict import Incumbent
from registry.model_format.onnx_model import OnnxModel


def require_unseen(
    spec: ModelSpec, as_fitted: OnnxModel, refitted: OnnxModel, train: pd.DataFrame, test: pd.DataFrame
) -> float:
    """Return by how much the headline metric of the model as fitted is above that of the one fitted here.

    `train` and `test` have the columns of `spec`. Raises `SeenError` when the whole 95 % interval of the
    difference (paired bootstrap, checks/comparison.py) is above 0, or when there is none.
    """
    strict = spec.model_copy(update={"gate": spec.gate.model_copy(update={"max_worse": 0.0})})
    held_out = checked_frame(spec, test, "held-out")
    context = CheckContext(strict, checked_frame(spec, train, "training"), held_out, refitted)
    incumbent = IncumbentModel(Incumbent(version=1, digest=as_fitted.digest), lambda: as_fitted)
    found = compare(context, incumbent)
    if found.value is None:
        raise SeenError(
            f"{spec.name}: the model as fitted cannot be compared with the same one fitted here: "
            f"{found.reason}"
        )
    if found.status != "passed":
        raise SeenError(
            f"{spec.name}: on held-out rows the model as fitted has {spec.metric} {-found.value:.3f} more "
            "than the same estimator fitted on the training rows alone, which is beyond noise. So it has "
            "seen held-out rows, or rows that are not in the data, and the gate cannot tell how good it is. "
            f"Submit it without --as-fitted (as_fitted=True), or fit it on training_rows({spec.name!r})."
        )
    return -found.value
