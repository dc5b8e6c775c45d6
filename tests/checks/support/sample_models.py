"""Honest rows and small real models for the gate's tests: real tracks, split by artist, served as ONNX."""

from collections.abc import Callable
from importlib import resources

import numpy as np
import pandas as pd
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PowerTransformer, StandardScaler

from catalog.spec import ModelSpec
from registry.evidence.verdict import CheckOutcome, Verdict
from registry.model_format.onnx_model import Description, OnnxModel

Rows = tuple[pd.DataFrame, pd.DataFrame]
Small = tuple[ModelSpec, Rows, OnnxModel]
Gate = Callable[..., Verdict]
Refusal = Callable[[Verdict], CheckOutcome]
StandIn = Callable[[str], None]


def rows_of(spec: ModelSpec, *, seed: int = 7) -> Rows:
    """Return training and held-out rows of a model over tracks, which share no artist."""
    package, _, path = spec.dataset.source.removeprefix("package:").partition("/")
    raw = pd.read_parquet(str(resources.files(package) / path))
    if spec.task == "classification":  # one recording under two genres cannot be learned
        genres = raw.groupby(list(spec.dataset.unique_by))[spec.target].transform("nunique")
        raw = raw[genres == 1]
    clean = (
        raw.sort_values("popularity", ascending=False, kind="stable")
        .drop_duplicates(list(spec.dataset.unique_by))
        .reset_index(drop=True)
    )
    artists = clean["artists"].str.split(";")
    strata = clean[spec.target]
    if spec.task == "regression":
        strata = pd.qcut(strata, 5, labels=False, duplicates="drop")
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    train, test = next(folds.split(clean, strata, artists.str[0]))
    held_out = {name for names in artists.iloc[test] for name in names}
    train = np.array([i for i in train if held_out.isdisjoint(artists.iloc[i])])
    columns = clean[[*spec.features, spec.target]].astype(dict.fromkeys(spec.features, "float64"))
    return columns.iloc[train].reset_index(drop=True), columns.iloc[test].reset_index(drop=True)


def trained(spec: ModelSpec, estimator: BaseEstimator, train: pd.DataFrame) -> OnnxModel:
    """Return the estimator, behind the usual encoding and fitted on `train`, as it would be served."""
    return OnnxModel(onnx_bytes(spec, estimator, train), threads=2)


def onnx_bytes(spec: ModelSpec, estimator: BaseEstimator, train: pd.DataFrame) -> bytes:
    """Return the same as a file in the served format."""
    names = list(spec.features)
    one_hot = [names.index(name) for name in spec.one_hot]
    skewed = [names.index(name) for name in spec.skewed]
    rest = [i for i in range(len(names)) if i not in {*one_hot, *skewed}]
    encoder = ColumnTransformer(
        [
            ("codes", OneHotEncoder(handle_unknown="ignore"), one_hot),
            ("skewed", PowerTransformer(), skewed),
            ("rest", StandardScaler(), rest),
        ]
    )
    pipeline = make_pipeline(encoder, estimator).fit(train[names].to_numpy(np.float32), train[spec.target])
    options = {id(pipeline): {"zipmap": False}} if spec.task == "classification" else None
    proto = convert_sklearn(
        pipeline,
        initial_types=[("features", FloatTensorType([None, len(names)]))],
        options=options,
        target_opset=18,
    )
    classes = tuple(str(c) for c in pipeline.classes_) if spec.task == "classification" else ()
    description = Description(task=spec.task, features=spec.features, classes=classes)
    for key, value in description.to_metadata().items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString())
