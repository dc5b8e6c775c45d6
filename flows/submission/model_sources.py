"""Loads models that were trained elsewhere: objects, files, or models of the tracking server.

Unpickling a file runs the code in it. Only a file or a run that the user names is unpickled.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from sklearn.pipeline import Pipeline

from flows.errors import SubmissionError

_PICKLES = (".pkl", ".pickle", ".joblib")
_URI = re.compile(r"(runs|models):/.+", re.ASCII)


@dataclass(frozen=True)
class SubmittedModel:
    """A scikit-learn estimator or the bytes of an ONNX file, and its origin."""

    estimator: Any = None
    onnx: bytes | None = None
    source: str = "notebook"

    @property
    def kind(self) -> str:
        """The class of the estimator as an import path, or `ONNX file`."""
        if self.onnx is not None:
            return "ONNX file"
        kind = type(final_estimator(self.estimator))
        parts = kind.__module__.split(".")
        if parts[0] == "sklearn":  # as declarations write it, and people import it
            parts = [part for part in parts if not part.startswith("_")]
        return ".".join([*parts, kind.__qualname__])

    @property
    def name(self) -> str:
        """A short name for the run."""
        if self.onnx is not None:
            return "onnx-file"
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(final_estimator(self.estimator)).__name__).lower()

    @property
    def params(self) -> dict[str, Any]:
        """The estimator's own parameters, those that are plain values."""
        estimator = final_estimator(self.estimator)
        params = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
        # The class is logged as `estimator`.
        return {
            name: value
            for name, value in params.items()
            if isinstance(value, str | int | float | None) and name != "estimator"
        }


def final_estimator(estimator: Any) -> Any:
    """Return the estimator inside of pipelines (their last step) and of searches over parameters."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "refit") and hasattr(estimator, "estimator"):
            estimator = estimator.estimator
        else:
            return estimator


def load(source: object) -> SubmittedModel:
    """Return the model of `source`.

    That is an estimator or ONNX model itself; `runs:/ID/model` or `models:/…` of the tracking server
    (MLflow's flavours sklearn and onnx); or the path of a file: .onnx, .skops, or a pickle (.pkl, .pickle,
    .joblib), whose code is run. Raises `SubmissionError` for anything else.
    """
    if isinstance(source, onnx.ModelProto):
        return SubmittedModel(onnx=source.SerializeToString())
    if isinstance(source, bytes):
        return SubmittedModel(onnx=source)
    if isinstance(source, str | Path):
        if isinstance(source, str) and _URI.fullmatch(source):
            return _from_mlflow(source)
        return _from_file(Path(source).expanduser())
    if isinstance(source, type) or not callable(getattr(source, "predict", None)):
        raise SubmissionError(
            f"{source!r:.100} is no model: give a scikit-learn estimator or pipeline, an ONNX model, the "
            "path of a file, or runs:/ID/model or models:/… of the tracking server."
        )
    return SubmittedModel(estimator=source)


def _from_file(path: Path) -> SubmittedModel:
    if "://" in str(path) or ":/" in str(path)[:10]:
        raise SubmissionError(
            f"{path} is neither a file nor runs:/… or models:/… of the tracking server. Fetch it first."
        )
    if not path.is_file():
        raise SubmissionError(f"There is no file {path}.")
    if path.suffix == ".onnx":
        return SubmittedModel(onnx=path.read_bytes(), source=path.name)
    if path.suffix == ".skops":
        return SubmittedModel(estimator=_from_skops(path), source=path.name)
    if path.suffix in _PICKLES:
        import joblib  # noqa: PLC0415 - it reads plain pickles too

        try:
            return SubmittedModel(estimator=joblib.load(path), source=path.name)
        except Exception as error:  # unpickling may raise anything
            raise SubmissionError(
                f"{path} cannot be unpickled: {type(error).__name__}: {error}. It needs the packages and "
                "classes that it was written with; classes of a notebook are best submitted from it."
            ) from error
    raise SubmissionError(
        f"{path} is no file of a model: it must end in .onnx, .skops, {', '.join(_PICKLES)}."
    )


def _from_skops(path: Path) -> Any:
    from skops import io  # noqa: PLC0415 - comes with MLflow, and is seldom needed

    try:
        unknown = io.get_untrusted_types(file=path)
        if foreign := [name for name in unknown if not name.startswith(("sklearn.", "numpy.", "scipy."))]:
            raise SubmissionError(
                f"{path} holds types beyond scikit-learn, which are not loaded: {', '.join(foreign)}."
            )
        return io.load(path, trusted=unknown)
    except SubmissionError:
        raise
    except Exception as error:  # a damaged file raises errors of zip, JSON or skops
        raise SubmissionError(f"{path} is no skops file that can be read: {error}") from error


def _from_mlflow(uri: str) -> SubmittedModel:
    import mlflow  # noqa: PLC0415 - takes seconds

    try:
        flavors = mlflow.models.get_model_info(uri).flavors
        if "sklearn" in flavors:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about versions of packages; the gate shows differences
                return SubmittedModel(estimator=mlflow.sklearn.load_model(uri), source=uri)
        if "onnx" in flavors:
            with TemporaryDirectory(prefix="greenroom-submit-") as scratch:
                folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
                return SubmittedModel(onnx=(folder / flavors["onnx"]["data"]).read_bytes(), source=uri)
    except Exception as error:  # errors of MLflow, HTTP and unpickling
        raise SubmissionError(f"{uri} cannot be loaded: {type(error).__name__}: {error}") from error
    raise SubmissionError(
        f"{uri} is a model of the flavours {', '.join(sorted(flavors))}; only sklearn and onnx are taken. "
        "Convert it to ONNX and submit that file."
    )
