"""The monitoring flow: recent requests and predictions beside the training of each version."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
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
from checks.errors import GateInputError
from checks.frames import frame_digest, from_parquet
from checks.gate import ROWS_FILES
from checks.precomputed import ScoredRows, score_rows
from flows import mlflow_connection
from flows.monitoring.prediction_log import Window, open_bucket, read_feedback, read_predictions
from flows.monitoring.prometheus import write_gauges
from flows.monitoring.result import MonitoringResult, Status
from flows.monitoring.settings import MonitorSettings
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import RETRIES
from flows.tasks.answers import answer_form
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError
from registry.evidence.attestation import read_unverified
from registry.model_format.onnx_model import OnnxModel
from registry.names import EVIDENCE, MODEL
from registry.notify.people import notify

EXPERIMENT = "monitoring"
EVENT = "greenroom.drift"
VERSION, STATUS, ALARM = "greenroom.version", "greenroom.monitor", "greenroom.alarm"


@dataclass(frozen=True)
class _Reference:
    """What a version's training knows. `held_out` are rows with their targets, None without targets.

    `width` is the width of the headline score's interval, None if the training did not log one.
    """

    train: ScoredRows
    held_out: tuple[ScoredRows, npt.NDArray[Any]] | None
    model: OnnxModel
    width: float | None


@flow(name="monitor", flow_run_name="monitor-{model}", validate_parameters=False, **HOOKS)
@flow_run_locks.flow_run_lock()
def monitor(model: str, since: datetime | None = None, hours: float | None = None) -> list[MonitoringResult]:
    """Compare a model's predictions in a window with the training of each version that made them.

    The window begins at `since`, else `hours` ago, else a day ago. Returns a result for each
    version, the newest first; drift does not fail the flow. Raises `CatalogError` for an unknown model,
    `DataError` without keys for the bucket, and the errors of bucket, registry and gate.
    """
    spec, settings = get_model(model), MonitorSettings()
    now = datetime.now(UTC)
    window = Window(since or now - timedelta(hours=hours or settings.WINDOW_HOURS), now)
    mlflow_connection.connect()
    predictions, feedback, notes = read(spec, window, settings.MAX_ROWS)
    results = []
    for number in sorted(predictions["version"].unique().tolist(), reverse=True):
        rows = predictions[predictions["version"] == number].reset_index(drop=True)
        with TemporaryDirectory(prefix="greenroom-drift-") as folder:
            result = check_version(spec, int(number), rows, feedback, settings=settings, folder=Path(folder))
            result = replace(result, notes=(*result.notes, *notes))
            results.append(result)
            report(result, window, settings, Path(folder))
    if not results:
        results = [MonitoringResult(spec.name, 0, "too few rows", 0, ("no prediction in the window",))]
        get_run_logger().info("%s: no prediction since %s", spec.name, window.since.isoformat())
    write_gauges(settings.textfiles, spec.name, results)
    return results


@task(**RETRIES)
def read(
    spec: ModelSpec, window: Window, max_rows: int
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Return the window's predictions, the feedback on them, and notes on what was left out."""
    bucket = open_bucket()
    predictions, unusable = read_predictions(bucket, spec, window, max_rows)
    notes = []
    if unusable:
        notes.append(f"{len(unusable)} files of the prediction log cannot be used: {', '.join(unusable[:3])}")
    if len(predictions) >= max_rows:
        notes.append(f"only the newest {max_rows:,} predictions were read")
    return predictions, read_feedback(bucket, window, predictions), tuple(notes)


