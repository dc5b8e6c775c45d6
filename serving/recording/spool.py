"""Files on their way to the bucket: written here whole, sent when the bucket answers, then removed.

A file's path in the folder is its key in the bucket. Several processes may share the folder: one at a time
sends. Sending a file twice does no harm, because it replaces itself.
"""

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import StorageUnavailableError
from registry.files import write_atomically
from registry.storage.bucket import Bucket
from serving.ids import new_id

_log = logging.getLogger("greenroom.serving")
_SUFFIX = ".parquet"


class SpoolFullError(Exception):
    """The folder holds as much as it may."""


class Spool:
    """A folder of Parquet files."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Use a folder, which may hold files of an earlier process; at most about `max_bytes`."""
        self._folder, self._max_bytes = folder, max_bytes
        self._unreachable = False

    def files(self) -> list[Path]:
        """Return the files that wait, the oldest first."""
        # A new file's name begins with its time.
        return sorted(self._folder.rglob(f"*{_SUFFIX}"), key=lambda path: path.name)

    def size(self) -> int:
        """Return the bytes that wait."""
        return sum(_size(path) for path in self.files())

    @property
    def full(self) -> bool:
        """Whether it holds as much as it may."""
        return self.size() >= self._max_bytes

    def add(self, prefix: str, table: pa.Table, *, even_if_full: bool = False) -> Path:
        """Write a table under a key that begins with `prefix`; raises `SpoolFullError` or `OSError`."""
        if self.full and not even_if_full:
            raise SpoolFullError(f"{self._folder} holds {self._max_bytes} bytes, as much as it may.")
        name = new_id() + _SUFFIX
        target = self._folder / prefix / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        write_atomically(target, content.getvalue().to_pybytes())
        return target

    def send(self, bucket: Bucket, go_on: Callable[[], bool]) -> bool:
        """Send what waits, while `go_on` says so; return whether nothing is left.

        While another process sends, or the bucket does not answer, it does nothing, and files stay.
        """
        with self._alone() as alone:
            if not alone:
                return False
            try:
                for path in self.files():
                    if not go_on():
                        return False
                    bucket.put(path.relative_to(self._folder).as_posix(), path)
                    path.unlink(missing_ok=True)
            except StorageUnavailableError as error:
                if not self._unreachable:
                    _log.warning("predictions wait in %s: %s", self._folder, error)
                self._unreachable = True
                return False
            if self._unreachable:
                _log.info("the bucket takes predictions again")
            self._unreachable = False
        return True

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / ".lock").open("w") as lock:
            try:
                # Given back by the system when a process dies.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has sent it
        return 0
