"""The monitoring flow: what was asked and answered lately, against the training of who answered."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.events import emit_event
from prefect.events.worker import EventsWorker

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.drift import Drift, Limits, Performance, find_drift, measure_performance
from checks.frames import from_parquet
from checks.gate import ROWS_FILES
from checks.precomputed import ScoredRows, score_rows
from flows import mlflow_connection
from flows.monitoring.prediction_log import Window, open_bucket, read_feedback, read_predictions
from flows.monitoring.prometheus import write_gauges
from flows.monitoring.result import Seen, Status, numbers
from flows.monitoring.settings import MonitorSettings
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import RETRIES
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError
from registry.model_format.onnx_model import OnnxModel
from registry.names import MODEL
from registry.notify.people import notify

EXPERIMENT = "monitoring"
EVENT = "greenroom.drift"
VERSION, STATUS, ALARM = "greenroom.version", "greenroom.monitor", "greenroom.alarm"


@dataclass(frozen=True)
class _Reference:
    """What the training of a version left. `held_out` has its truth; None where nothing comes true.

    `width` is that of the headline score's interval, None if the training did not log one.
    """

    train: ScoredRows
    held_out: tuple[ScoredRows, npt.NDArray[Any]] | None
    model: OnnxModel
    width: float | None


@flow(name="monitor", flow_run_name="monitor-{model}", validate_parameters=False, **HOOKS)
@flow_run_locks.held()
def monitor(model: str, since: datetime | None = None, hours: float | None = None) -> list[Seen]:
    """Compare the window's predictions of a model with the training of each version that made them.

    The window begins at `since`, else `hours` ago, else as the settings say. Returns what was seen of each
    version, the newest first; drift is no failure of the flow. Raises `CatalogError` for an unknown model,
    `DataError` where there is no bucket, and what bucket, registry and gate raise when they do not answer.
    """
    spec, settings = get_model(model), MonitorSettings()
    now = datetime.now(UTC)
    window = Window(since or now - timedelta(hours=hours or settings.monitor_hours), now)
    mlflow_connection.connect()
    predictions, feedback, notes = read(spec, window, settings.monitor_max_rows)
    versions = sorted(predictions["version"].unique().tolist(), reverse=True)
    seen = []
    for number in versions:
        rows = predictions[predictions["version"] == number].reset_index(drop=True)
        with TemporaryDirectory(prefix="greenroom-drift-") as report:
            one = look(spec, int(number), rows, feedback, settings=settings, report=Path(report))
            one = replace(one, notes=(*one.notes, *notes))
            seen.append(one)
            say(one, window, settings, Path(report))
    if not seen:
        seen = [Seen(spec.name, 0, "too few rows", 0, ("nothing was predicted in the window",))]
        get_run_logger().info("%s: nothing was predicted since %s", spec.name, window.since.isoformat())
    write_gauges(settings.textfiles, spec.name, seen)
    return seen


@task(**RETRIES)
def read(spec: ModelSpec, window: Window, most: int) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Read the window's predictions and what came true of them."""
    bucket = open_bucket()
    predictions, useless = read_predictions(bucket, spec, window, most)
    notes = [f"{len(useless)} files of the prediction log were no use: {', '.join(useless[:3])}"]
    if len(predictions) >= most:
        notes.append(f"only the newest {most:,} predictions were looked at (GREENROOM_MONITOR_MAX_ROWS)")
    feedback = read_feedback(bucket, window, predictions)
    return predictions, feedback, tuple(notes if useless else notes[1:])


@task(task_run_name="look-{number}", **RETRIES)
def look(
    spec: ModelSpec,
    number: int,
    rows: pd.DataFrame,
    feedback: pd.DataFrame,
    *,
    settings: MonitorSettings,
    report: Path,
) -> Seen:
    """Judge the rows of one version."""
    if len(rows) < settings.monitor_min_rows:
        reason = f"{len(rows):,} predictions, and GREENROOM_MONITOR_MIN_ROWS={settings.monitor_min_rows:,}"
        return Seen(spec.name, number, "too few rows", len(rows), (reason,))
    try:
        reference = _reference(spec, number)
    except NotFoundError as error:
        return Seen(spec.name, number, "no reference", len(rows), (str(error),))
    foreign = rows["digest"] != reference.model.digest
    if foreign.any():
        # Another file than the registry holds now answered these: its reference says nothing about them.
        reason = f"{foreign.sum():,} predictions were made by another file than version {number} holds now"
        return Seen(spec.name, number, "no reference", len(rows), (reason,))
    asked = _logged(spec, reference.model, rows)
    limits = Limits(settings.monitor_feature_drift, settings.monitor_prediction_drift)
    drift = find_drift(spec, reference.train, asked, limits, report)
    performance, notes = _performance(
        spec, asked, rows.merge(feedback, "left", ["id", "row"]), reference, settings
    )
    if unsure := [o for o in drift.outcomes if o.status not in ("passed", "failed")]:
        raise RuntimeError("; ".join(f"{o.check} gave no result: {o.reason}" for o in unsure))
    reasons = [_why(o.check, o.reason, drift, limits) for o in drift.outcomes if o.status == "failed"]
    if performance and performance.worse:
        reasons.append(performance.sentence(spec.metric))
    status: Status = "drift" if reasons else "ok"
    return Seen(spec.name, number, status, len(rows), tuple(reasons), drift, performance, notes)


