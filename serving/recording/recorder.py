"""The prediction log, for drift: every prediction and what came true later, as Parquet in the bucket.

A request never waits for it. Rows are put into a list; one thread writes the list to files every few seconds,
another sends the files. What does not fit is dropped and counted. On a normal stop everything in the list is
written, and what the bucket does not take in time waits on disk for the next start.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from registry.storage.bucket import Bucket
from serving.ids import file_name
from serving.inference.predictor import Made
from serving.recording.spool import Spool, SpoolFullError
from serving.settings import RecordSettings

_log = logging.getLogger("greenroom.serving")
# So many rows are written without waiting for the time to be up: about 5 MB.
_MANY = 4_000
# Seconds between two tries of a bucket that does not answer.
_AGAIN = 5.0
_AT = pa.timestamp("us", tz="UTC")

Reason = Literal["memory", "spool", "error"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came true of a prediction: `row` of the answer `id`. `key` names the API key that said so."""

    id: str
    row: int
    outcome: float | str
    at: int
    key: str | None


class Meters(Protocol):
    """What is counted; serving/middleware/metrics.py has it."""

    def recorded(self, rows: int) -> None:
        """So many rows were written."""

    def not_recorded(self, rows: int, reason: Reason) -> None:
        """So many rows were dropped."""

    def spooled(self, size: int) -> None:
        """So many bytes wait for the bucket."""


class Recorder:
    """Keeps predictions and outcomes. `record` and `outcomes` may be called from any thread."""

    def __init__(self, settings: RecordSettings, meters: Meters) -> None:
        self._settings, self._meters = settings, meters
        self._spool = Spool(settings.serving_spool_path, settings.serving_spool_bytes)
        self._lock, self._rows = Lock(), 0
        # Whether the folder was full, or could not be written, when that was tried last.
        self._no_room = False
        self._made: list[Made] = []
        self._outcomes: list[Outcome] = []
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

    def record(self, made: Made) -> None:
        """Keep predictions, or count them as dropped when too many wait."""
        rows = len(made.rows)
        with self._lock:
            if fits := self._rows + rows <= self._settings.serving_log_rows:
                self._made.append(made)
                self._rows += rows
        if not fits:
            self._meters.not_recorded(rows, "memory")
        if self._rows >= _MANY:
            self._full.set()

    def outcomes(self, outcomes: Sequence[Outcome]) -> bool:
        """Keep what came true and return True, or keep none of it when too much waits."""
        with self._lock:
            if fits := not self._no_room and self._rows + len(outcomes) <= self._settings.serving_log_rows:
                self._outcomes += outcomes
                self._rows += len(outcomes)
        return fits

    def stop(self) -> None:
        """Write all that was taken and send it, for as long as the settings say. Blocks."""
        self._deadline = time.monotonic() + self._settings.serving_spool_timeout
        self._stopping.set()
        self._full.set()
        self._threads[0].join()
        self._written.set()
        self._threads[1].join(self._settings.serving_spool_timeout)
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
            made, outcomes = self._made, self._outcomes
            self._made, self._outcomes, self._rows = [], [], 0
        self._no_room = self._spool.full
        groups: dict[tuple[object, ...], list[Made]] = {}
        for one in made:
            features = one.served.model.description.features
            groups.setdefault((one.model, _date(one.at), features, one.found.classes), []).append(one)
        for (model, date, *_), group in groups.items():
            self._add(f"predictions/model={file_name(str(model))}/date={date}", group)
        days: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            days.setdefault(_date(outcome.at), []).append(outcome)
        # What was accepted is kept whatever the folder holds; no more is accepted until there is room.
        for date, said in days.items():
            if not self._add(f"feedback/date={date}", said, even_if_full=True):
                with self._lock:
                    self._outcomes, self._rows = said + self._outcomes, self._rows + len(said)
        if groups or days:
            self._written.set()

    def _add(self, prefix: str, group: list[Made] | list[Outcome], *, even_if_full: bool = False) -> bool:
        rows = sum(len(one.rows) if isinstance(one, Made) else 1 for one in group)
        try:
            table = _predictions(group) if isinstance(group[0], Made) else _feedback(group)
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


def _date(at: int) -> str:
    return datetime.fromtimestamp(at / 1e9, UTC).date().isoformat()


def _predictions(group: Sequence[Made]) -> pa.Table:
    """Return one row for each row that was predicted; `group` are answers of models of one form."""
    counts = [len(made.rows) for made in group]
    features, classes = group[0].served.model.description.features, group[0].found.classes
    columns = {
        "id": _texts([made.id for made, count in zip(group, counts, strict=True) for _ in range(count)]),
        "row": pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
        "at": _times(np.repeat([made.at // 1000 for made in group], counts)),
        "version": pa.array(np.repeat([made.served.version for made in group], counts).astype(np.int32)),
        "digest": _texts(
            [
                made.served.model.digest
                for made, count in zip(group, counts, strict=True)
                for _ in range(count)
            ]
        ),
    }
    inputs = np.concatenate([made.rows for made in group])
    columns |= {f"input_{name}": pa.array(inputs[:, place]) for place, name in enumerate(features)}
    if group[0].found.items is not None:
        return pa.table(columns | _neighbours(group))
    labels = np.concatenate([made.found.labels for made in group])
    if group[0].found.shares is None:
        columns["prediction"] = (
            _texts([classes[number] for number in labels.tolist()])
            if classes
            else pa.array(labels.astype(np.float64))
        )
        return pa.table(columns)
    columns["prediction"] = _texts([str(label) for label in labels.tolist()])
    shares = np.concatenate([made.found.shares for made in group if made.found.shares is not None])
    columns |= {f"probability_{name}": pa.array(shares[:, place]) for place, name in enumerate(classes)}
    return pa.table(columns)


def _neighbours(group: Sequence[Made]) -> dict[str, pa.Array]:
    """Return the ids of the nearest as a JSON list of text, and how far the nearest is."""
    found, distances = [], []
    for made in group:
        ids = made.found.items.ids if made.found.items else ()
        found += [
            orjson.dumps([ids[p] for p in row if p >= 0]).decode() for row in made.found.labels.tolist()
        ]
        distances.append(made.found.shares[:, 0] if made.found.shares is not None else np.empty(0))
    return {
        "prediction": _texts(found),
        "distance": pa.array(np.concatenate(distances).astype(np.float32)),
    }


def _feedback(group: Sequence[Outcome]) -> pa.Table:
    """Return one row for each outcome: a number, or the label of a class."""
    said = [one.outcome for one in group]
    return pa.table(
        {
            "id": _texts([one.id for one in group]),
            "row": pa.array(np.array([one.row for one in group], dtype=np.int32)),
            "at": _times(np.array([one.at // 1000 for one in group])),
            "number": pa.array([None if isinstance(one, str) else float(one) for one in said], pa.float64()),
            "label": pa.array([one if isinstance(one, str) else None for one in said], pa.string()),
            "key": pa.array([one.key for one in group], pa.string()),
        }
    )


def _times(microseconds: npt.NDArray[np.int64]) -> pa.Array:
    # A view, because the first cast loads all that Arrow can compute: 10 MB.
    return pa.array(microseconds.astype(np.int64)).view(_AT)


def _texts(values: Sequence[str]) -> pa.Array:
    # From bytes, because Arrow's way from Python's objects takes 9 MB once, and is slower.
    encoded = [value.encode() for value in values]
    places = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in encoded], out=places[1:])
    parts = [None, pa.py_buffer(places), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), parts)
