"""What the predictor counts, for Prometheus. Every label has a bounded set of values."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http_errors import PREDICT
from serving.inference.response import PredictionResponse
from serving.process.connections import Refusal
from serving.process.workers import alive
from serving.recording.recorder import Reason

# No model, version or key can be called so, and callers can make up names without end.
_UNKNOWN = "(unknown)"
_NONE = "(none)"

# Seconds. A prediction takes about 50 µs in the model and a few hundred through HTTP; the body timeout and
# the queue make the long ones, for which one bucket beyond a second is enough.
_BUCKETS = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0),
)

# Of each worker, where there are several: Prometheus' own metrics are of one process.
_OF_PROCESS = {
    "process_resident_memory_bytes": "Resident memory of a worker.",
    "process_open_fds": "Open file descriptors of a worker.",
}

Mode = Literal["liveall", "livesum", "livemax"]
Rejection = Literal["no_key", "wrong_key", "queue_full", "queue_timeout", "caller_upload"] | Refusal

# Half of the series would say when the other half began.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One app's metrics, in a registry of their own. All methods may be called from any thread."""

    def __init__(self, models: Iterable[str]) -> None:
        # What callers ask for is a label only once it was served: they can make up names without end.
        self._models = set(models)
        self._registry = CollectorRegistry()
        # Set by `python -m serving` for its workers, before this library is imported.
        self._several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._asked: list[tuple[Gauge, Callable[[], int]]] = []
        # The process's memory, CPU time and open files, read when Prometheus asks.
        self._process = ProcessCollector(registry=None if self._several else self._registry)
        if self._several:
            _bury()
            self._of_process = {
                name: self._gauge(name.replace("process_", "greenroom_worker_"), what, "liveall")
                for name, what in _OF_PROCESS.items()
            }
        self._latency = Histogram(
            "greenroom_request_seconds",
            "From the request's head to the end of its answer; waiting and a slow caller's body included.",
            ("model", "version", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._requests = self._counter(
            "greenroom_requests", "Requests for a prediction, refused ones included.", "model", "key"
        )
        self._rows = self._counter("greenroom_rows_predicted", "Rows that were answered.", "model")
        self._rejected = self._counter(
            "greenroom_requests_rejected", "Requests turned away before any model saw them.", "reason"
        )
        self._swaps = self._counter(
            "greenroom_model_swaps", "How often a version took over, the first one included.", "model"
        )
        self._refused = self._counter(
            "greenroom_model_loads_refused", "Versions that were not loaded, by reason.", "model", "reason"
        )
        self._ended = self._counter(
            "greenroom_model_runs_ended", "Runs that took too long, or crashed.", "model", "reason"
        )
        # Of several workers each shows its own, so that one that lags is seen.
        self._version = self._gauge(
            "greenroom_served_version", "Version that is served; 0 is none.", "liveall", "model"
        )
        self._cached = self._gauge(
            "greenroom_served_from_cache",
            "1 if the served version came from the local cache because the registry did not answer.",
            "liveall",
            "model",
        )
        self._recorded = self._counter(
            "greenroom_prediction_log_rows", "Predictions and feedback that were written down."
        )
        self._dropped = self._counter(
            "greenroom_prediction_log_rows_dropped",
            "Rows answered, not written down, by reason.",
            "reason",
        )
        for reason in get_args(Reason):
            self._dropped.labels(reason)
        self._spooled = self._gauge(
            "greenroom_prediction_log_waiting_bytes", "Written rows that wait for the bucket.", "livemax"
        )
        self._feedback = self._counter("greenroom_feedback", "Outcomes that were told.")
        self._serving: dict[str, str] = dict.fromkeys(self._models, _NONE)
        # Finding a child by its labels costs more than counting, so the children are kept.
        self._children: dict[tuple[str, str, int, str], tuple[Histogram, Counter]] = {}
        self._rows_of: dict[str, Counter] = {}
        for model in self._models:
            self._version.labels(model).set(0)
            self._cached.labels(model).set(0)
            self._swaps.labels(model)
            self._rows_of[model] = self._rows.labels(model)

    def swapped(self, model: str, version: int | None) -> None:
        """Count that `version` of `model` took over, unless it was served already.

        None says that the model is served no more.
        """
        if version is not None and model not in self._models:
            self._models.add(model)
            self._rows_of[model] = self._rows.labels(model)
        label, now = self._known(model), _NONE if version is None else str(version)
        if now not in (_NONE, self._serving.get(label)):
            self._swaps.labels(label).inc()
        self._serving[label] = now
        self._version.labels(label).set(version or 0)

    def refused_load(self, model: str, reason_code: str) -> None:
        """Count that a version of `model` was not loaded.

        `reason_code` is one of a fixed set of words of the code's own (say `no_evidence`), never text that
        came from outside: each value is a series that stays.
        """
        self._refused.labels(self._known(model), reason_code).inc()

    def run_ended(self, model: str, why: str) -> None:
        """Count a run that took too long (`late`) or ended its process (`crashed`)."""
        self._ended.labels(self._known(model), why).inc()

    def cache_state(self, model: str, source: str) -> None:
        """Say where the served version of `model` came from: `registry` or `cache`."""
        self._cached.labels(self._known(model)).set(source == "cache")

    def recorded(self, rows: int) -> None:
        """Count rows of predictions and feedback that were written down."""
        self._recorded.inc(rows)

    def not_recorded(self, rows: int, reason: Reason) -> None:
        """Count rows that were answered and not written down."""
        self._dropped.labels(reason).inc(rows)

    def spooled(self, size: int) -> None:
        """Say how many bytes of written rows wait for the bucket."""
        self._spooled.set(size)

    def feedback(self, outcomes: int) -> None:
        """Count outcomes that callers sent."""
        self._feedback.inc(outcomes)

    def rejected(self, reason: Rejection) -> None:
        """Count a request that was turned away before any model saw it."""
        self._rejected.labels(reason).inc()

    def watch_queue(self, working: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Show how many requests are under way and how many wait, asked for when Prometheus asks."""
        self._asked += [
            (self._gauge("greenroom_requests_in_flight", "Predictions under way.", "livesum"), working),
            (self._gauge("greenroom_queue_length", "Predictions that wait.", "livesum"), waiting),
        ]

    def answered(self, model: str, status: int, seconds: float, state: Mapping[str, Any]) -> None:
        """Count an answered request for a prediction; `state` is the request's, see `note_answer`."""
        label = self._known(model)
        version, rows = state.get("answer") or (self._serving.get(label, _NONE), 1)
        key = state.get("api_key_name") or _NONE
        series = label, version, status // 100, key
        if (children := self._children.get(series)) is None:
            latency = self._latency.labels(label, version, f"{status // 100}xx")
            children = self._children[series] = latency, self._requests.labels(label, key)
        children[0].observe(seconds)
        children[1].inc()
        if status < 300 and label in self._rows_of:
            self._rows_of[label].inc(rows)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        self.refresh()
        if not self._several:
            return generate_latest(self._registry)
        # The values of every worker are in files that all of them map into memory.
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def stop(self) -> None:
        """Take what this process shows of itself out of the sum of several."""
        if self._several:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        """Update the gauges of the queue and of this process; several workers do it every second."""
        for gauge, ask in self._asked:
            gauge.set(ask())
        if self._several:
            for metric in self._process.collect():
                if metric.name in _OF_PROCESS:
                    self._of_process[metric.name].set(metric.samples[0].value)

    def _known(self, model: str) -> str:
        return model if model in self._models else _UNKNOWN

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _gauge(self, name: str, what: str, workers: Mode, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self._registry, multiprocess_mode=workers)


def _bury() -> None:
    """Take out what workers that were killed showed of themselves."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*_*.db"):
        if not alive(pid := int(file.stem.rpartition("_")[2])):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def note_answer(scope: Scope, answer: PredictionResponse) -> None:
    """Note in a request's state which version answered, and how many rows.

    Without a note, one row counts for the version that is served when the answer is through.
    """
    scope.setdefault("state", {})["answer"] = str(answer.version), answer.rows


class MeasureRequests:
    """Plain ASGI: times the requests for predictions, refused ones included."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: tuple[str, ...]) -> None:
        """Time the requests whose path begins with one of `paths`."""
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count its answer; one that failed or was cut off counts as 500."""
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        began, state = perf_counter(), scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send)
        finally:
            model = state.get("model") or scope["path"][len(PREDICT) :]
            # AccessLog notes the status; without one the request failed or was cut off.
            self._metrics.answered(model, state.get("status", 500), perf_counter() - began, state)


def metrics_routes(metrics: Metrics) -> APIRouter:
    """Return the route that Prometheus asks."""
    router = APIRouter(tags=["health"])

    # In a thread: writing some hundred series takes longer than several predictions.
    @router.get(
        "/metrics", operation_id="metrics", summary="Metrics, for Prometheus", response_class=Response
    )
    def text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
