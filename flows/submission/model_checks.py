"""Checks a submitted model, and brings it into the form that a training has."""

from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from catalog.spec import ModelSpec
from flows.errors import SubmissionError
from flows.modeling.onnx_export import background
from flows.submission.model_sources import SubmittedModel, final_estimator
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import Description, OnnxModel

# Least share of rows whose label is the class of the highest probability; ties may differ.
_MIN_CONSISTENT = 0.995
_SUM_TOLERANCE = 1e-3


def as_pipeline(
    spec: ModelSpec, submitted: SubmittedModel, *, as_fitted: bool, target: "pd.Series[Any]"
) -> Pipeline:
    """Return the estimator as a pipeline: an unfitted clone, or as it was fitted elsewhere.

    `target` is that of the training rows. Raises `SubmissionError` for an estimator of another task than
    `spec`, one that cannot be cloned or, as fitted, one with other features or classes.
    """
    estimator = submitted.estimator
    kind = type(final_estimator(estimator)).__name__
    fits = is_classifier if spec.answers == "classes" else is_regressor
    if not fits(estimator):
        raise SubmissionError(f"{spec.name} is a {spec.task}, and {kind} is no estimator for that.")
    if as_fitted:
        # A copy: column names in it become positions before it is converted.
        estimator = deepcopy(getattr(estimator, "best_estimator_", estimator))
        _require_fitted(spec, estimator, kind, target)
    else:
        try:
            estimator = clone(estimator)
        except Exception as error:  # constructors may raise anything
            raise SubmissionError(
                f"{kind} cannot be cloned to learn from the training rows alone: {error}. Submit it as it "
                "was fitted (--as-fitted, as_fitted=True), or as an ONNX file."
            ) from error
    pipeline = estimator if isinstance(estimator, Pipeline) else Pipeline([("model", estimator)])
    # A calibration as the last step is one of a training (calibration.py); this one must not be.
    return Pipeline([("model", pipeline)]) if isinstance(pipeline[-1], CalibratedClassifierCV) else pipeline


