"""The prediction log, for drift: every prediction and what came true later, as Parquet in the bucket.

A request never waits for it. Rows are put into a list; one thread writes the list to files every few seconds,
another sends the files. What does not fit is dropped and counted. On a normal stop everything in the list is
written, and what the bucket does not take in time waits on disk for the next start.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.settings import home
from registry.storage.bucket import Bucket
from serving import limits
from serving.ids import file_name
from serving.inference.predictor import PredictionRecord
from serving.recording.columns import numbers, texts
from serving.recording.spool import Spool, SpoolFullError
from serving.settings import ServingSettings
from serving.tasks.registry import TASKS

_log = logging.getLogger("greenroom.serving")
# So many rows are written without waiting for the time to be up: about 5 MB.
_MANY = 4_000
# Seconds between two tries of a bucket that does not answer.
_AGAIN = 5.0
_AT = pa.timestamp("us", tz="UTC")
_DAY = 86_400 * 10**9  # nanoseconds

Reason = Literal["memory", "spool", "error"]


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """The outcome of a prediction: `row` of the answer `id`. `key` names the API key that sent it."""

    id: str
    row: int
    outcome: float | str
    at: int
    key: str | None


Records = list[PredictionRecord] | list[FeedbackRecord]


class RecorderMetrics(Protocol):
    """What is counted; serving/middleware/metrics.py has it."""

    def recorded(self, rows: int) -> None:
        """So many rows were written."""

    def not_recorded(self, rows: int, reason: Reason) -> None:
        """So many rows were dropped."""

    def spooled(self, size: int) -> None:
        """So many bytes wait for the bucket."""


class Recorder:
    """Keeps predictions and outcomes. `record` and `outcomes` may be called from any thread."""

    def __init__(self, settings: ServingSettings, meters: RecorderMetrics) -> None:
        self._settings, self._meters = settings, meters
        self._spool = Spool(home() / "serving-spool", limits.SPOOL_BYTES)
        self._lock, self._rows = Lock(), 0
        # Whether the folder was full, or could not be written, when that was tried last.
        self._no_room = False
        self._records: list[PredictionRecord] = []
        self._outcomes: list[FeedbackRecord] = []
        self._full, self._written, self._stopping = Event(), Event(), Event()
        self._deadline = float("inf")
        self._threads = [
            Thread(target=self._write_all, name="write-predictions", daemon=True),
            Thread(target=self._send_all, name="send-predictions", daemon=True),
        ]

    def start(self) -> None:
        """Begin to write and send."""
        # The system's own gives back what a batch took; Arrow's keeps it for later.
        pa.set_memory_pool(pa.system_memory_pool())
        pa.set_cpu_count(1)
        pa.set_io_thread_count(2)
        for thread in self._threads:
            thread.start()

    def record(self, record: PredictionRecord) -> None:
        """Keep predictions, or count them as dropped when too many wait."""
        rows = len(record.rows)
        with self._lock:
            if fits := self._rows + rows <= limits.LOG_ROWS:
                self._records.append(record)
                self._rows += rows
        if not fits:
            self._meters.not_recorded(rows, "memory")
        if self._rows >= _MANY:
            self._full.set()

    def outcomes(self, outcomes: Sequence[FeedbackRecord]) -> bool:
        """Keep what came true and return True, or keep none of it when too much waits."""
        with self._lock:
            if fits := not self._no_room and self._rows + len(outcomes) <= limits.LOG_ROWS:
                self._outcomes += outcomes
                self._rows += len(outcomes)
        return fits

    def stop(self) -> None:
        """Write all that was taken and send it, for at most `limits.SPOOL_TIMEOUT` seconds. Blocks."""
        self._deadline = time.monotonic() + limits.SPOOL_TIMEOUT
        self._stopping.set()
        self._full.set()
        self._threads[0].join()
        self._written.set()
        self._threads[1].join(limits.SPOOL_TIMEOUT)
        if waiting := self._spool.files():
            _log.warning("%d files of predictions wait on disk for the next start", len(waiting))

    def _write_all(self) -> None:
        while not self._stopping.is_set():
            self._full.wait(self._settings.serving_log_seconds)
            self._full.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            records, outcomes = self._records, self._outcomes
            self._records, self._outcomes, self._rows = [], [], 0
        self._no_room = self._spool.full
        # A file holds answers of one version on one day.
        groups: dict[tuple[str, int, int], list[PredictionRecord]] = {}
        for record in records:
            groups.setdefault((record.model, id(record.served), record.at // _DAY), []).append(record)
        for (model, _, day), group in groups.items():
            self._add(f"predictions/model={file_name(model)}/date={_date(day)}", group)
        days: dict[int, list[FeedbackRecord]] = {}
        for outcome in outcomes:
            days.setdefault(outcome.at // _DAY, []).append(outcome)
        # Accepted feedback is kept even in a full folder; no more is accepted until there is room.
        for day, feedback in days.items():
            if not self._add(f"feedback/date={_date(day)}", feedback, even_if_full=True):
                with self._lock:
                    self._outcomes, self._rows = feedback + self._outcomes, self._rows + len(feedback)
        if groups or days:
            self._written.set()

    def _add(self, prefix: str, group: Records, *, even_if_full: bool = False) -> bool:
        rows = sum(len(record.rows) if isinstance(record, PredictionRecord) else 1 for record in group)
        try:
            table = _predictions(group) if isinstance(group[0], PredictionRecord) else _feedback(group)
            self._spool.add(prefix, table, even_if_full=even_if_full)
        except SpoolFullError:
            self._meters.not_recorded(rows, "spool")
        except Exception:  # noqa: BLE001 - a full disk, say: the others go on, and it is counted
            _log.exception("%d rows of %s could not be written", rows, prefix)
            self._no_room = True
            if not even_if_full:
                self._meters.not_recorded(rows, "error")
        else:
            self._meters.recorded(rows)
            return True
        return False

    def _send_all(self) -> None:
        bucket: Bucket | None = None
        while True:
            last = self._stopping.is_set() and not self._threads[0].is_alive()
            try:
                bucket = bucket or Bucket(self._settings, attempts=1)
                done = self._spool.send(bucket, lambda: time.monotonic() < self._deadline)
                self._meters.spooled(self._spool.size())
            except Exception:  # noqa: BLE001 - tried again; the thread must not die
                _log.exception("sending predictions failed")
                done = False
            if last and (done or time.monotonic() >= self._deadline):
                return
            if last:
                time.sleep(0.2)
                continue
            self._written.wait(None if done else _AGAIN)
            self._written.clear()


def _date(day: int) -> str:
    """Return a day, counted from 1970, as YYYY-MM-DD."""
    return str(np.datetime64(day, "D"))


def _predictions(group: Sequence[PredictionRecord]) -> pa.Table:
    """Return one row for each row that was predicted; `group` are answers of one version."""
    served = group[0].served
    counts = np.concatenate([record.counts for record in group])
    inputs = np.concatenate([record.rows for record in group])
    ids = [(id_, count) for record in group for id_, count in zip(record.ids, record.counts, strict=True)]
    microseconds = np.array([record.at for record in group]) // 1000
    columns = {
        "id": texts([id_ for id_, count in ids for _ in range(count)]),
        "row": numbers(np.arange(len(inputs)) - np.repeat(np.cumsum(counts) - counts, counts), np.int32),
        "at": _times(np.repeat(microseconds, [len(record.rows) for record in group])),
        "version": numbers(np.full(len(inputs), served.version), np.int32),
        "digest": texts([served.model.digest] * len(inputs)),
    }
    for place, name in enumerate(served.model.description.features):
        columns[f"input_{name}"] = numbers(inputs[:, place], np.float32)
    return pa.table(columns | _outputs(group))


def _outputs(group: Sequence[PredictionRecord]) -> dict[str, pa.Array]:
    """Return the columns of what the models answered, by task."""
    task = TASKS[group[0].served.model.description.task]
    columns = task.columns([record.outputs for record in group])
    return {
        name: texts(values) if isinstance(values, list) else numbers(values, values.dtype.type)
        for name, values in columns.items()
    }


def _feedback(group: Sequence[FeedbackRecord]) -> pa.Table:
    """Return one row for each outcome: a number, or the label of a class."""
    outcomes = [record.outcome for record in group]
    return pa.table(
        {
            "id": texts([record.id for record in group]),
            "row": numbers(np.array([record.row for record in group]), np.int32),
            "at": _times(np.array([record.at // 1000 for record in group])),
            "number": numbers(
                np.array([0.0 if isinstance(outcome, str) else outcome for outcome in outcomes]),
                np.float64,
                missing=[isinstance(outcome, str) for outcome in outcomes],
            ),
            "label": texts([outcome if isinstance(outcome, str) else None for outcome in outcomes]),
            "key": texts([record.key for record in group]),
        }
    )


def _times(microseconds: npt.NDArray[np.int64]) -> pa.Array:
    # A view, because the first cast loads all that Arrow can compute: 10 MB.
    return numbers(microseconds, np.int64).view(_AT)
