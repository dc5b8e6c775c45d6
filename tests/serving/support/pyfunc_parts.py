"""Real MLflow models that are no ONNX files, and a pickle that shows when it is loaded."""

import os
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.neighbors import KNeighborsRegressor

from catalog.spotify_tracks import FEATURES
from serving.models.pyfunc import PyfuncFiles

READS = tuple(name for name in FEATURES if name != "energy")
WHOLE = ("key", "mode", "duration_ms", "time_signature")


def frame(features: tuple[str, ...], rows: int = 60) -> pd.DataFrame:
    """Rows of tracks, typed as a contract's fields are."""
    rng = np.random.default_rng(3)
    made = pd.DataFrame({name: rng.random(rows).round(3) for name in features})
    made = made.assign(**{name: rng.integers(1, 6, rows) for name in WHOLE if name in features})
    return made.assign(explicit=rng.random(rows) > 0.5)


def neighbours() -> tuple[KNeighborsRegressor, pd.DataFrame]:
    rows = frame(READS)
    return KNeighborsRegressor(3).fit(rows, rows["tempo"] * 2), rows


def save_sklearn(folder: Path, fitted: Any, rows: pd.DataFrame) -> None:
    mlflow.sklearn.save_model(
        fitted,
        folder,
        signature=infer_signature(rows, fitted.predict(rows)),
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )


def signed(folder: Path, python: str = sys.executable) -> PyfuncFiles:
    """Bring the files of a saved model in, as if they had been fetched and were signed as they are."""
    contents = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    digests = {path: sha256(content).hexdigest() for path, content in contents.items()}
    files = PyfuncFiles("mine version 1", digests, python)
    for path, content in contents.items():
        files.put(path, content)
    return files


class Moody(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Does what `tempo` says."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        tempo = float(model_input["tempo"].iloc[0])
        if tempo == 21:
            time.sleep(600)
        if tempo == 22:
            os._exit(7)
        if tempo == 23:
            bytearray(64 * 2**30)
        if tempo == 24:
            sys.stdout.write("x" * 10_000_000)
        return model_input["tempo"] + 0.5


def save_moody(folder: Path) -> None:
    """Save it by value, since its process knows nothing of these tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    mlflow.pyfunc.save_model(
        folder,
        python_model=Moody(),
        signature=infer_signature(pd.DataFrame({"tempo": [1.0]}), np.array([1.0])),
        pip_requirements=["mlflow"],
    )
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Evil:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)
