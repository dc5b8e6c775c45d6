"""`make bench-score`: batch scoring beside `mlflow.pyfunc` and scikit-learn, and its memory as rows grow.

A private local stack; rows drawn from the real table, with jitter inside the contract, in its S3; models
of the catalogue's kinds, fitted by the project's own flow functions and put into Production. Each is scored
by `greenroom score` from S3 to S3 with one and two workers; the same fitted estimator answers the same kind
of rows through `mlflow.pyfunc` (scikit-learn's flavour and ONNX's, as the registry holds them) and by itself,
from DataFrames that are in memory already, without reading, validating or writing anything.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as count_up
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench.__main__ import SERVICES, free_port
from bench.serving.greenroom_server import _end, publish
from catalog.loader import get_model, load_catalog
from catalog.spec import Candidate, ModelSpec
from checks.data import cleaning, sources, validation
from flows.modeling import candidates, onnx_export
from flows.scoring.partition import Scorer, write_partition
from flows.scoring.plan import PinnedVersion, make_plan
from flows.scoring.storage import LocalStore, S3Store
from registry.client.tracking_client import TrackingClient
from registry.model_format.onnx_model import OnnxModel

_DECLARATION = """\
from catalog.models.genre import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""
# Three kinds of estimators, independent of what `genre` declares.
KINDS = {
    "linear": Candidate(
        name="logistic-regression",
        estimator="sklearn.linear_model.LogisticRegression",
        params={"max_iter": 500},
    ),
    "boosting": Candidate(
        name="gradient-boosting",
        estimator="sklearn.ensemble.GradientBoostingClassifier",
        params={"n_estimators": 60, "max_depth": 2, "subsample": 0.5},
    ),
    "forest": Candidate(
        name="random-forest",
        estimator="sklearn.ensemble.RandomForestClassifier",
        params={"n_estimators": 200, "min_samples_leaf": 10, "class_weight": "balanced", "n_jobs": -1},
    ),
}
# Rows of a run of `mlflow.pyfunc` or scikit-learn: enough for a second or more.
PEER_ROWS = {"linear": 400_000, "boosting": 200_000, "forest": 50_000}
BATCHES = (10_000, 100_000)
RUNS = 3
FILES = 10
_WORKERS = (1, 2)


@dataclass(frozen=True)
class Run:
    """One run of `greenroom score`."""

    rows: int
    seconds: float
    worker_megabytes: float
    all_megabytes: float


@dataclass(frozen=True)
class Rate:
    """Rows a second, and microseconds of CPU time a row, of all threads together; medians."""

    rows: float
    cpu: float


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows to generate")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--forest-rows", type=int, default=3_000_000, help="most rows that the forest is to score"
    )
    parser.add_argument("--in-process", action="store_true", help="no stack: what a row takes of CPU time")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="greenroom-bench-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        if options.in_process:
            _declare(folder)
            for kind in options.kinds:
                _print_costs(kind, folder)
            return
        with _stack(folder):
            whole = S3Store("greenroom", "bench/rows")
            sizes = _generate(whole, options.rows)
            for kind in options.kinds:
                pipeline, spec = _fitted(kind)
                content = onnx_export.export(spec, pipeline)
                with TrackingClient() as client:
                    publish(client, spec.name, content)
                most = options.forest_rows if kind == "forest" else options.rows
                before = _peers(kind, spec, pipeline, content, folder)
                runs = {
                    workers: [_score(spec.name, uri, workers, rows) for uri, rows in sizes if rows <= most]
                    for workers in _WORKERS
                }
                # Repeated, so that other work on the machine affects each of them.
                after = _peers(kind, spec, pipeline, content, folder)
                peers = {name: median([rate.rows, after[name].rows]) for name, rate in before.items()}
                _print(kind, runs, peers)


def _print_costs(kind: str, folder: Path) -> None:
    pipeline, spec = _fitted(kind)
    content = onnx_export.export(spec, pipeline)
    found = {"a worker of `greenroom score`, all of it": _worker(kind, spec, content, folder)}
    found |= _peers(kind, spec, pipeline, content, folder)
    ours = next(iter(found.values())).cpu
    out = sys.stdout.write
    out(f"\n| {kind} | µs of CPU a row | of a worker's | rows/s |\n|---|---:|---:|---:|\n")
    for name, rate in found.items():
        out(f"| {name} | {rate.cpu:,.2f} | {rate.cpu / ours:,.1f} | {rate.rows:,.0f} |\n")
    sys.stdout.flush()


