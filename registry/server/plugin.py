"""The entry points that MLflow looks up: for `--registry-store-uri greenroom://`, and for PostgreSQL.

Every process that imports MLflow loads this module, clients too, so it imports nothing of weight.
"""

import os
import sys
from typing import Any

SCHEME = "greenroom"
# How `mlflow server` tells its workers which registry store they have, before they build their apps.
_REGISTRY_STORE = "_MLFLOW_SERVER_REGISTRY_STORE"

if os.environ.get(_REGISTRY_STORE, "").partition(":")[0] == SCHEME:
    try:
        from registry.server import database, route_guard
    except ImportError as error:
        # MLflow goes on without a plugin that raises this one.
        raise RuntimeError(f"Greenroom's guard cannot be loaded: {error}") from error
    route_guard.install()
    database.prefer_installed_driver()


def store(store_uri: str | None = None, tracking_uri: str | None = None) -> Any:  # noqa: ARG001 - MLflow's names
    """Return the guarded registry store. Its database is named by settings: a URI is shown to clients."""
    from registry.server.guarded_store import GuardedStore  # noqa: PLC0415

    return GuardedStore()


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """Return the tracking store on PostgreSQL: the guard's beside its registry, else MLflow's."""
    if _serves():
        from registry.server.tracking_store import GuardedTrackingStore  # noqa: PLC0415

        return GuardedTrackingStore(store_uri, artifact_uri)
    if "mlflow.server.handlers" in sys.modules:
        from mlflow.server.handlers import TrackingStoreRegistryWrapper  # noqa: PLC0415

        return TrackingStoreRegistryWrapper._get_sqlalchemy_store(store_uri, artifact_uri)
    from mlflow.tracking._tracking_service import utils  # noqa: PLC0415

    return utils._get_sqlalchemy_store(store_uri, artifact_uri)


def _serves() -> bool:
    """Whether this process is a server with the guard, or `mlflow server` that is about to start one."""
    import click  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    option = context.params.get("registry_store_uri") if context else None
    return any((uri or "").partition(":")[0] == SCHEME for uri in (option, os.environ.get(_REGISTRY_STORE)))
