"""The scoring flow: a plan at the destination, its partitions on Dask, a manifest when all are there."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import as_completed
from prefect_dask.task_runners import DaskTaskRunner

from catalog.loader import get_model
from catalog.spec import ModelSpec
from checks.errors import DataError
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import RETRIES
from flows.scoring import manifest as manifests
from flows.scoring import plan as plans
from flows.scoring.manifest import FinishedPartition, Manifest
from flows.scoring.partition import RESERVED, ScoringJob, score_partition
from flows.scoring.plan import PinnedVersion, Plan
from flows.scoring.settings import ScoreSettings
from flows.scoring.storage import open_store
from flows.tasks.answers import answer_form
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceBytesError, NotFoundError
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage
from registry.settings import KeySettings

# Each task run costs Prefect a few requests. More partitions than these share tasks.
_MAX_TASKS = 256
# Seconds between two updates of the progress artifact.
_ARTIFACT_SECONDS = 2.0

Progress = Callable[[int, int], None]
# Not a parameter of the flow: Prefect stores those, and it cannot store a function.
_PROGRESS: ContextVar[Progress | None] = ContextVar("progress", default=None)


@dataclass(frozen=True)
class ScoringResult:
    """The result of a job. `existing` partitions of its `parts` were written by an earlier run."""

    destination: str
    model: str
    version: int
    rows: int
    rejected: int
    parts: int
    existing: int
    reasons: dict[str, int]


class TooManyRejectedError(DataError):
    """More rows than allowed break the contract."""


@task(**RETRIES)
def pin_version(spec: ModelSpec, number: int | None) -> PinnedVersion:
    """Return version `number`, or the one in Production, after a check of its bytes against its evidence.

    Raises `NotFoundError` when nothing is in Production, and the `EvidenceError` that the predictor raises.
    """
    with TrackingClient() as client:
        registry = Registry(client)
        version = (
            registry.in_stage(spec.name, Stage.PRODUCTION)
            if number is None
            else registry.version(spec.name, number)
        )
        if version is None:
            raise NotFoundError(
                f"{spec.name} has no version in Production. `greenroom train {spec.name} --promote` makes "
                "one."
            )
        content = registry.verified_model_bytes(version, KeySettings())
    model = OnnxModel(content)
    if model.description.task != spec.task:
        raise DataError(f"{version} is a {model.description.task} model, the catalogue declares {spec.task}.")
    return PinnedVersion(version.number, model.digest, spec.task, model.description.classes)


@task(**RETRIES)
def prepare_plan(
    spec: ModelSpec, source: str, destination: str, keep: tuple[str, ...], rows: int
) -> tuple[Plan, str]:
    """Return the plan at the destination and its digest; if there is none, write one first.

    `rows` is the size of a new plan's partitions. Raises `DataError` for a source or destination that cannot
    be used; writes nothing then.
    """
    if not answer_form(spec.task).by_row:
        raise DataError(
            f"{spec.name} finds neighbours, which is no answer of one value per row; batch scoring is for "
            "classification, regression and clustering. POST /api/similar answers lists."
        )
    if taken := sorted(name for name in keep if name in RESERVED or name.startswith("probability_")):
        raise DataError(f"Results have columns called {', '.join(taken)} of their own; rename them first.")
    plans.require_apart(source, destination)
    store = open_store(destination)
    in_force = plans.existing_plan(store)
    if in_force is None:
        plan = plans.make_plan(spec, pin_version.fn(spec, None), source, keep=keep, rows=rows)
        in_force = plans.write_plan(store, plan)
    plans.require_same(in_force[0], model=spec.name, source=source, keep=keep)
    return in_force


@task(task_run_name="partitions-{parts[0]}-to-{parts[1]}", **RETRIES)
def score_partitions(
    job: ScoringJob, parts: tuple[int, int], skip: frozenset[int]
) -> list[FinishedPartition]:
    """Score the partitions from the first number up to, but not including, the second; on a Dask worker."""
    return [score_partition(job, part) for part in range(*parts) if part not in skip]


def run_scoring(
    model: str,
    source: str,
    destination: str,
    *,
    keep: Sequence[str] = (),
    max_rejected: float | None = None,
    progress: Progress | None = None,
) -> ScoringResult:
    """Run the flow `score` on the workers or the scheduler that the settings name.

    `progress` is called with the numbers of finished rows and of all rows. Raises what the flow raises.
    """
    token = _PROGRESS.set(progress)
    try:
        result: ScoringResult = score.with_options(task_runner=task_runner(ScoreSettings()))(
            model, source, destination, keep=list(keep), max_rejected=max_rejected
        )
    finally:
        _PROGRESS.reset(token)
    return result


def task_runner(settings: ScoreSettings) -> Any:
    """Return Prefect's task runner on the settings' Dask scheduler, or on a local cluster."""
    # Dask would print each worker that ends and each task that is cancelled.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if settings.dask_scheduler:
        return DaskTaskRunner(address=settings.dask_scheduler)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": settings.workers,
            "threads_per_worker": 1,
            "processes": True,
            # On loopback alone. With None there is no dashboard, but its port 8787 is open.
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
        }
    )


@flow(
    name="score",
    flow_run_name="score-{model}",
    validate_parameters=False,
    task_runner=task_runner(ScoreSettings()),
    **HOOKS,
)
def score(
    model: str,
    source: str,
    destination: str,
    keep: Sequence[str] = (),
    max_rejected: float | None = None,
) -> ScoringResult:
    """Score each row of a source once with the version in Production.

    `source` is `s3://BUCKET/PREFIX`, a path, or the id of an uploaded dataset. `destination` is empty, or
    holds results of an earlier run of this job, which goes on with the version that it began with. `keep`
    names columns of the input to repeat in the results. Raises `TooManyRejectedError` when a larger share of
    rows than `max_rejected` (default: the dataset's) breaks the contract, `DataError` for a source or
    destination that cannot be used.
    """
    # Not as a decorator: Dask pickles the flow by value then, and a lock cannot be pickled.
    with flow_run_locks.flow_run_lock():
        return _score(model, source, destination, keep, max_rejected)


def _score(
    model: str, source: str, destination: str, keep: Sequence[str], max_rejected: float | None
) -> ScoringResult:
    spec, logger = get_model(model), get_run_logger()
    allowed = spec.dataset.max_rejected if max_rejected is None else max_rejected
    plan, plan_digest = prepare_plan(spec, source, destination, tuple(keep), plans.PARTITION_ROWS)
    store = open_store(destination)
    if (manifest := manifests.read_manifest(store, plan, plan_digest)) is not None:
        logger.info("%s was finished before", destination)
        _require_few(plan, manifest.parts, allowed)
        return _result(destination, manifest, existing=len(manifest.parts))
    plans.require_unchanged(plan)
    finished = manifests.finished_partitions(store, plan, plan_digest)
    existing = len(finished)
    if existing:
        _require_same_model(spec, plan)
    logger.info(
        "%s version %d, %d rows in %d partitions, %d of them there",
        *(plan.model, plan.version, plan.rows, len(plan.parts), existing),
    )
    job = ScoringJob(store.uri, plan_digest, ScoreSettings().threads)
    show = _ProgressReport(plan, logger)
    show(finished.values())
    futures = [
        score_partitions.submit(job, span, frozenset(finished)) for span in _spans(len(plan.parts), finished)
    ]
    for future in as_completed(futures):
        finished |= {partition.part: partition for partition in future.result()}
        show(finished.values())
        _require_few(plan, finished.values(), allowed)
    _require_few(plan, finished.values(), allowed)
    manifest = manifests.write_manifest(store, plan, plan_digest, finished)
    return _result(destination, manifest, existing=existing)


def _require_same_model(spec: ModelSpec, plan: Plan) -> None:
    """Raise if a job's version is not good any more; it need not be in Production any more."""
    if pin_version(spec, plan.version).digest != plan.digest:
        raise EvidenceBytesError(
            f"{plan.model} version {plan.version} holds other bytes than when the job began. Score to "
            "another destination."
        )


def _spans(parts: int, finished: Iterable[int]) -> list[tuple[int, int]]:
    """Return the ranges of partitions of each task, without ranges that are finished."""
    width = -(-parts // _MAX_TASKS)
    spans = [(first, min(first + width, parts)) for first in range(0, parts, width)]
    finished = set(finished)
    return [span for span in spans if not finished.issuperset(range(*span))]


def _require_few(plan: Plan, finished: Iterable[FinishedPartition], allowed: float) -> None:
    finished = list(finished)
    rejected = sum(partition.rejected for partition in finished)
    if rejected <= allowed * plan.rows:
        return
    reasons = "; ".join(f"{count:,} times {reason}" for reason, count in _reasons(finished).most_common(3))
    raise TooManyRejectedError(
        f"{rejected:,} of {plan.rows:,} rows break the contract or have no answer, and {allowed:.1%} may: "
        f"{reasons}. Correct the rows and score to another destination; or allow more (--max-rejected) and "
        "run again, which goes on from here."
    )


def _reasons(finished: Iterable[FinishedPartition]) -> Counter[str]:
    return sum((Counter(partition.reasons) for partition in finished), Counter())


def _result(destination: str, manifest: Manifest, *, existing: int) -> ScoringResult:
    return ScoringResult(
        destination=destination,
        model=manifest.model,
        version=manifest.version,
        rows=manifest.rows,
        rejected=manifest.rejected,
        parts=len(manifest.parts),
        existing=existing,
        reasons=dict(_reasons(manifest.parts)),
    )


class _ProgressReport:
    """Shows progress to the caller, in Prefect's log, and as an artifact of the flow run."""

    def __init__(self, plan: Plan, logger: "logging.LoggerAdapter[Any] | logging.Logger") -> None:
        self._total, self._progress, self._logger = plan.rows, _PROGRESS.get(), logger
        self._updated, self._tenth = 0.0, -1
        self._artifact: Any = create_progress_artifact(
            progress=0.0, description=f"Rows of {plan.source} scored by {plan.model} version {plan.version}."
        )

    def __call__(self, finished: Iterable[FinishedPartition]) -> None:
        rows = sum(partition.rows for partition in finished)
        if self._progress:
            self._progress(rows, self._total)
        percent = 100 * rows / self._total
        if percent // 10 > self._tenth:
            self._tenth = int(percent // 10)
            self._logger.info("%d of %d rows (%.0f %%)", rows, self._total, percent)
        if time.monotonic() - self._updated > _ARTIFACT_SECONDS or rows == self._total:
            self._updated = time.monotonic()
            update_progress_artifact(self._artifact, progress=percent)
