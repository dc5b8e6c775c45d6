"""Scores one partition, in any process that can reach the registry and the places: what a worker does.

Rows stream through in batches, and the result through a temporary file, so that memory depends on neither
the input's size nor the partition's.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.contract import request_model
from catalog.loader import get_model
from flows.data.row_rules import RowRules
from flows.errors import DataError
from flows.scoring.manifest import Done, Note, check_part
from flows.scoring.plan import PLAN, Piece, Plan, begun, part_name
from flows.scoring.storage import Place, place
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceBytesError
from registry.model_format.onnx_model import OnnxModel, Rows

_log = logging.getLogger("greenroom.score")

# Rows that are in memory at once, and rows that the model answers at once: a forest is fastest where both
# a block of rows and some of its trees fit a core's cache.
_BATCH = 65_536
_BLOCK = 2_048
# Compressed pages are fetched in pieces of so many bytes for each column.
_BUFFER = 4 << 20
# A reason is a sentence of Pydantic's; more kinds than these are counted together.
_KINDS = 50
_TOO_LARGE = "Input should be a number that fits 32-bit floating point"
_NO_ANSWER = "the model answers no finite number, or no class that it names"
# What every result has; a column to keep cannot be called so.
RESERVED = frozenset(
    {"source", "row", "prediction", "cluster", "label", "reason", "model", "version", "digest"}
)

# Dictionaries of numbers that hardly repeat would take most of the time of writing.
_WRITTEN: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["source", "prediction", "cluster", "label", "reason", "model", "version", "digest"],
    "column_encoding": {"row": "DELTA_BINARY_PACKED"},
}
_DICTIONARY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Job:
    """What a worker must know: everything else stands in the plan at the destination."""

    destination: str
    plan: str
    threads: int


def score_part(job: Job, part: int) -> Done:
    """Score one partition unless it is there, write it in one step, and return what is there then.

    Raises `DataError` (`ChangedError`) when an input changed, and what registry and storage raise.
    """
    destination, plan = _opened(job)
    name = part_name(part)
    if found := destination.find(name):
        return check_part(destination, plan, job.plan, part, found)
    model = _model(plan.model, plan.version, plan.digest, job.threads)
    return write_part(Scorer(plan, model), destination, job.plan, part)


def write_part(scorer: "Scorer", destination: Place, plan_digest: str, part: int) -> Done:
    """Score one partition and write it in one step; whoever was faster has written the same."""
    plan, name = scorer.plan, part_name(part)
    reasons: Counter[str] = Counter()
    rows = 0
    with TemporaryFile(prefix="greenroom-score-") as file:
        with pq.ParquetWriter(file, scorer.schema, **_WRITTEN) as writer:
            for batch in scorer.batches(plan.parts[part].pieces):
                # One row group for each: a batch is all that is in memory.
                writer.write_table(pa.Table.from_batches([batch], scorer.schema))
                rows += batch.num_rows
                for one in pc.value_counts(batch.column("reason").drop_null()).to_pylist():
                    known = one["values"] in reasons or len(reasons) < _KINDS
                    reasons[one["values"] if known else "other reasons"] += one["counts"]
            note = Note(
                plan=plan_digest,
                model=plan.model,
                version=plan.version,
                digest=plan.digest,
                part=part,
                rows=rows,
                rejected=sum(reasons.values()),
                reasons=dict(reasons),
            )
            writer.add_key_value_metadata(note.to_metadata())
        file.seek(0)
        if not destination.put_new(name, file):
            _log.info("%s was there already", name)
    if (found := destination.find(name)) is None:
        raise DataError(f"{destination.uri}/{name} is gone right after it was written.")
    return check_part(destination, plan, plan_digest, part, found)


class Scorer:
    """A model, and the form of its results."""

    def __init__(self, plan: Plan, model: OnnxModel) -> None:
        self.plan, self._model = plan, model
        spec = get_model(plan.model)
        self._rules = RowRules(request_model(spec))
        self._features = model.description.features
        self._columns = list(dict.fromkeys((*spec.features, *self._features, *plan.keep)))
        self._place = place(plan.base)
        self.schema = self._schema()

    def batches(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        """Yield results for the rows of some pieces, in their order, as record batches of `schema`."""
        for piece in pieces:
            source = self.plan.files[piece.file]
            with (
                self._place.open(source.found) as file,
                pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet,
            ):
                groups = range(piece.first, piece.last)
                row = sum(parquet.metadata.row_group(group).num_rows for group in range(piece.first))
                for batch in parquet.iter_batches(_BATCH, list(groups), self._columns, use_threads=False):
                    yield self.answer(batch, source.name, row)
                    row += batch.num_rows

    def answer(self, batch: Any, source: str, row: int) -> Any:
        """Return the results of a record batch whose first row is row number `row` of a file."""
        count = batch.num_rows
        matrix, reasons = self._matrix(batch)
        good = np.ones(count, dtype=np.bool_)
        good[list(reasons)] = False
        answers, unanswered = self._ask(matrix[good] if reasons else matrix)
        places = np.full(count, -1, dtype=np.int64)
        places[good] = np.arange(int(good.sum()))
        for place_ in np.flatnonzero(good)[unanswered].tolist():
            reasons[place_] = _NO_ANSWER
            places[place_] = -1
        taken = pa.array(places, mask=places < 0)
        because = np.full(count, None, dtype=object)
        because[list(reasons)] = list(reasons.values())
        columns = [
            _constant(source, count),
            pa.array(np.arange(row, row + count, dtype=np.int64)),
            *(batch.column(name) for name in self.plan.keep),
            *(answer.take(taken) for answer in answers),
            pa.array(because, pa.string()),
            _constant(self.plan.model, count),
            pa.array(np.full(count, self.plan.version, dtype=np.int32)),
            _constant(self.plan.digest, count),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _matrix(self, batch: Any) -> tuple[Rows, dict[int, str]]:
        """Return the batch as the model reads it, and why some rows must not be shown to it."""
        reasons = self._rules.broken(batch)
        matrix = np.empty((batch.num_rows, len(self._features)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for position, name in enumerate(self._features):
                matrix[:, position] = _numbers(batch.column(name))
        for position, name in enumerate(self._features):
            for place_ in np.flatnonzero(~np.isfinite(matrix[:, position])).tolist():
                reasons.setdefault(place_, f"{name}: {_TOO_LARGE}")
        return matrix, reasons

    def _ask(self, rows: Rows) -> tuple[list[Any], npt.NDArray[np.bool_]]:
        """Return the answers as Arrow arrays in the order of the schema, and which rows got none."""
        if not len(rows):
            return [pa.array([], field.type) for field in self._answered()], np.zeros(0, dtype=np.bool_)
        blocks = [self._model.predict(rows[first : first + _BLOCK]) for first in range(0, len(rows), _BLOCK)]
        said = np.concatenate([labels for labels, _ in blocks])
        if len(said) != len(rows):
            raise DataError(
                f"{self.plan.model} version {self.plan.version} answers {len(said)} rows to {len(rows)}: it "
                "does not answer each row by itself. Promote another version."
            )
        names = pa.array(self.plan.classes, pa.string())
        if self.plan.task == "regression":
            return [pa.array(said.astype(np.float32))], ~np.isfinite(said)
        if self.plan.task == "clustering":
            bad = (said < 0) | (said >= len(names))
            numbers = pa.array(np.where(bad, 0, said).astype(np.int32))
            return [numbers, pa.DictionaryArray.from_arrays(numbers, names)], bad
        shares = np.concatenate([shares for _, shares in blocks if shares is not None])
        places = pc.index_in(pa.array(said.astype(str), pa.string()), value_set=names)
        bad = ~np.isfinite(shares).all(axis=1)
        bad |= places.is_null().to_numpy(zero_copy_only=False)
        answers = [pa.DictionaryArray.from_arrays(places.fill_null(0), names)]
        answers += [pa.array(np.ascontiguousarray(shares[:, number])) for number in range(len(names))]
        return answers, bad

    def _answered(self) -> list[Any]:
        if self.plan.task == "regression":
            return [pa.field("prediction", pa.float32())]
        if self.plan.task == "clustering":
            return [pa.field("cluster", pa.int32()), pa.field("label", _DICTIONARY)]
        shares = [pa.field(f"probability_{name}", pa.float32()) for name in self.plan.classes]
        return [pa.field("prediction", _DICTIONARY), *shares]

    def _schema(self) -> Any:
        first = self.plan.files[self.plan.parts[0].pieces[0].file].found
        with self._place.open(first) as file, pq.ParquetFile(file) as parquet:
            kept = [parquet.schema_arrow.field(name) for name in self.plan.keep]
        about = {"model": self.plan.model, "version": str(self.plan.version), "digest": self.plan.digest}
        return pa.schema(
            [
                pa.field("source", _DICTIONARY),
                pa.field("row", pa.int64()),
                *(pa.field(field.name, field.type) for field in kept),
                *self._answered(),
                pa.field("reason", pa.string()),
                pa.field("model", _DICTIONARY),
                pa.field("version", pa.int32()),
                pa.field("digest", _DICTIONARY),
            ],
            metadata={f"greenroom.{name}": value for name, value in about.items()},
        )


def _constant(text: str, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text]))


def _numbers(column: Any) -> npt.NDArray[Any]:
    """Return a column as numbers, what is not there as 0; as float64, as the predictor reads a request."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.zeros(len(column))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if column.null_count:
        column = column.fill_null(0)
    found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found if found.dtype == np.float32 else found.astype(np.float64, copy=False)


@lru_cache(4)
def _opened(job: Job) -> tuple[Place, Plan]:
    destination = place(job.destination)
    found = begun(destination)
    if found is None or found[1] != job.plan:
        raise DataError(f"{destination.uri}/{PLAN} was exchanged while the job ran. Run it again.")
    return destination, found[0]


@lru_cache(2)
def _model(name: str, version: int, expected: str, threads: int) -> OnnxModel:
    """Return the model, once per process; its bytes are those that the job's version was pinned to."""
    # Beside the model's own threads Arrow's would be too many.
    pa.set_cpu_count(threads)
    with TrackingClient() as client:
        registry = Registry(client)
        content = registry.model_bytes(registry.version(name, version))
    model = OnnxModel(content, threads=threads)
    if model.digest != expected:
        raise EvidenceBytesError(
            f"{name} version {version} holds {model.digest}, and the job began with {expected}: its file was "
            "exchanged. `greenroom verify` says more."
        )
    return model