def _declare(folder: Path) -> None:
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    for kind in KINDS:
        (catalogue / f"score_{kind}.py").write_text(_DECLARATION.format(name=f"score-{kind}"))
    os.environ.update(GREENROOM_CATALOG_PATH=str(catalogue))
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="1")


@contextmanager
def _stack(folder: Path) -> Iterator[None]:
    _declare(folder)
    ports = {name: free_port() for name in SERVICES}
    os.environ.update({f"GREENROOM_{name}_PORT": str(port) for name, port in ports.items()})
    os.environ.update(GREENROOM_HOME=str(folder / "home"))
    greenroom = str(Path(sys.executable).parent / "greenroom")
    try:
        subprocess.run([greenroom, "up", "--no-train"], check=True, stdout=subprocess.DEVNULL)
        _end("predictor")
        yield
    finally:
        subprocess.run([greenroom, "down"], check=False, stdout=subprocess.DEVNULL)


def _rows(count: int, seed: int) -> pd.DataFrame:
    """Draw tracks, and move their shares, loudness and tempo a little within the contract's ranges."""
    spec = get_model("genre")
    table = sources.read_table(spec.dataset)
    random = np.random.default_rng(seed)
    drawn = table.iloc[random.integers(0, len(table), count)][["track_id", *spec.features]]
    drawn = drawn.reset_index(drop=True)
    for name, field in spec.dataset.features.model_fields.items():
        if field.annotation is float:
            low = next(rule.ge for rule in field.metadata if hasattr(rule, "ge"))
            high = next(rule.le for rule in field.metadata if hasattr(rule, "le"))
            jitter = random.normal(0, 0.01 * (high - low), count)
            drawn[name] = np.clip(drawn[name] + jitter, low, high)
    return drawn


def _generate(where: S3Store, rows: int) -> list[tuple[str, int]]:
    """Write ten files; return prefixes with a tenth, three tenths and all of them."""
    each = rows // FILES
    for number in range(FILES):
        folder = "three/one/" if number == 0 else "three/" if number < 3 else ""
        file = io.BytesIO()
        table = pa.Table.from_pandas(_rows(each, number), preserve_index=False)
        pq.write_table(table, file, row_group_size=250_000)
        file.seek(0)
        if not where.put_new(f"{folder}{number:02d}.parquet", file):
            raise RuntimeError("the bucket was not empty")
    return [
        (f"{where.uri}/three/one", each),
        (f"{where.uri}/three", 3 * each),
        (where.uri, FILES * each),
    ]


def _fitted(kind: str) -> tuple[Any, ModelSpec]:
    spec = load_catalog()[f"score-{kind}"]
    table = sources.read_table(spec.dataset)
    rows, _ = cleaning.clean(validation.validate(table, spec.dataset)[0], spec, read=len(table))
    pipeline = candidates.build(spec, KINDS[kind])
    pipeline.fit(cleaning.features(rows, spec), rows[str(spec.target)])
    return pipeline, spec


def _score(model: str, source: str, workers: int, rows: int) -> Run:
    """Run the command, sample the memory of its processes, and remove its output."""
    where = S3Store("greenroom", f"bench/scored-{time.time_ns()}")
    environment = {**os.environ, "GREENROOM_SCORE_WORKERS": str(workers)}
    command = [str(Path(sys.executable).parent / "greenroom"), "score", model, source, "--to", where.uri]
    began = time.monotonic()
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    worker, together = 0.0, 0.0
    while process.poll() is None:
        sizes = [(process.pid, _resident(process))]
        sizes += [(child.pid, _resident(child)) for child in _children(process)]
        worker = max([worker, *(size for pid, size in sizes if pid != process.pid)])
        together = max(together, sum(size for _, size in sizes))
        time.sleep(0.2)
    seconds = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    for one in list(where.list()):
        where._client.delete_object(**where._key(one.name))
    sys.stderr.write(f"{model}, {workers} workers, {rows:,} rows: {seconds:.1f} s, {worker:.0f} MB\n")
    return Run(rows, seconds, worker, together)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0


