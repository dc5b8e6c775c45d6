"""What a killed training left in MLflow: it is continued, or ended. Run again, there is one version.

A training's run ends as FINISHED after its last step alone; until then it is unfinished, whatever was done.
"""

from dataclasses import dataclass
from hashlib import sha256

import click
import mlflow
from mlflow.entities import LoggedModelStatus, Run
from mlflow.exceptions import MlflowException

from catalog.spec import ModelSpec
from checks.data.fingerprints import code_digest, declaration_digest, git_commit, source_digest
from flows.orchestration import flow_run_locks
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.names import FLOW_RUN, MODEL, TRAINING, Stage

# Only so many of the newest runs are searched; earlier trainings searched the older ones.
_MOST = 200


@dataclass(frozen=True)
class UnfinishedTraining:
    """A version whose training did not get to its end, and that training's run."""

    run_id: str
    version: Version
    winner: str


def training_key(spec: ModelSpec, *more: str) -> str:
    """Return the key of a training: two trainings with the same key do the same.

    It is the digest of the model's name and declaration, the bytes of its data, the code and the libraries,
    and of `more`, for example a submitted model.
    """
    parts = (
        spec.name,
        declaration_digest(spec),
        source_digest(spec.dataset),
        code_digest(),
        git_commit() or "",
        *more,
    )
    return sha256("\0".join(parts).encode()).hexdigest()


def find_unfinished(spec: ModelSpec, key: str, flow_run: str) -> UnfinishedTraining | None:
    """End the runs of killed trainings, and return the version to continue with, if there is one.

    That is the model's newest version, if it is from an unfinished training with the same key. Runs that
    another process still works on are left alone.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(spec.name)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`greenroom.role` = 'training' AND tags.`{MODEL}` = '{spec.name}' "
        "AND attributes.status != 'FINISHED'",
        max_results=_MOST,
    )
    with TrackingClient() as tracking_client:
        newest = Registry(tracking_client).newest(spec.name)
    source = _run_of(client, newest) if newest else None
    for run in runs:
        if run.info.status != "RUNNING" or _is_at_work(run, flow_run):
            continue
        if source is None or run.info.run_id != source.info.run_id or _key(run) != key:
            _end(client, run)
            click.echo(f"{spec.name}: ended run {run.info.run_name}, whose process was killed")
    if newest is None or source is None or _key(source) != key or _is_at_work(source, flow_run):
        return None
    # Killed after its run was finished, but before Prefect knew: for Prefect it was killed.
    if source.info.status == "FINISHED" and not flow_run_locks.was_killed(source.data.tags.get(FLOW_RUN, "")):
        return None
    if newest.stage is Stage.ARCHIVED:  # somebody archived it meanwhile
        return None
    return UnfinishedTraining(source.info.run_id, newest, source.data.params.get("winner", ""))


def _run_of(client: mlflow.MlflowClient, version: Version) -> Run | None:
    """Return the run of a version; None if it has none, or it was deleted."""
    try:
        run = client.get_run(version.run_id) if version.run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run and run.info.lifecycle_stage == "active" else None


def _key(run: Run) -> str | None:
    tag: str | None = run.data.tags.get(TRAINING)
    return tag


def _is_at_work(run: Run, flow_run: str) -> bool:
    """Whether another process may still work on a run; one without an owner is never ended."""
    owner = run.data.tags.get(FLOW_RUN)
    if run.info.status != "RUNNING" or owner == flow_run:
        return False
    return owner is None or flow_run_locks.is_alive(owner)


def _end(client: mlflow.MlflowClient, run: Run) -> None:
    """End a run that no process works on, its child runs, and models that were not uploaded whole."""
    where = [run.info.experiment_id]
    children = client.search_runs(
        where, f"tags.`mlflow.parentRunId` = '{run.info.run_id}' AND attributes.status = 'RUNNING'"
    )
    for model in client.search_logged_models(where, f"source_run_id = '{run.info.run_id}'"):
        if model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    # The run itself last: where this is killed, the next training finds it again.
    for unfinished in [*children, run]:
        client.set_terminated(unfinished.info.run_id, "KILLED")
