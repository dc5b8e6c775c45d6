"""Reads the prediction log and feedback from the bucket (docs/serving.md has their columns)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.spec import ModelSpec
from checks.errors import DataError
from registry.errors import StorageMissingError
from registry.storage.bucket import Bucket
from registry.storage.settings import StorageSettings


@dataclass(frozen=True)
class Window:
    """A period in UTC, from `since` on until before `until`."""

    since: datetime
    until: datetime

    @property
    def days(self) -> list[str]:
        """Its days as YYYY-MM-DD, the newest first."""
        first, last = self.since.date(), self.until.date()
        return [(last - timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def open_bucket() -> Bucket:
    """Open the bucket of the settings; raises `DataError` if there are no keys for it."""
    settings = StorageSettings()
    if not settings.has_storage:
        raise DataError(
            "The prediction log lies in S3, and there are no keys for it. Set GREENROOM_S3_ACCESS_KEY and "
            "_SECRET_KEY, and GREENROOM_S3_ENDPOINT_URL where it is not the local stack's."
        )
    return Bucket(settings)


def read_predictions(
    bucket: Bucket, spec: ModelSpec, window: Window, max_rows: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return the newest `max_rows` predictions of a window, and the keys of files that cannot be used.

    Columns: `id`, `row`, `at`, `version`, `digest`, `prediction`, an `input_NAME` per feature and, of a
    classifier, `probability_CLASS`. Raises `StorageUnavailableError`.
    """
    columns = {"id", "row", "at", "version", "digest", "prediction", *(f"input_{n}" for n in spec.features)}
    frames: list[pd.DataFrame] = []
    unusable: list[str] = []
    rows = 0
    for key, table in _newest_predictions(bucket, spec.name, window, unusable):
        if not columns <= set(table.column_names):
            unusable.append(key)
            continue
        frames.append(_within(table, window).to_pandas())
        rows += len(frames[-1])
        if rows >= max_rows:
            break
    if not frames:
        return pd.DataFrame(columns=sorted(columns)), unusable
    predictions = pd.concat(frames, ignore_index=True).sort_values("at", ascending=False, kind="stable")
    # A file that was sent twice has the same rows twice.
    return predictions.drop_duplicates(["id", "row"]).head(max_rows).reset_index(drop=True), unusable


def _newest_predictions(
    bucket: Bucket, model: str, window: Window, unusable: list[str]
) -> Iterator[tuple[str, Any]]:
    for day in window.days:
        # A model's name needs no escaping in a key; a file's name begins with its time.
        yield from _tables(bucket, f"predictions/model={model}/date={day}/", unusable)


def read_feedback(bucket: Bucket, window: Window, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the last feedback of the window on each of some predictions.

    Columns: `id`, `row`, `number`, `label`. Raises `StorageUnavailableError`.
    """
    ids = pa.array(predictions["id"].unique(), pa.string())
    frames = []
    for day in window.days if len(ids) else []:
        for _, table in _tables(bucket, f"feedback/date={day}/", []):
            frames.append(table.filter(pc.is_in(table["id"], value_set=ids)).to_pandas())
    if not frames:
        return pd.DataFrame(columns=["id", "row", "number", "label"])
    feedback = pd.concat(frames, ignore_index=True).sort_values("at", kind="stable")
    last: pd.DataFrame = feedback.drop_duplicates(["id", "row"], keep="last")
    return last[["id", "row", "number", "label"]]


def _tables(bucket: Bucket, prefix: str, unusable: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield key and table of each file below a prefix, the newest first; add the others to `unusable`."""
    with TemporaryDirectory(prefix="greenroom-log-") as scratch:
        path = Path(scratch) / "rows.parquet"
        for key in reversed(list(bucket.keys(prefix))):
            try:
                bucket.get(key, path)
                yield key, pq.read_table(path, partitioning=None)
            except (StorageMissingError, pa.ArrowInvalid):  # removed meanwhile, or not Parquet
                unusable.append(key)


def _within(table: Any, window: Window) -> Any:
    at = table["at"]
    since, until = (
        pa.scalar(end.astimezone(UTC), pa.timestamp("us", tz="UTC")) for end in (window.since, window.until)
    )
    return table.filter(pc.and_(pc.greater_equal(at, since), pc.less(at, until)))
