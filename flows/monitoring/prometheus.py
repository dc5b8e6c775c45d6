"""Gauges of monitoring, in a file that node-exporter's textfile collector hands to Prometheus.

A flow has ended before Prometheus could scrape it. The same numbers are metrics in MLflow.
"""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from flows.monitoring.result import MonitoringResult


def write_gauges(folder: Path | None, model: str, results: Sequence[MonitoringResult]) -> None:
    """Replace a model's file in `folder`, in one step; make the folder if need be. Do nothing without one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"greenroom_monitor_{name}", text, ["model", "version", *labels], registry=registry)

    rows = gauge("rows", "Predictions in the window.")
    drifting = gauge("drifting", "1 if there is drift.")
    feature_drift = gauge("feature_drift", "Drift score of a feature, 0 to 1.", "feature")
    prediction_drift = gauge("prediction_drift", "Drift score of the predictions, 0 to 1.")
    score = gauge("score", "Headline metric on rows with feedback.")
    at_training = gauge("score_at_training", "Headline metric on the held-out rows of the training.")
    last_run = gauge("last_run_timestamp_seconds", "When the model was looked at last.")
    for result in results:
        labels = {"model": result.model, "version": str(result.version)}
        rows.labels(**labels).set(result.rows)
        if result.status in ("ok", "drift"):
            drifting.labels(**labels).set(result.status == "drift")
        if result.drift:
            for feature, value in result.drift.features.items():
                feature_drift.labels(**labels, feature=feature).set(value)
            if (drift := result.drift.value("PredictionDrift")) is not None:
                prediction_drift.labels(**labels).set(drift)
        if result.performance:
            score.labels(**labels).set(result.performance.score)
            at_training.labels(**labels).set(result.performance.at_training)
        last_run.labels(**labels).set_to_current_time()
    write_to_textfile(str(folder / f"greenroom_monitor_{model}.prom"), registry)
