"""The scoring flow: a plan at the destination, its partitions on Dask, a manifest when all are there."""

import logging
import time
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
from flows.errors import DataError
from flows.orchestration import flow_run_locks
from flows.orchestration.notifications import HOOKS
from flows.orchestration.retries import RETRIES
from flows.scoring import manifest as manifests
from flows.scoring import plan as plans
from flows.scoring.manifest import Done, Finished
from flows.scoring.partition import RESERVED, Job, score_part
from flows.scoring.plan import Pinned, Plan
from flows.scoring.settings import ScoreSettings
from flows.scoring.storage import place
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import EvidenceBytesError, NotFoundError
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage
from registry.settings import KeySettings

# A task run costs Prefect a few requests: of more partitions than these, several go into one.
_MOST_TASKS = 256
# Seconds between two updates of the progress artifact.
_OFTEN = 2.0

Progress = Callable[[int, int], None]
# No parameter of the flow: Prefect keeps those, and a function cannot be kept.
_TOLD: ContextVar[Progress | None] = ContextVar("progress", default=None)


@dataclass(frozen=True)
class Scored:
    """What a job came to. `found` is how many partitions were there before it."""

    destination: str
    model: str
    version: int
    rows: int
    rejected: int
    parts: int
    found: int
    reasons: dict[str, int]


class TooManyRejectedError(DataError):
    """More rows broke the contract than may."""


@task(**RETRIES)
def pin(spec: ModelSpec, number: int | None) -> Pinned:
    """Return the version to score with, `number` or the one in Production, held against its evidence.

    Raises `NotFoundError` when nothing is in Production, and an `EvidenceError` as the predictor does.
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
    return Pinned(version.number, model.digest, spec.task, model.description.classes)


@task(**RETRIES)
def prepare(
    spec: ModelSpec, source: str, destination: str, keep: tuple[str, ...], rows: int
) -> tuple[Plan, str]:
    """Return the plan in force at the destination and its digest: what was begun there, or a new one.

    Raises `DataError` for a source or destination that cannot be used; nothing is written then.
    """
    if spec.task == "similarity":
        raise DataError(
            f"{spec.name} finds neighbours, which is no answer of one value per row; batch scoring is for "
            "classification, regression and clustering. POST /api/similar answers lists."
        )
    if taken := sorted(name for name in keep if name in RESERVED or name.startswith("probability_")):
        raise DataError(f"Results have columns called {', '.join(taken)} of their own; rename them first.")
    plans.require_apart(source, destination)
    where = place(destination)
    if (found := plans.begun(where)) is None:
        plan, _ = plans.make_plan(spec, pin.fn(spec, None), source, keep=keep, rows=rows)
        found = plans.write_plan(where, plan)
    plans.require_same(found[0], model=spec.name, source=source, keep=keep)
    return found


@task(task_run_name="partitions-{parts[0]}-to-{parts[1]}", **RETRIES)
def score_parts(job: Job, parts: tuple[int, int], skip: frozenset[int]) -> list[Done]:
    """Score the partitions from the first number up to, but not including, the second; on a Dask worker."""
    return [score_part(job, part) for part in range(*parts) if part not in skip]


def scored(
    model: str,
    source: str,
    destination: str,
    *,
    keep: Sequence[str] = (),
    max_rejected: float | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Run the flow with as many workers, or on the scheduler, as the settings say.

    `progress` is told how many rows are done and how many there are. Errors are those of the flow.
    """
    telling = _TOLD.set(progress)
    try:
        done: Scored = score.with_options(task_runner=task_runner(ScoreSettings()))(
            model, source, destination, keep=list(keep), max_rejected=max_rejected
        )
    finally:
        _TOLD.reset(telling)
    return done


def task_runner(settings: ScoreSettings) -> Any:
    """Return Prefect's runner on the scheduler of the settings, or on a cluster of this machine."""
    # Of its own it tells, on the terminal, each worker that ends and each task that is no longer wanted.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if settings.dask_scheduler:
        return DaskTaskRunner(address=settings.dask_scheduler)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": settings.workers,
            "threads_per_worker": 1,
            "processes": True,
            # On loopback alone. None would be no dashboard, and its port 8787 all the same.
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
) -> Scored:
    """Score the rows of a source with the version in Production, each exactly once.

    `source` is `s3://BUCKET/PREFIX`, a path, or the id of an uploaded dataset; `destination` a place that is
    empty or where the same job began: that is gone on with, by the version that it began with. `keep` are
    columns of the input to repeat in the results. Raises `TooManyRejectedError` when more than `max_rejected`
    of the rows (the dataset's, unless given) break the contract, `DataError` for what cannot be scored.
    """
    # Not as a decorator: Dask is sent the flow by value then, and a lock cannot be sent.
    with flow_run_locks.held():
        return _score(model, source, destination, keep, max_rejected)


