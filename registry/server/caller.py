"""Who is asking, why, and what for: read from the HTTP request that MLflow's server is answering.

Stock MLflow clients send none of the headers below; then the caller is the user of the login, or unknown.
"""

from dataclasses import dataclass
from urllib.parse import unquote

import flask

from registry.names import ACTION_HEADER, ACTOR_HEADER, REASON_HEADER, ROLLBACK

_MAX_NAME = 200
_MAX_REASON = 2_000


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `proven` tells a name that MLflow's login vouches for from one that is claimed."""

    actor: str
    proven: bool
    address: str | None
    reason: str | None
    rollback: bool = False


def caller() -> Caller:
    """Return who sent the request that is being answered; outside of one, nobody is proven."""
    if not flask.has_request_context():
        return Caller("(inside the server)", proven=False, address=None, reason=None)
    request = flask.request
    user = getattr(flask.g, "mlflow_authenticated_user", None)
    claimed = _text(request.headers.get(ACTOR_HEADER), _MAX_NAME)
    return Caller(
        actor=str(user) if user else claimed or "(unknown)",
        proven=bool(user),
        address=request.remote_addr,
        reason=_text(request.headers.get(REASON_HEADER), _MAX_REASON),
        rollback=request.headers.get(ACTION_HEADER, "").lower() == ROLLBACK,
    )


def _text(value: str | None, longest: int) -> str | None:
    """Return a header's text, percent-decoded, on one line and so long at most."""
    if not value:
        return None
    decoded = "".join(char if char.isprintable() else " " for char in unquote(value[: longest * 3]))
    return decoded[:longest].strip() or None
