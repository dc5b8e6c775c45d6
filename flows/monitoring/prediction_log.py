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
from flows.errors import DataError
from registry.errors import StorageMissingError
from registry.storage.bucket import Bucket
from registry.storage.settings import StorageSettings


@dataclass(frozen=True)
class Window:
    """A stretch of time, with its ends in UTC: from `since` on, before `until`."""

    since: datetime
    until: datetime

    @property
    def days(self) -> list[str]:
        """Its days, the newest first, as the log's folders name them."""
        first, last = self.since.date(), self.until.date()
        return [(last - timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def open_bucket() -> Bucket:
    """Open the bucket of the settings; raises `DataError` where there are no keys for it."""
    settings = StorageSettings()
    if not settings.has_storage:
        raise DataError(
            "The prediction log lies in S3, and there are no keys for it. Set GREENROOM_S3_ACCESS_KEY and "
            "_SECRET_KEY, and GREENROOM_S3_ENDPOINT_URL where it is not the local stack's."
        )
    return Bucket(settings)


def read_predictions(
    bucket: Bucket, spec: ModelSpec, window: Window, most: int
) -> tuple[pd.DataFrame, list[str]]:
    """Return the newest predictions of a window, `most` or a file's more, and the files that were no use.

    Columns: `id`, `row`, `at`, `version`, `digest`, `prediction`, an `input_NAME` per feature and, of a
    classifier, `probability_CLASS`. Raises `StorageUnavailableError`.
    """
    needed = {"id", "row", "at", "version", "digest", "prediction", *(f"input_{n}" for n in spec.features)}
    tables: list[pd.DataFrame] = []
    useless: list[str] = []
    rows = 0
    for day in window.days:
        # The catalogue's names are file names as they are; a file's own begins with its time.
        prefix = f"predictions/model={spec.name}/date={day}/"
        for key, table in _tables(bucket, prefix, useless):
            if not needed <= set(table.column_names):
                useless.append(key)
                continue
            inside = _inside(table, window)
            tables.append(inside.to_pandas())
            rows += len(inside)
            if rows >= most:
                break
        if rows >= most:
            break
    if not tables:
        return pd.DataFrame(columns=sorted(needed)), useless
    found = pd.concat(tables, ignore_index=True).sort_values("at", ascending=False, kind="stable")
    # A file that was sent twice has the same rows twice.
    return found.drop_duplicates(["id", "row"]).head(most).reset_index(drop=True), useless


def read_feedback(bucket: Bucket, window: Window, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return what came true of some predictions, as far as it was said in the window: the last word counts.

    Columns: `id`, `row`, `number`, `label`. Raises `StorageUnavailableError`.
    """
    ids = pa.array(predictions["id"].unique(), pa.string())
    tables = []
    for day in window.days if len(ids) else []:
        for _, table in _tables(bucket, f"feedback/date={day}/", []):
            tables.append(table.filter(pc.is_in(table["id"], value_set=ids)).to_pandas())
    if not tables:
        return pd.DataFrame(columns=["id", "row", "number", "label"])
    said = pd.concat(tables, ignore_index=True).sort_values("at", kind="stable")
    last: pd.DataFrame = said.drop_duplicates(["id", "row"], keep="last")
    return last[["id", "row", "number", "label"]]


def _tables(bucket: Bucket, prefix: str, useless: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield key and table of every file below a prefix, the newest first."""
    with TemporaryDirectory(prefix="greenroom-log-") as scratch:
        path = Path(scratch) / "rows.parquet"
        for key in reversed(list(bucket.keys(prefix))):
            try:
                bucket.get(key, path)
                yield key, pq.read_table(path, partitioning=None)
            except (StorageMissingError, pa.ArrowInvalid):  # gone meanwhile, or no Parquet
                useless.append(key)


def _inside(table: Any, window: Window) -> Any:
    at = table["at"]
    since, until = (
        pa.scalar(end.astimezone(UTC), pa.timestamp("us", tz="UTC")) for end in (window.since, window.until)
    )
    return table.filter(pc.and_(pc.greater_equal(at, since), pc.less(at, until)))
