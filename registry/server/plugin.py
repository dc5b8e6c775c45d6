"""The entry point that MLflow looks up for `--registry-store-uri greenroom://`.

Every process that imports MLflow loads this module, clients too, so it imports nothing of weight.
"""

from typing import Any


def store(store_uri: str | None = None, tracking_uri: str | None = None) -> Any:  # noqa: ARG001 - MLflow's names
    """Return the guarded registry store. Its database is named by settings: a URI is shown to clients."""
    from registry.server.guarded_store import GuardedStore  # noqa: PLC0415

    return GuardedStore()