@task(task_run_name="check-version-{number}", **RETRIES)
def check_version(
    spec: ModelSpec,
    number: int,
    rows: pd.DataFrame,
    feedback: pd.DataFrame,
    *,
    settings: MonitorSettings,
    folder: Path,
) -> MonitoringResult:
    """Judge the rows of one version; DeepChecks' report is written to `folder`."""

    def result(status: Status, *reasons: str) -> MonitoringResult:
        return MonitoringResult(spec.name, number, status, len(rows), reasons)

    if len(rows) < settings.MIN_ROWS:
        return result(
            "too few rows", f"{len(rows):,} predictions, and at least {settings.MIN_ROWS:,} are needed"
        )
    try:
        reference = _reference(spec, number)
    except NotFoundError as error:
        return result("no reference", str(error))
    exchanged = int((rows["digest"] != reference.model.digest).sum())
    if exchanged:
        # The reference is not the training of the file that made these predictions.
        return result(
            "no reference",
            f"{exchanged:,} predictions were made by another file than version {number} holds now",
        )
    logged = _logged(spec, reference.model, rows)
    limits = Limits(settings.FEATURE_DRIFT, settings.PREDICTION_DRIFT)
    drift = find_drift(spec, reference.train, logged, limits, folder)
    performance, notes = _performance(
        spec, logged, rows.merge(feedback, "left", ["id", "row"]), reference, settings
    )
    if undecided := [o for o in drift.outcomes if o.status not in ("passed", "failed")]:
        raise RuntimeError("; ".join(f"{o.check} gave no result: {o.reason}" for o in undecided))
    reasons = [_reason(o.check, o.reason, drift, limits) for o in drift.outcomes if o.status == "failed"]
    if performance and performance.worse:
        reasons.append(performance.sentence(spec.metric))
    judged = result("drift" if reasons else "ok", *reasons)
    return replace(judged, drift=drift, performance=performance, notes=notes)


def _reason(check: str, reason: str, drift: Drift, limits: Limits) -> str:
    if check != "FeatureDrift" or not drift.features:
        return f"{check}: {reason}"
    worst = sorted(drift.features.items(), key=itemgetter(1), reverse=True)
    return "FeatureDrift: " + ", ".join(f"{n} {s:.3g}" for n, s in worst if s >= limits.feature)


def _reference(spec: ModelSpec, number: int) -> _Reference:
    with TrackingClient() as client:
        registry = Registry(client)
        version = registry.version(spec.name, number)
        stored = _judged_rows(registry, version)
        model = OnnxModel(registry.model_bytes(version), threads=2)
    held_out = None
    if spec.supervised:
        held_out = (score_rows(spec, model, stored["test"]), stored["test"][str(spec.target)].to_numpy())
    metrics = mlflow.get_run(version.run_id).data.metrics if version.run_id else {}
    low, high = (metrics.get(f"test_{spec.metric.removeprefix('neg_')}_{end}") for end in ("low", "high"))
    width = None if low is None or high is None else high - low
    return _Reference(score_rows(spec, model, stored["train"]), held_out, model, width)


def _judged_rows(registry: Registry, version: Version) -> dict[str, pd.DataFrame]:
    """Return the rows that the gate judged a version on, by side.

    A run can be written to by others, the evidence of a version in a stage cannot: the server takes a
    trusted gate's signature alone. Raises `NotFoundError` for rows that are not those of the evidence.
    """
    evidence = read_unverified(version.tags.get(EVIDENCE, ""))
    digests = evidence.dataset_digests if evidence else {}
    rows = {}
    for side, name in ROWS_FILES.items():
        content = registry.artifact(version, f"gate/{name}")
        if _rows_digest(content) != digests.get(side):
            raise NotFoundError(
                f"gate/{name} in the run of {version} is not the rows that its evidence names. "
                f"`greenroom gate {version.model} {version.number} --rerun` judges it again and stores them."
            )
        rows[side] = from_parquet(content)
    return rows


def _rows_digest(content: bytes) -> str | None:
    """Return the digest of the rows in a file, or None if it is no Parquet file."""
    try:
        return frame_digest(from_parquet(content))
    except GateInputError:
        return None