def require_probabilities(spec: ModelSpec, estimator: Any) -> None:
    """Raise `SubmissionError` for a fitted classifier without probabilities."""
    if spec.answers == "classes" and not hasattr(estimator, "predict_proba"):
        raise SubmissionError(
            f"{type(final_estimator(estimator)).__name__} gives no probabilities (predict_proba), which the "
            "gate and the predictor need. Choose another estimator, or wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def _require_fitted(spec: ModelSpec, estimator: Any, kind: str, target: "pd.Series[Any]") -> None:
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise SubmissionError(
            f"{kind} is not fitted. Leave out --as-fitted (as_fitted=True): then it is fitted here."
        ) from error
    names = getattr(estimator, "feature_names_in_", None)
    width = getattr(estimator, "n_features_in_", len(spec.features))
    if names is not None and tuple(map(str, names)) != spec.features:
        raise SubmissionError(
            f"{kind} was fitted on {', '.join(map(str, names))}; {spec.name} is asked with "
            f"{', '.join(spec.features)}, in this order. Fit it on training_rows({spec.name!r}).features."
        )
    if width != len(spec.features):
        raise SubmissionError(
            f"{kind} was fitted on {width} features, and {spec.name} has {len(spec.features)}: "
            f"{', '.join(spec.features)}."
        )
    if spec.answers == "classes":
        _require_classes(spec, [str(label) for label in estimator.classes_], target, kind)


def _require_classes(spec: ModelSpec, classes: list[str], target: "pd.Series[Any]", what: str) -> None:
    if unknown := sorted(set(classes) ^ set(target)):
        raise SubmissionError(
            f"{what} has the classes {', '.join(sorted(classes))}; {spec.target} of {spec.name} has "
            f"{', '.join(sorted(set(target)))}. Not the same: {', '.join(unknown)}."
        )


def use_column_positions(estimator: Any, features: tuple[str, ...]) -> None:
    """Replace column names by positions in a fitted column transformer: the served model reads a matrix.

    Changes the estimator in place; its predictions stay the same.
    """
    if isinstance(estimator, Pipeline):
        first = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
        use_column_positions(first, features)
    elif isinstance(estimator, ColumnTransformer):
        positions = {name: index for index, name in enumerate(features)}
        estimator.transformers_ = [
            (name, step, _column_positions(columns, positions))
            for name, step, columns in estimator.transformers_
        ]


def _column_positions(columns: Any, positions: dict[str, int]) -> Any:
    if isinstance(columns, str):
        return [positions[columns]]
    if isinstance(columns, list | tuple | np.ndarray | pd.Index):
        return [positions.get(column, column) for column in columns] if len(columns) else []
    return columns


def with_metadata(
    spec: ModelSpec,
    content: bytes,
    features: pd.DataFrame,
    target: "pd.Series[Any]",
    classes: tuple[str, ...],
) -> bytes:
    """Return an ONNX file with Greenroom's metadata instead of its own.

    `features` and `target` are those of the training rows. `classes` is the order of the probabilities; empty
    means sorted, as in scikit-learn. Raises `SubmissionError` for a file that cannot be served.
    """
    fields: dict[str, Any] = {"task": spec.task, "features": spec.features}
    if spec.answers == "classes":
        order = classes or tuple(sorted(set(target)))
        _require_classes(spec, list(order), target, "The ONNX file")
        fields["classes"] = order
    try:
        proto = onnx.load_model_from_string(content)
        del proto.metadata_props[:]
        description = Description(**fields, background=background(spec, features))
        onnx.helper.set_model_props(proto, description.to_metadata())
        described: bytes = proto.SerializeToString()
        model = OnnxModel(described)
    except ModelFormatError as error:
        raise SubmissionError(f"The ONNX file cannot be served: {str(error).rstrip('.')}.") from error
    except Exception as error:  # protobuf has exceptions of its own
        raise SubmissionError(f"This is no ONNX file: {type(error).__name__}: {error}") from error
    require_answers(spec, model, features)
    return described


def require_answers(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> None:
    """Raise `SubmissionError` unless a model answers all rows in one call, in the form of its task."""
    try:
        labels, shares = model.predict(_matrix(rows))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise SubmissionError(
            f"The model does not answer {len(rows)} rows at once: {error}. Its one input must be float32 of "
            f"shape (any number of rows, {len(spec.features)})."
        ) from error
    if len(labels) != len(rows):
        raise SubmissionError(f"The model gives {len(labels)} answers to {len(rows)} rows, not one to each.")
    if spec.answers == "classes":
        if shares is None or shares.shape != (len(rows), len(model.description.classes)):
            raise SubmissionError(
                f"The model must give probabilities of shape (rows, {len(model.description.classes)})."
            )
        _require_shares(model, labels.astype(str), shares)
    elif labels.dtype != np.float32:
        raise SubmissionError(f"The model answers {labels.dtype}; the value of a regression is float32.")
    elif not np.isfinite(labels).all():
        raise SubmissionError(
            f"The model answers {int((~np.isfinite(labels)).sum())} of {len(rows)} rows with NaN or infinity."
        )


def _require_shares(model: OnnxModel, labels: npt.NDArray[Any], shares: npt.NDArray[np.float32]) -> None:
    classes = np.array(model.description.classes)
    bad = ~np.isfinite(shares).all(axis=1)
    if bad.any():
        raise SubmissionError(f"The probabilities of {int(bad.sum())} of {len(shares)} rows are no numbers.")
    # Rounding: a float32 probability may be a little below 0.
    if shares.min() < -_SUM_TOLERANCE or np.abs(shares.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise SubmissionError(
            "The second output is no probabilities: they must be 0..1, and each row's must add up to 1."
        )
    if unknown := sorted(set(labels) - set(classes)):
        raise SubmissionError(
            f"The model answers with classes that the data do not have: {', '.join(unknown[:5])}. "
            f"They have: {', '.join(classes)}."
        )
    same = float(np.mean(classes[shares.argmax(axis=1)] == labels))
    if same < _MIN_CONSISTENT:
        raise SubmissionError(
            f"Labels and probabilities name the same class in only {same:.1%} of rows, if the probabilities "
            f"are in the order {', '.join(classes)}. Say their order with --classes (classes=…)."
        )


def _matrix(rows: pd.DataFrame) -> npt.NDArray[np.float32]:
    return np.asarray(rows.to_numpy(dtype=np.float32))
