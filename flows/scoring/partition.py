"""Scores one partition, in a worker that can reach the registry and the object stores.

Rows are read in batches and results go through a temporary file, so memory depends neither on the size of
the input nor on that of the partition.
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
from checks.data.row_rules import RowRules
from checks.errors import DataError
from flows.scoring.manifest import FinishedPartition, PartitionMetadata, check_partition
from flows.scoring.plan import PLAN, Piece, Plan, existing_plan, partition_name
from flows.scoring.storage import ObjectStore, open_store
from flows.tasks.answers import TEXT, answer_form
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceBytesError
from registry.model_format.onnx_model import OnnxModel, Rows

_log = logging.getLogger("greenroom.score")

# Rows in memory, and rows of one call of the model: a forest is fastest where both a block of rows and some
# of its trees fit a core's cache.
_BATCH = 65_536
_BLOCK = 2_048
# Bytes of compressed pages that are read at a time, for each column.
_BUFFER = 4 << 20
# Reasons are sentences of Pydantic's. After so many different ones the others are counted together.
_MAX_REASONS = 50
_TOO_LARGE = "Input should be a number that fits 32-bit floating point"
_NO_ANSWER = "the model answers no finite number, or no class that it names"
# Columns of every result; a column to keep cannot have one of these names.
RESERVED = frozenset(
    {"source", "row", "prediction", "cluster", "label", "reason", "model", "version", "digest"}
)

# Dictionaries of numbers that hardly repeat would take most of the time of writing.
_PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["source", "prediction", "cluster", "label", "reason", "model", "version", "digest"],
    "column_encoding": {"row": "DELTA_BINARY_PACKED"},
}


@dataclass(frozen=True)
class ScoringJob:
    """What a worker is sent; it reads everything else from the plan at the destination."""

    destination: str
    plan: str
    threads: int


def score_partition(job: ScoringJob, part: int) -> FinishedPartition:
    """Score one partition unless it is there, write it in one step, and return its description.

    Raises `DataError` (`ChangedError`) when an input changed, and the errors of registry and storage.
    """
    destination, plan = _open_job(job)
    if stored := destination.find(partition_name(part)):
        return check_partition(destination, plan, job.plan, part, stored)
    model = _load_model(plan.model, plan.version, plan.digest, job.threads)
    return write_partition(Scorer(plan, model), destination, job.plan, part)


def write_partition(
    scorer: "Scorer", destination: ObjectStore, plan_digest: str, part: int
) -> FinishedPartition:
    """Score one partition and write it in one step, unless another process was faster with the same one."""
    plan, name = scorer.plan, partition_name(part)
    reasons: Counter[str] = Counter()
    rows = 0
    with TemporaryFile(prefix="greenroom-score-") as file:
        with pq.ParquetWriter(file, scorer.schema, **_PARQUET_OPTIONS) as writer:
            for batch in scorer.batches(plan.parts[part].pieces):
                # A row group per batch, so that only one batch is in memory.
                writer.write_table(pa.Table.from_batches([batch], scorer.schema))
                rows += batch.num_rows
                for entry in pc.value_counts(batch.column("reason").drop_null()).to_pylist():
                    named = entry["values"] in reasons or len(reasons) < _MAX_REASONS
                    reasons[entry["values"] if named else "other reasons"] += entry["counts"]
            metadata = PartitionMetadata(
                plan=plan_digest,
                model=plan.model,
                version=plan.version,
                digest=plan.digest,
                part=part,
                rows=rows,
                rejected=sum(reasons.values()),
                reasons=dict(reasons),
            )
            writer.add_key_value_metadata(metadata.to_parquet())
        file.seek(0)
        if not destination.put_new(name, file):
            _log.info("%s was there already", name)
    if (stored := destination.find(name)) is None:
        raise DataError(f"{destination.uri}/{name} is gone right after it was written.")
    return check_partition(destination, plan, plan_digest, part, stored)


class Scorer:
    """Answers rows with a model, in the form of the job's results."""

    def __init__(self, plan: Plan, model: OnnxModel) -> None:
        self.plan, self._model = plan, model
        spec, self._form = get_model(plan.model), answer_form(plan.task, plan.classes)
        self._rules = RowRules(request_model(spec))
        self._features = model.description.features
        self._columns = list(dict.fromkeys((*spec.features, *self._features, *plan.keep)))
        self._store = open_store(plan.base)
        self.schema = self._schema()

    def batches(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        """Yield results for the rows of some pieces, in their order, as record batches of `schema`."""
        for piece in pieces:
            source = self.plan.files[piece.file]
            with (
                self._store.open(source.stored) as file,
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
        valid = np.ones(count, dtype=np.bool_)
        valid[list(reasons)] = False
        answers, unanswered = self._predict(matrix[valid] if reasons else matrix)
        # For each row the index of its answer, or -1.
        indices = np.full(count, -1, dtype=np.int64)
        indices[valid] = np.arange(int(valid.sum()))
        for position in np.flatnonzero(valid)[unanswered].tolist():
            reasons[position] = _NO_ANSWER
            indices[position] = -1
        answer_index = pa.array(indices, mask=indices < 0)
        reason_column = np.full(count, None, dtype=object)
        reason_column[list(reasons)] = list(reasons.values())
        columns = [
            _constant(source, count),
            pa.array(np.arange(row, row + count, dtype=np.int64)),
            *(batch.column(name) for name in self.plan.keep),
            *(answer.take(answer_index) for answer in answers),
            pa.array(reason_column, pa.string()),
            _constant(self.plan.model, count),
            pa.array(np.full(count, self.plan.version, dtype=np.int32)),
            _constant(self.plan.digest, count),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _matrix(self, batch: Any) -> tuple[Rows, dict[int, str]]:
        """Return the model's input, and by row number the reasons why rows are not valid input."""
        reasons = self._rules.broken(batch)
        matrix = np.empty((batch.num_rows, len(self._features)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for position, name in enumerate(self._features):
                matrix[:, position] = _numbers(batch.column(name))
        for position, name in enumerate(self._features):
            for row in np.flatnonzero(~np.isfinite(matrix[:, position])).tolist():
                reasons.setdefault(row, f"{name}: {_TOO_LARGE}")
        return matrix, reasons

    def _predict(self, rows: Rows) -> tuple[list[Any], npt.NDArray[np.bool_]]:
        """Return the answers as Arrow arrays in the order of the schema, and which rows got none."""
        if not len(rows):
            return [pa.array([], field.type) for field in self._form.fields()], np.zeros(0, dtype=np.bool_)
        blocks = [self._model.predict(rows[first : first + _BLOCK]) for first in range(0, len(rows), _BLOCK)]
        labels = np.concatenate([labels for labels, _ in blocks])
        if len(labels) != len(rows):
            raise DataError(
                f"{self.plan.model} version {self.plan.version} gives {len(labels)} answers to {len(rows)} "
                "rows: it does not answer each row by itself. Promote another version."
            )
        shares = [shares for _, shares in blocks if shares is not None]
        probabilities = np.concatenate(shares) if shares else None
        return self._form.columns(labels, probabilities)

    def _schema(self) -> Any:
        first = self.plan.files[self.plan.parts[0].pieces[0].file].stored
        with self._store.open(first) as file, pq.ParquetFile(file) as parquet:
            kept = [parquet.schema_arrow.field(name) for name in self.plan.keep]
        about = {"model": self.plan.model, "version": str(self.plan.version), "digest": self.plan.digest}
        return pa.schema(
            [
                pa.field("source", TEXT),
                pa.field("row", pa.int64()),
                *(pa.field(field.name, field.type) for field in kept),
                *self._form.fields(),
                pa.field("reason", pa.string()),
                pa.field("model", TEXT),
                pa.field("version", pa.int32()),
                pa.field("digest", TEXT),
            ],
            metadata={f"greenroom.{name}": value for name, value in about.items()},
        )


def _constant(text: str, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text]))


def _numbers(column: Any) -> npt.NDArray[Any]:
    """Return a column as float32 or float64, as the predictor reads a request; missing values are 0."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.zeros(len(column))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if column.null_count:
        column = column.fill_null(0)
    numbers: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers if numbers.dtype == np.float32 else numbers.astype(np.float64, copy=False)


@lru_cache(4)
def _open_job(job: ScoringJob) -> tuple[ObjectStore, Plan]:
    destination = open_store(job.destination)
    in_force = existing_plan(destination)
    if in_force is None or in_force[1] != job.plan:
        raise DataError(f"{destination.uri}/{PLAN} was exchanged while the job ran. Run it again.")
    return destination, in_force[0]


@lru_cache(2)
def _load_model(name: str, version: int, expected: str, threads: int) -> OnnxModel:
    """Return the model, loaded once per process; raises `EvidenceBytesError` for other bytes than planned."""
    # The model has threads of its own; more of Arrow's would be too many.
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
