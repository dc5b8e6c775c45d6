"""Rows to score, a declaration to score them by, and how results are read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.loader import get_model
from checks.data import sources
from flows.scoring.plan import PinnedVersion, Plan, make_plan
from registry.model_format.onnx_model import OnnxModel
from tests.serving.support.onnx_parts import classifier

GENRE = get_model("genre")

# A catalogue's file with another name for `genre`, so that a test has a registered model of its own.
DECLARE = """
from catalog.models.genre import MODEL as BASE
MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


def tracks(rows: int, seed: int = 1) -> pd.DataFrame:
    """Real tracks, drawn with replacement, each with an id of its own."""
    table = sources.read_table(GENRE.dataset)[list(GENRE.dataset.row.model_fields)]
    drawn = table.iloc[np.random.default_rng(seed).integers(0, len(table), rows)].reset_index(drop=True)
    return drawn.assign(track_id=[f"{seed}-{number}" for number in range(rows)])


def write(frame: pd.DataFrame, path: Path, group: int) -> None:
    """Write rows as Parquet with row groups of `group` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=group)


def model() -> OnnxModel:
    """A small classifier that reads what `genre` reads."""
    return OnnxModel(classifier(GENRE.features).SerializeToString())


def pinned(onnx_model: OnnxModel) -> PinnedVersion:
    """The version that a plan names."""
    return PinnedVersion(3, onnx_model.digest, onnx_model.description.task, onnx_model.description.classes)


def plan_of(onnx_model: OnnxModel, source: Path, rows: int = 100, **options: Any) -> Plan:
    """A plan for `genre`."""
    return make_plan(GENRE, pinned(onnx_model), str(source), keep=options.get("keep", ()), rows=rows)


def expected(onnx_model: OnnxModel, frame: pd.DataFrame) -> tuple[list[str], Any]:
    """What the model says to rows, as the predictor would ask it."""
    matrix = frame[list(onnx_model.description.features)].astype("float64").to_numpy().astype(np.float32)
    labels, shares = onnx_model.predict(matrix)
    return [str(label) for label in labels], shares
