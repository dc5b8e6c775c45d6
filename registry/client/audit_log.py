"""The audit as the tracking server hands it out: read through MLflow's own API, page by page."""

from collections.abc import Iterator

from registry.audit import ALIAS_PREFIX, CHAIN, HISTORY, PAGE, AuditEntry, AuditLink, read
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError, RegistryRefusedError


def history(client: TrackingClient, model: str) -> list[AuditEntry]:
    """Return a model's rows, oldest first.

    Raises `RegistryRefusedError` when the tracking server has no guard, which is who keeps the audit.
    """
    return [read(text) for text in history_texts(client, model).values()]


def history_texts(client: TrackingClient, model: str) -> dict[int, str]:
    """Return a model's rows as they were written, by number."""
    return dict(_pages(client, model, HISTORY))


def chain(client: TrackingClient, model: str, after: int = 0) -> list[AuditLink]:
    """Return the chain's links after a row, of all models; `model` is one that the caller may read."""
    return [AuditLink.model_validate_json(text) for _, text in _pages(client, model, CHAIN, after)]


def require_guard(client: TrackingClient, model: str) -> None:
    """Raise `RegistryRefusedError` unless the tracking server guards its registry."""
    next(_pages(client, model, HISTORY), None)


def _pages(client: TrackingClient, model: str, kind: str, after: int = 0) -> Iterator[tuple[int, str]]:
    while True:
        try:
            answer = client.get(
                "registered-models/alias", {"name": model, "alias": f"{ALIAS_PREFIX}{kind}-{after}"}
            )
            version = client.require(answer, "model_version")
        except (NotFoundError, RegistryRefusedError) as error:
            if "alias" in str(error).lower() or isinstance(error, NotFoundError):
                raise RegistryRefusedError(
                    f"The tracking server at {client.url} has no guard: it would let anyone promote "
                    "anything. Start it with Greenroom's registry store (docs/promotion.md). "
                    f"It said: {error}"
                ) from error
            raise
        page = [(int(tag["key"]), str(tag.get("value", ""))) for tag in version.get("tags", [])]
        yield from sorted(page)
        if len(page) < PAGE:
            return
        after = max(number for number, _ in page)
