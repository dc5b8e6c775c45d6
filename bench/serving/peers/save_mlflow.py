"""Saves a pickled pipeline as an MLflow model with a signature. Arguments: pickle, Parquet, folder."""

import pickle
import sys
from pathlib import Path

import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature

if __name__ == "__main__":
    pipeline = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - bench.serving wrote it
    rows = pd.read_parquet(sys.argv[2])
    mlflow.sklearn.save_model(
        pipeline,
        sys.argv[3],
        serialization_format="cloudpickle",
        signature=infer_signature(rows, pipeline.predict(rows)),
        # It would install them all somewhere to find out which they are.
        pip_requirements=["mlflow", "scikit-learn"],
    )