def _logged(spec: ModelSpec, model: OnnxModel, rows: pd.DataFrame) -> ScoredRows:
    """Return the features and predictions that the log holds."""
    features = rows[[f"input_{name}" for name in spec.features]].astype(np.float64)
    features.columns = pd.Index(spec.features)
    answers = answer_form(spec.task, model.description.classes).logged(rows)
    if answers is None:
        return score_rows(spec, model, features)
    return ScoredRows(features, *answers)


def _performance(
    spec: ModelSpec,
    logged: ScoredRows,
    joined: pd.DataFrame,
    reference: _Reference,
    settings: MonitorSettings,
) -> tuple[Performance | None, tuple[str, ...]]:
    if reference.held_out is None:
        return None, ()
    column = "number" if spec.numeric_target else "label"
    labelled = np.flatnonzero(joined[column].notna().to_numpy())
    if len(labelled) < settings.MIN_FEEDBACK:
        reason = f"{len(labelled):,} rows with feedback, and at least {settings.MIN_FEEDBACK:,} are needed"
        return None, (f"no score: {reason}",)
    truth = joined[column].iloc[labelled].to_numpy()
    truth = truth.astype(np.float64) if spec.numeric_target else truth.astype(str)
    try:
        rows = logged.take(labelled)
        return measure_performance(spec, (rows, truth), reference.held_out, reference.width), ()
    except ValueError as error:
        return None, (f"no score: {error}",)


def report(result: MonitoringResult, window: Window, settings: MonitorSettings, folder: Path) -> None:
    """Log a result and the files of `folder` as a run; raise an alarm on drift, if there was none lately."""
    logger = get_run_logger()
    mlflow.set_experiment(EXPERIMENT)
    alarm = result.status == "drift" and not _alarmed_lately(result, settings)
    with mlflow.start_run(run_name=f"monitor-{result.model}-{result.version}") as run:
        mlflow.set_tags(
            {
                MODEL: result.model,
                "greenroom.role": "monitoring",
                VERSION: str(result.version),
                STATUS: result.status,
                "mlflow.note.content": "\n".join(f"- {line}" for line in (*result.reasons, *result.notes)),
            }
        )
        mlflow.log_params(
            {
                "since": window.since.isoformat(),
                "until": window.until.isoformat(),
                "max_feature_drift": settings.FEATURE_DRIFT,
                "max_prediction_drift": settings.PREDICTION_DRIFT,
            }
        )
        mlflow.log_metrics(result.metrics())
        mlflow.log_artifacts(str(folder), "drift")
        logger.info(
            "%s version %d: %s. %s", result.model, result.version, result.status, "; ".join(result.reasons)
        )
        if alarm:
            _raise_alarm(result, str(run.info.run_id))
            # Last, so that the next run repeats an alarm that was interrupted.
            mlflow.set_tag(ALARM, "yes")


def _alarmed_lately(result: MonitoringResult, settings: MonitorSettings) -> bool:
    earliest = datetime.now(UTC) - timedelta(hours=settings.REPEAT_HOURS)
    alarms = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"tags.`{MODEL}` = '{result.model}' and tags.`{VERSION}` = '{result.version}' and "
        f"tags.`{ALARM}` = 'yes' and attributes.start_time > {int(earliest.timestamp() * 1000)}",
        max_results=1,
        output_format="list",
    )
    return bool(alarms)


def _raise_alarm(result: MonitoringResult, run_id: str) -> None:
    reasons = "\n".join(result.reasons)
    title = f"Greenroom: {result.model} version {result.version} drifts"
    notify("drift", title, f"{result.rows:,} predictions.\n{reasons}\nMLflow's run {run_id} has the report.")
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"greenroom.model.{result.model}",
            "prefect.resource.name": result.model,
        },
        payload={
            "version": result.version,
            "rows": result.rows,
            "reasons": list(result.reasons),
            "run_id": run_id,
        },
    )
    # A thread sends it; the process must not end before.
    EventsWorker.instance().wait_until_empty()
