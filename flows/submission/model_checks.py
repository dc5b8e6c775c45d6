"""What a submitted model must be, and the form in which it goes on. Plain functions."""

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
from flows.submission.model_sources import Brought, inside
from registry.errors import ModelFormatError
from registry.model_format.onnx_model import Description, OnnxModel

# Labels and probabilities of an ONNX file must say the same; a tie may fall either way.
_MIN_CONSISTENT = 0.995
_SUM_TOLERANCE = 1e-3


def as_pipeline(spec: ModelSpec, brought: Brought, *, as_fitted: bool, target: "pd.Series[Any]") -> Pipeline:
    """Return the estimator as a pipeline: a fresh clone to be fitted, or as it was fitted elsewhere.

    `target` is that of the training rows. Raises `SubmissionError` for what cannot do the task of `spec`,
    cannot be cloned or, as fitted, does not read these features or knows other classes.
    """
    given = brought.estimator
    kind = type(inside(given)).__name__
    fits = is_classifier if spec.task == "classification" else is_regressor
    if not fits(given):
        raise SubmissionError(f"{spec.name} is a {spec.task}, and {kind} is no estimator for that.")
    if as_fitted:
        # A copy, because column names become positions in it before it is converted.
        given = deepcopy(getattr(given, "best_estimator_", given))
        _require_fitted(spec, given, kind, target)
    else:
        try:
            given = clone(given)
        except Exception as error:  # constructors of strangers
            raise SubmissionError(
                f"{kind} cannot be cloned to learn from the training rows alone: {error}. Submit it as it "
                "was fitted (--as-fitted, as_fitted=True), or as an ONNX file."
            ) from error
    pipeline = given if isinstance(given, Pipeline) else Pipeline([("model", given)])
    # A training's own calibration is known by its place (calibration.py); somebody else's is another.
    return Pipeline([("model", pipeline)]) if isinstance(pipeline[-1], CalibratedClassifierCV) else pipeline


def require_probabilities(spec: ModelSpec, estimator: Any) -> None:
    """Raise `SubmissionError` for a classifier without probabilities, as one may be before it is fitted."""
    if spec.task == "classification" and not hasattr(estimator, "predict_proba"):
        raise SubmissionError(
            f"{type(inside(estimator)).__name__} gives no probabilities (predict_proba), which the gate and "
            "the predictor need. Choose another estimator, or wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def _require_fitted(spec: ModelSpec, given: Any, kind: str, target: "pd.Series[Any]") -> None:
    try:
        check_is_fitted(given)
    except NotFittedError as error:
        raise SubmissionError(
            f"{kind} is not fitted. Leave out --as-fitted (as_fitted=True): then it is fitted here."
        ) from error
    names = getattr(given, "feature_names_in_", None)
    width = getattr(given, "n_features_in_", len(spec.features))
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
    if spec.task == "classification":
        _require_classes(spec, [str(label) for label in given.classes_], target, kind)


def _require_classes(spec: ModelSpec, classes: list[str], target: "pd.Series[Any]", what: str) -> None:
    if unknown := sorted(set(classes) ^ set(target)):
        raise SubmissionError(
            f"{what} has the classes {', '.join(sorted(classes))}; {spec.target} of {spec.name} has "
            f"{', '.join(sorted(set(target)))}. Not the same: {', '.join(unknown)}."
        )


def by_position(estimator: Any, features: tuple[str, ...]) -> None:
    """Let column transformers that read raw features name them by position: the served model gets a matrix.

    Changes a fitted estimator in place; it answers as before.
    """
    if isinstance(estimator, Pipeline):
        first = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
        by_position(first, features)
    elif isinstance(estimator, ColumnTransformer):
        place = {name: index for index, name in enumerate(features)}
        estimator.transformers_ = [
            (name, step, _places(columns, place)) for name, step, columns in estimator.transformers_
        ]


def _places(columns: Any, place: dict[str, int]) -> Any:
    if isinstance(columns, str):
        return [place[columns]]
    if isinstance(columns, list | tuple | np.ndarray | pd.Index):
        return [place.get(one, one) for one in columns] if len(columns) else []
    return columns


def described(
    spec: ModelSpec,
    content: bytes,
    features: pd.DataFrame,
    target: "pd.Series[Any]",
    classes: tuple[str, ...],
) -> bytes:
    """Return an ONNX file with Greenroom's own metadata in place of whatever it had.

    `features` and `target` are the training rows'. `classes` is the order of the probabilities; empty means
    sorted, as scikit-learn has them. Raises `SubmissionError` for what is no model in the served format.
    """
    said: dict[str, Any] = {"task": spec.task, "features": spec.features}
    if spec.task == "classification":
        named = classes or tuple(sorted(set(target)))
        _require_classes(spec, list(named), target, "The ONNX file")
        said["classes"] = named
    try:
        proto = onnx.load_model_from_string(content)
        del proto.metadata_props[:]
        described_rows = Description(**said, background=background(spec, features))
        onnx.helper.set_model_props(proto, described_rows.to_metadata())
        made: bytes = proto.SerializeToString()
        model = OnnxModel(made)
    except ModelFormatError as error:
        raise SubmissionError(f"The ONNX file cannot be served: {str(error).rstrip('.')}.") from error
    except Exception as error:  # protobuf has exceptions of its own for what is no message
        raise SubmissionError(f"This is no ONNX file: {type(error).__name__}: {error}") from error
    require_answers(spec, model, features)
    return made


def require_answers(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> None:
    """Raise `SubmissionError` unless a model answers all rows at once with what its task promises."""
    try:
        labels, shares = model.predict(_matrix(rows))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise SubmissionError(
            f"The model does not answer {len(rows)} rows at once: {error}. Its one input must be float32 of "
            f"shape (any number of rows, {len(spec.features)})."
        ) from error
    if len(labels) != len(rows):
        raise SubmissionError(f"The model gives {len(labels)} answers to {len(rows)} rows, not one to each.")
    if spec.task == "classification":
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
    # A sum of float32 may be a little below 0, and 1 minus it is the other class's.
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
