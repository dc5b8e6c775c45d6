"""Gauges of monitoring, in the text format that node-exporter's textfile collector hands to Prometheus.

A flow ends long before Prometheus would ask it; a file stays. The same numbers are metrics in MLflow.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.monitoring.result import Seen

_HELP = {
    "rows": "Predictions in the window.",
    "drifting": "1 if there is drift.",
    "feature_drift": "Drift score of a feature, 0 to 1.",
    "prediction_drift": "Drift score of the predictions, 0 to 1.",
    "score": "Headline metric on rows with feedback.",
    "score_at_training": "Headline metric on the held-out rows of the training.",
    "last_run_timestamp_seconds": "When the model was looked at last.",
}


def write_gauges(folder: Path | None, model: str, seen: "Sequence[Seen]") -> None:
    """Replace a model's file in `folder`, which is made if need be; do nothing without one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {}
    for one in seen:
        for name, labels, value in _values(one):
            shown = ",".join(f'{label}="{text}"' for label, text in labels.items())
            found.setdefault(name, []).append(f"greenroom_monitor_{name}{{{shown}}} {value:.10g}")
    lines = []
    for name, samples in found.items():
        lines += [f"# HELP greenroom_monitor_{name} {_HELP[name]}"]
        lines += [f"# TYPE greenroom_monitor_{name} gauge", *samples]
    # The collector reads *.prom; it must never see half a file.
    part = folder / f"greenroom_monitor_{model}.part"
    part.write_text("\n".join([*lines, ""]), "utf-8")
    part.replace(part.with_suffix(".prom"))


def _values(one: "Seen") -> Iterator[tuple[str, dict[str, str], float]]:
    labels = {"model": one.model, "version": str(one.version)}
    yield "rows", labels, one.rows
    if one.status in ("ok", "drift"):
        yield "drifting", labels, one.status == "drift"
    if one.drift:
        for feature, score in one.drift.features.items():
            yield "feature_drift", {**labels, "feature": feature}, score
        if (value := one.drift.value("PredictionDrift")) is not None:
            yield "prediction_drift", labels, value
    if one.performance:
        yield "score", labels, one.performance.score
        yield "score_at_training", labels, one.performance.at_training
    yield "last_run_timestamp_seconds", labels, time.time()