def _why(check: str, reason: str, drift: Drift, limits: Limits) -> str:
    if check != "FeatureDrift" or not drift.features:
        return f"{check}: {reason}"
    worst = sorted(drift.features.items(), key=lambda one: -one[1])
    return "FeatureDrift: " + ", ".join(f"{n} {s:.3g}" for n, s in worst if s >= limits.feature)


def _reference(spec: ModelSpec, number: int) -> _Reference:
    with TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(spec.name, number)
        stored = {
            side: from_parquet(registry.artifact(version, f"gate/{name}"))
            for side, name in ROWS_FILES.items()
        }
        model = OnnxModel(registry.model_bytes(version), threads=2)
    held_out = None
    if spec.supervised:
        held_out = (score_rows(spec, model, stored["test"]), stored["test"][str(spec.target)].to_numpy())
    known = mlflow.get_run(version.run_id).data.metrics if version.run_id else {}
    ends = [known.get(f"test_{spec.metric.removeprefix('neg_')}_{end}") for end in ("low", "high")]
    width = None if ends[0] is None or ends[1] is None else ends[1] - ends[0]
    return _Reference(score_rows(spec, model, stored["train"]), held_out, model, width)


def _logged(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> ScoredRows:
    """Return the rows as the log has them: what was asked, and what was really answered."""
    features = rows[[f"input_{name}" for name in spec.features]].astype(np.float64)
    features.columns = pd.Index(spec.features)
    if spec.task == "similarity":
        # The log has what was found; the question is how far the nearest other thing is.
        return score_rows(spec, model, features)
    if spec.task == "regression":
        return ScoredRows(features, rows["prediction"].to_numpy(np.float64))
    if spec.task == "clustering":
        return ScoredRows(features, rows["prediction"].to_numpy().astype(str))
    classes = list(model.description.classes)
    shares = rows[[f"probability_{name}" for name in classes]].astype(np.float64)
    shares.columns = pd.Index(classes)
    return ScoredRows(features, rows["prediction"].to_numpy().astype(str), shares)


def _performance(
    spec: ModelSpec, asked: ScoredRows, joined: pd.DataFrame, reference: _Reference, settings: MonitorSettings
) -> tuple[Performance | None, tuple[str, ...]]:
    if reference.held_out is None:
        return None, ()
    column = "number" if spec.task == "regression" else "label"
    known = np.flatnonzero(joined[column].notna().to_numpy())
    if len(known) < settings.monitor_min_feedback:
        few = f"{len(known):,} rows with feedback, and GREENROOM_MONITOR_MIN_FEEDBACK is "
        return None, (f"{few}{settings.monitor_min_feedback:,}: no score",)
    truth = joined[column].iloc[known].to_numpy()
    truth = truth.astype(np.float64) if spec.task == "regression" else truth.astype(str)
    try:
        found = measure_performance(spec, (asked.take(known), truth), reference.held_out, reference.width)
    except ValueError as error:
        return None, (f"no score: {error}",)
    return found, ()


def say(seen: Seen, window: Window, settings: MonitorSettings, report: Path) -> None:
    """Log what was seen as a run; of drift, tell people and Prefect, unless that was done lately."""
    logger = get_run_logger()
    mlflow.set_experiment(EXPERIMENT)
    alarm = seen.status == "drift" and not _told_lately(seen, settings)
    with mlflow.start_run(run_name=f"monitor-{seen.model}-{seen.version}") as run:
        mlflow.set_tags(
            {
                MODEL: seen.model,
                "greenroom.role": "monitoring",
                VERSION: str(seen.version),
                STATUS: seen.status,
                "mlflow.note.content": "\n".join(f"- {line}" for line in (*seen.reasons, *seen.notes)),
            }
        )
        mlflow.log_params(
            {
                "since": window.since.isoformat(),
                "until": window.until.isoformat(),
                "max_feature_drift": settings.monitor_feature_drift,
                "max_prediction_drift": settings.monitor_prediction_drift,
            }
        )
        mlflow.log_metrics(numbers(seen))
        mlflow.log_artifacts(str(report), "drift")
        logger.info("%s version %d: %s. %s", seen.model, seen.version, seen.status, "; ".join(seen.reasons))
        if alarm:
            _raise_alarm(seen, str(run.info.run_id))
            # Last: cut short before, the next run tells it again.
            mlflow.set_tag(ALARM, "yes")


def _told_lately(seen: Seen, settings: MonitorSettings) -> bool:
    begun = datetime.now(UTC) - timedelta(hours=settings.monitor_again_hours)
    found = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.`{MODEL}` = '{seen.model}' and tags.`{VERSION}` = '{seen.version}' and "
        f"tags.`{ALARM}` = 'yes' and attributes.start_time > {int(begun.timestamp() * 1000)}",
        max_results=1,
        output_format="list",
    )
    return bool(found)


def _raise_alarm(seen: Seen, run_id: str) -> None:
    why = "\n".join(seen.reasons)
    title = f"Greenroom: {seen.model} version {seen.version} drifts"
    notify("drift", title, f"{seen.rows:,} predictions.\n{why}\nMLflow's run {run_id} has the report.")
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"greenroom.model.{seen.model}",
            "prefect.resource.name": seen.model,
        },
        payload={"version": seen.version, "rows": seen.rows, "reasons": list(seen.reasons), "run_id": run_id},
    )
    # Sent by a thread: without this the end of the process might come first.
    EventsWorker.instance().wait_until_empty()
