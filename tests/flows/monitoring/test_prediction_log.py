"""Reading the prediction log from a real bucket: what is in the window, once, and what is no use is named."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.errors import DataError
from flows.monitoring.prediction_log import Window, open_bucket, read_feedback, read_predictions
from registry.storage.bucket import Bucket
from tests.conftest import Stack

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
WINDOW = Window(NOON - timedelta(hours=24), NOON)


def rows(spec: ModelSpec, at: datetime, count: int, name: str) -> pa.Table:
    found = {
        "id": [name] * count,
        "row": list(range(count)),
        "at": pa.array([at] * count, pa.timestamp("us", tz="UTC")),
        "version": [1] * count,
        "digest": ["sha256:0"] * count,
        "prediction": [0.5] * count,
        **{f"input_{feature}": [0.25] * count for feature in spec.features},
    }
    return pa.table(found)


@pytest.fixture
def bucket(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("GREENROOM_HOME", str(stack.home))
    monkeypatch.setenv("GREENROOM_S3_PORT", str(stack.ports["S3"]))
    return open_bucket()


def put(bucket: Bucket, key: str, table: pa.Table | bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if isinstance(table, bytes):
        path.write_bytes(table)
    else:
        pq.write_table(table, path)
    bucket.put(key, path)


def test_window_is_read_once_newest_first_and_bad_files_are_named(bucket: Bucket, tmp_path: Path) -> None:
    spec = get_model("energy").model_copy(update={"name": f"t{uuid4().hex[:8]}"})
    folder = f"predictions/model={spec.name}/date="
    first = rows(spec, NOON - timedelta(hours=20), 3, "a")
    put(bucket, f"{folder}2026-03-01/1.parquet", first, tmp_path)
    put(bucket, f"{folder}2026-03-01/2.parquet", first, tmp_path)  # sent twice
    put(bucket, f"{folder}2026-03-01/3.parquet", rows(spec, WINDOW.since, 1, "b"), tmp_path)
    put(bucket, f"{folder}2026-03-02/4.parquet", rows(spec, NOON, 5, "too late"), tmp_path)
    put(bucket, f"{folder}2026-03-02/5.parquet", rows(spec, NOON - timedelta(hours=1), 2, "c"), tmp_path)
    put(bucket, f"{folder}2026-02-28/6.parquet", rows(spec, NOON - timedelta(days=3), 9, "early"), tmp_path)
    put(bucket, f"{folder}2026-03-02/7.parquet", b"PAR1 not", tmp_path)
    put(bucket, f"{folder}2026-03-02/8.parquet", first.drop_columns(["input_valence"]), tmp_path)
    found, useless = read_predictions(bucket, spec, WINDOW, max_rows=100)
    assert found["id"].tolist() == ["c", "c", "a", "a", "a", "b"]
    assert [key.rsplit("/", 1)[1] for key in useless] == ["8.parquet", "7.parquet"]
    newest, _ = read_predictions(bucket, spec, WINDOW, max_rows=2)
    assert newest["id"].tolist() == ["c", "c"]


def test_last_word_of_feedback_counts(bucket: Bucket, tmp_path: Path) -> None:
    mine, other = uuid4().hex, uuid4().hex
    said = pa.table(
        {
            "id": [mine, mine, other],
            "row": pa.array([0, 0, 0], pa.int32()),
            "at": pa.array([NOON - timedelta(hours=n) for n in (2, 1, 1)], pa.timestamp("us", tz="UTC")),
            "number": [0.1, 0.9, 0.3],
            "label": pa.array([None, None, None], pa.string()),
            "key": pa.array([None, None, None], pa.string()),
        }
    )
    put(bucket, f"feedback/date=2026-03-02/{mine}.parquet", said, tmp_path)
    found = read_feedback(bucket, WINDOW, pd.DataFrame({"id": [mine], "row": [0]}))
    assert found[["id", "number"]].to_numpy().tolist() == [[mine, 0.9]]
    assert read_feedback(bucket, WINDOW, pd.DataFrame(columns=["id", "row"])).empty


def test_without_keys_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    with pytest.raises(DataError, match="GREENROOM_S3_ACCESS_KEY"):
        open_bucket()
