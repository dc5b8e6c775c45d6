"""MLflow's SQL tracking store beside the guard: what a version in a stage stands on stays.

Triggers in the database refuse it (schema.sql), whoever deletes; what is here tells a client so in words.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.orm import Session

from registry.server import database, route_guard
from registry.server.audited_store import in_words
from registry.server.settings import GuardSettings

_log = logging.getLogger(__name__)


class GuardedTrackingStore(SqlAlchemyStore):
    """MLflow's tracking store on PostgreSQL, whose refusals have words."""

    def __init__(self, url: str, artifact_root: str | None) -> None:
        route_guard.require_options()
        database.prefer_installed_driver()
        address = database.normalised(url, "MLFLOW_BACKEND_STORE_URI")
        if address == database.server_url(GuardSettings()):
            # Before MLflow looks for its tables, and tries to make them as a role that may not.
            database.require_ready(address)
        root = artifact_root or os.environ.get(
            "_MLFLOW_SERVER_ARTIFACT_ROOT", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        )
        database.bound_waits(self._get_or_create_engine(address))
        super().__init__(address, root)
        self._mlflows_sessions: Callable[..., AbstractContextManager[Session]] = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._sessions

    @contextmanager
    def _sessions(self, read_only: bool = True) -> Iterator[Session]:
        with in_words(), self._mlflows_sessions(read_only=read_only) as session:
            yield session

    def _initialize_store_state(self) -> None:
        """Start although there are experiments in another workspace, which nobody sees, and say so."""
        with self.ManagedSessionMaker() as session:
            hidden = [
                str(number)
                for (number,) in session.query(SqlExperiment.experiment_id)
                .filter(SqlExperiment.workspace != self._get_active_workspace())
                .limit(10)
            ]
        if hidden:
            _log.warning(
                "The database holds experiments in other workspaces, which this server does not show: %s.",
                ", ".join(hidden),
            )
        # The rest is MLflow's.
        try:
            self.get_experiment(str(self.DEFAULT_EXPERIMENT_ID))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            with self.ManagedSessionMaker(read_only=False) as session:
                self._create_default_experiment(session)
