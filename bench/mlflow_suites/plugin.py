"""A pytest plugin: MLflow's tests get the guarded registry store, on PostgreSQL, in place of MLflow's own.

`SUITES_MODE` is `guard`, or `granted`: there each move finds evidence, as if the gate had let every version
pass, so that what remains are differences of behaviour and not refusals.
"""

import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

_ADMIN, _SQLITE = "SUITES_ADMIN", "sqlite:///"
_TABLES = (
    *("model_version_tags", "registered_model_tags", "registered_model_aliases", "model_versions"),
    *("registered_models", "webhook_events", "webhooks"),
    *("greenroom.audit", "greenroom.acting", "greenroom.unknown_names"),
)


def pytest_configure(config: pytest.Config) -> None:  # noqa: ARG001 - pytest's name
    """Put the guarded store where MLflow's tests look for MLflow's."""
    from mlflow.server import handlers  # noqa: PLC0415 - a plugin is loaded before MLflow may be
    from mlflow.store.model_registry import sqlalchemy_store  # noqa: PLC0415
    from mlflow.tracking._model_registry import utils  # noqa: PLC0415

    from registry.server.guarded_store import GuardedStore  # noqa: PLC0415

    class Guarded(GuardedStore):
        """The store of a test, whichever database the test would have had."""

        def __init__(self, db_uri: str | None = None) -> None:
            super().__init__()
            if db_uri and db_uri.startswith(_SQLITE):
                Path(db_uri.removeprefix(_SQLITE)).touch()  # a fixture copies the file that there would be

    if os.environ["SUITES_MODE"] == "granted":
        _grant(GuardedStore)
    sqlalchemy_store.SqlAlchemyStore = Guarded
    initialize = handlers.initialize_backend_stores

    def guarded(backend: Any = None, registry: Any = None, *_: Any, **options: Any) -> None:  # noqa: ARG001
        options.pop("registry_store_uri", None)
        initialize(backend, registry_store_uri="greenroom://", **options)
        # The server's store, which these tests run in their own process, is not the clients'.
        utils.set_registry_uri("")

    handlers.initialize_backend_stores = guarded
    for module in list(sys.modules.values()):
        if getattr(module, "initialize_backend_stores", None) is initialize:
            module.initialize_backend_stores = guarded  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _empty_registry() -> None:
    for attempt in range(5):
        try:
            with _admin() as connection, connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE {', '.join(_TABLES)} CASCADE")
                cursor.execute("UPDATE greenroom.head SET id = 0, hash = ''")
        except psycopg2.errors.DeadlockDetected:  # a request of the test before may still be at work
            if attempt == 4:
                raise
        else:
            return


def _admin() -> Any:
    """Connect as the superuser, for whom no trigger fires."""
    return psycopg2.connect(os.environ[_ADMIN], options="-c session_replication_role=replica")


def _grant(store: Any) -> None:
    from registry.names import EVIDENCE, GATED, Stage  # noqa: PLC0415
    from registry.server.judge import Decision  # noqa: PLC0415

    move, decide = store.transition_model_version_stage, store._decide

    def with_evidence(self: Any, name: str, version: Any, stage: str, archive_existing_versions: bool) -> Any:
        with _admin() as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO model_version_tags (workspace, name, version, key, value) "
                "SELECT 'default', %s, v.version, %s, %s FROM model_versions v "
                "WHERE v.name = %s AND v.version::text = %s "
                "ON CONFLICT (workspace, name, version, key) DO UPDATE SET value = excluded.value",
                (name, EVIDENCE, f"granted {uuid4().hex}", name, str(version)),
            )
        return move(self, name, version, stage, archive_existing_versions)

    def granted(self: Any, snapshot: Any, target: Any, who: Any) -> Any:
        if target not in GATED or who.rollback:
            return decide(self, snapshot, target, who)
        return Decision("promoted" if target is Stage.PRODUCTION else "staged", None, snapshot.evidence)

    store.transition_model_version_stage = with_evidence
    store._decide = granted