def _score(
    model: str, source: str, destination: str, keep: Sequence[str], max_rejected: float | None
) -> Scored:
    settings, spec, logger = ScoreSettings(), get_model(model), get_run_logger()
    allowed = spec.dataset.max_rejected if max_rejected is None else max_rejected
    plan, plan_digest = prepare(spec, source, destination, tuple(keep), settings.score_partition_rows)
    where = place(destination)
    if (manifest := manifests.finished(where, plan, plan_digest)) is not None:
        logger.info("%s was finished before", destination)
        done = {one.part: one for one in manifest.parts}
        _require_few(plan, done, allowed)
        return _outcome(destination, manifest, found=len(done))
    plans.require_unchanged(plan)
    done = manifests.look(where, plan, plan_digest)
    found = len(done)
    if found:
        # The version that the job began with must still be good, in Production or not.
        pinned = pin(spec, plan.version)
        if pinned.digest != plan.digest:
            raise EvidenceBytesError(
                f"{plan.model} version {plan.version} holds other bytes than when the job began. Score to "
                "another destination."
            )
    logger.info(
        "%s version %d, %d rows in %d partitions, %d of them there",
        *(plan.model, plan.version, plan.rows, len(plan.parts), found),
    )
    job = Job(where.uri, plan_digest, settings.threads)
    shown = _Shown(plan, logger)
    shown(done)
    futures = [score_parts.submit(job, span, frozenset(done)) for span in _spans(len(plan.parts), done)]
    for future in as_completed(futures):
        done |= {one.part: one for one in future.result()}
        shown(done)
        _require_few(plan, done, allowed)
    _require_few(plan, done, allowed)
    manifest = manifests.write_success(where, plan, plan_digest, done)
    return _outcome(destination, manifest, found=found)


def _spans(parts: int, done: Iterable[int]) -> list[tuple[int, int]]:
    """Share partitions out to tasks: one each, or several where there are too many; none that is all done."""
    width = -(-parts // _MOST_TASKS)
    spans = [(first, min(first + width, parts)) for first in range(0, parts, width)]
    there = set(done)
    return [span for span in spans if not there.issuperset(range(*span))]


def _require_few(plan: Plan, done: dict[int, Done], allowed: float) -> None:
    rejected = sum(one.rejected for one in done.values())
    if rejected <= allowed * plan.rows:
        return
    worst = sorted(_reasons(done.values()).items(), key=lambda one: -one[1])[:3]
    raise TooManyRejectedError(
        f"{rejected:,} of {plan.rows:,} rows break the contract or have no answer, and {allowed:.1%} may: "
        f"{'; '.join(f'{count:,} times {why}' for why, count in worst)}. Correct the rows and score to "
        "another destination; or allow more (--max-rejected) and run again, which goes on from here."
    )


def _reasons(done: Iterable[Done]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in done:
        for why, count in one.reasons.items():
            found[why] = found.get(why, 0) + count
    return found


def _outcome(destination: str, manifest: Finished, *, found: int) -> Scored:
    return Scored(
        destination=destination,
        model=manifest.model,
        version=manifest.version,
        rows=manifest.rows,
        rejected=manifest.rejected,
        parts=len(manifest.parts),
        found=found,
        reasons=_reasons(manifest.parts),
    )


class _Shown:
    """Shows progress: to the caller, in Prefect's log, and as an artifact of the flow run."""

    def __init__(self, plan: Plan, logger: "logging.LoggerAdapter[Any] | logging.Logger") -> None:
        self._plan, self._progress, self._logger = plan, _TOLD.get(), logger
        self._last, self._tenth = 0.0, -1
        self._artifact: Any = create_progress_artifact(
            progress=0.0, description=f"Rows of {plan.source} scored by {plan.model} version {plan.version}."
        )

    def __call__(self, done: dict[int, Done]) -> None:
        rows, whole = sum(one.rows for one in done.values()), self._plan.rows
        if self._progress:
            self._progress(rows, whole)
        percent = 100 * rows / whole
        if percent // 10 > self._tenth:
            self._tenth = int(percent // 10)
            self._logger.info("%d of %d rows (%.0f %%)", rows, whole, percent)
        if time.monotonic() - self._last > _OFTEN or rows == whole:
            self._last = time.monotonic()
            update_progress_artifact(self._artifact, progress=percent)