def _peers(kind: str, spec: ModelSpec, pipeline: Any, content: bytes, folder: Path) -> dict[str, Rate]:
    """Return rows a second of each peer, the median of some runs; by batches, and one row at a time."""
    import mlflow  # noqa: PLC0415 - after the environment was set
    import mlflow.onnx  # noqa: PLC0415
    import mlflow.sklearn  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    from flows.training.mlflow_log import signature  # noqa: PLC0415

    rows = _rows(PEER_ROWS[kind], 99)[list(spec.features)]
    frame = rows.astype("float32").astype("float64")
    matrix = frame.to_numpy(dtype=np.float32)
    paths = folder / f"{kind}-sklearn", folder / f"{kind}-onnx"
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    mlflow.sklearn.save_model(
        pipeline,
        paths[0],
        serialization_format="cloudpickle",
        signature=mlflow.models.infer_signature(frame.head(3), pipeline.predict(frame.head(3))),
        pip_requirements=["scikit-learn"],
    )
    mlflow.onnx.save_model(
        onnx.load_model_from_string(content),
        paths[1],
        signature=signature(content),
        pip_requirements=["onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    fitted, graph = (mlflow.pyfunc.load_model(str(path)) for path in paths)
    # The same estimator gives the same answers in each form.
    ours, _ = OnnxModel(content).predict(matrix[:1000])
    if float(np.mean(ours.astype(str) == fitted.predict(frame[:1000]).astype(str))) < 0.995:
        raise RuntimeError(f"{kind}: the ONNX model and scikit-learn do not agree")
    found = {}
    for size in BATCHES:
        size = min(size, len(frame))  # noqa: PLW2901
        found[f"`mlflow.pyfunc`, scikit-learn, batches of {size:,}"] = _rate(fitted.predict, frame, size)
        found[f"`mlflow.pyfunc`, ONNX, batches of {size:,}"] = _rate(graph.predict, matrix, size)
        found[f"scikit-learn, `predict_proba`, batches of {size:,}"] = _rate(
            pipeline.predict_proba, frame, size
        )
    found["`mlflow.pyfunc`, scikit-learn, one row at a time"] = _rate(fitted.predict, frame[:50], 1)
    return found


def _rate(predict: Callable[[Any], Any], rows: Any, size: int) -> Rate:
    def once() -> None:
        for first in range(0, len(rows), size):
            predict(rows[first : first + size])

    predict(rows[:size])
    return _timed(once, len(rows))


def _timed(run: Callable[[], object], rows: int) -> Rate:
    rates, costs = [], []
    for _ in range(RUNS):
        began, used = time.monotonic(), time.process_time()
        run()
        costs.append((time.process_time() - used) / rows * 1e6)
        rates.append(rows / (time.monotonic() - began))
    return Rate(median(rates), median(costs))


def _worker(kind: str, spec: ModelSpec, content: bytes, folder: Path) -> Rate:
    """Measure one worker from a folder to a folder: read, validate, predict, write."""
    source = folder / f"{kind}-in"
    source.mkdir(exist_ok=True)
    count = PEER_ROWS[kind]
    table = pa.Table.from_pandas(_rows(count, 99), preserve_index=False)
    pq.write_table(table, source / "rows.parquet", row_group_size=250_000)
    model = OnnxModel(content)
    pinned = PinnedVersion(1, model.digest, spec.task, model.description.classes)
    scorer = Scorer(make_plan(spec, pinned, str(source), keep=(), rows=count), model)
    turn = count_up()

    def once() -> None:
        out = LocalStore(folder / f"{kind}-out-{next(turn)}")
        for part in range(len(scorer.plan.parts)):
            write_partition(scorer, out, "sha256:0", part)

    return _timed(once, count)


def _slope(runs: list[Run]) -> tuple[float, float]:
    """Return the seconds to start, and the rows a second after that, by least squares."""
    per_row, start = np.polyfit([run.rows for run in runs], [run.seconds for run in runs], 1)
    return float(start), 1 / float(per_row)


def _print(kind: str, runs: dict[int, list[Run]], peers: dict[str, float]) -> None:
    out = sys.stdout.write
    out(f"\n{kind} ({KINDS[kind].estimator.rpartition('.')[2]}):\n\n")
    out("| `greenroom score`, S3 to S3 | rows | s | largest worker, MB | all processes, MB |\n")
    out("|---|---:|---:|---:|---:|\n")
    for workers, measured in runs.items():
        for run in measured:
            out(
                f"| {workers} worker{'s' * (workers > 1)} | {run.rows:,} | {run.seconds:.1f} | "
                f"{run.worker_megabytes:.0f} | {run.all_megabytes:.0f} |\n"
            )
    slopes = {workers: _slope(measured) for workers, measured in runs.items()}
    best = slopes[max(slopes)][1]
    out("\n| | rows/s | two workers of `greenroom score` are |\n|---|---:|---:|\n")
    for workers, (start, rate) in slopes.items():
        out(f"| `greenroom score`, {workers} workers, after {start:.1f} s to begin | {rate:,.0f} | |\n")
    for name, rate in peers.items():
        out(f"| {name} | {rate:,.0f} | {best / rate:,.1f} times as fast |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
