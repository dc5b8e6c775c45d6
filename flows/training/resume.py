"""What a training that was killed left in MLflow: gone on with, or ended. Run again, it comes to one state.

A training's run ends as FINISHED after its last step alone; until then it is unfinished, whatever was done.
"""

from dataclasses import dataclass
from hashlib import sha256

import click
import mlflow
from mlflow.entities import LoggedModelStatus, Run
from mlflow.exceptions import MlflowException

from catalog.spec import ModelSpec
from flows import mlflow_connection
from flows.data.fingerprints import code_digest, declaration_digest, source_digest
from flows.orchestration import flow_run_locks
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.names import FLOW_RUN, MODEL, TRAINING, Stage

# The newest runs that are looked at; older ones were, when they were newer.
_MOST = 200


@dataclass(frozen=True)
class Unfinished:
    """A version whose training did not get to its end, and that training's run."""

    run_id: str
    version: Version
    winner: str


def training_key(spec: ModelSpec, *more: str) -> str:
    """Return what a training is a training of: the same key means that it would do the same again.

    It is made of the model's name and declaration, the bytes of its data, the code and the libraries, and of
    `more`, say what was submitted.
    """
    parts = (
        spec.name,
        declaration_digest(spec),
        source_digest(spec.dataset),
        code_digest(),
        mlflow_connection.git_commit() or "",
        *more,
    )
    return sha256("\0".join(parts).encode()).hexdigest()


def run_tags(spec: ModelSpec, key: str, flow_run: str) -> dict[str, str]:
    """Return the tags that a training's run is created with, so that there is none without them."""
    return {MODEL: spec.name, "greenroom.role": "training", TRAINING: key, FLOW_RUN: flow_run}


def take_over(spec: ModelSpec, key: str, flow_run: str) -> Unfinished | None:
    """End what killed trainings of a model left, and return the version to go on with, if there is one.

    That is the model's newest version, if it is from an unfinished training with the same key. What another
    process still works on is left alone.
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
    made_by = _run_of(client, newest) if newest else None
    for run in runs:
        if run.info.status != "RUNNING" or _is_at_work(run, flow_run):
            continue
        if made_by is None or run.info.run_id != made_by.info.run_id or _key(run) != key:
            _end(client, run)
            click.echo(f"{spec.name}: ended run {run.info.run_name}, whose process was killed")
    if newest is None or made_by is None or _key(made_by) != key or _is_at_work(made_by, flow_run):
        return None
    # Killed after its run was finished, but before Prefect heard of it: to whoever started it, it was killed.
    if made_by.info.status == "FINISHED" and not flow_run_locks.was_killed(
        made_by.data.tags.get(FLOW_RUN, "")
    ):
        return None
    if newest.stage is Stage.ARCHIVED:  # somebody has put it away since
        return None
    return Unfinished(made_by.info.run_id, newest, made_by.data.params.get("winner", ""))


def _run_of(client: mlflow.MlflowClient, version: Version) -> Run | None:
    """Return the run that made a version; None if it has none, or one that somebody deleted."""
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
    """Whether another process may still work on a run; one without an owner is nobody's to end."""
    owner = run.data.tags.get(FLOW_RUN)
    if run.info.status != "RUNNING" or owner == flow_run:
        return False
    return owner is None or flow_run_locks.is_alive(owner)


def _end(client: mlflow.MlflowClient, run: Run) -> None:
    """End a run that nobody works on, what it started, and models that it did not get to upload whole."""
    where = [run.info.experiment_id]
    children = client.search_runs(
        where, f"tags.`mlflow.parentRunId` = '{run.info.run_id}' AND attributes.status = 'RUNNING'"
    )
    for model in client.search_logged_models(where, f"source_run_id = '{run.info.run_id}'"):
        if model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    # The run itself last: what is killed here is found again.
    for one in [*children, run]:
        client.set_terminated(one.info.run_id, "KILLED")
