"""API keys, if there are any. Only their hashes are known here.

A key is 256 random bits, so one round of SHA-256 keeps it safe: there is nothing to guess, and a slow hash
would cost every request more than its prediction.
"""

import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http_errors import respond
from serving.settings import ServingSettings

# Always open: what orchestrators ask, the docs and their files, and the way there. All else needs a key, so
# that a new route is shut until it is listed.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/static-offline-docs/"
_MESSAGE = (
    "This needs a valid API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`. The operator of "
    "the predictor makes one with `greenroom api-key NAME`."
)

Reason = Literal["no_key", "wrong_key"]


class RequireKey:
    """Plain ASGI: answers 401 to a request without a known key, and notes the name of a known key.

    The name is in the request's state as `api_key_name`; the key itself goes nowhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Mapping[str, bytes],
        shut: Callable[[str], bool],
        rejected: Callable[[Reason], None],
    ) -> None:
        """Guard the paths that `shut` says, for the holders of `keys`; tell `rejected` of the others."""
        self._app, self._shut, self._rejected = app, shut, rejected
        self._keys = tuple(keys.items())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] != "http" or not self._shut(scope["path"]):
            await self._app(scope, receive, send)
            return
        keys = _keys_of(scope["headers"])
        if name := self._holder(keys):
            scope.setdefault("state", {})["api_key_name"] = name
            await self._app(scope, receive, send)
            return
        self._rejected("wrong_key" if keys else "no_key")
        # The same answer whether a key is missing or wrong: there is nothing to learn from it.
        answer = respond(
            401, "unauthorized", _MESSAGE, headers={"WWW-Authenticate": 'Bearer realm="greenroom"'}
        )
        await answer(scope, receive, send)

    def _holder(self, keys: list[bytes]) -> str | None:
        holder = None
        for key in keys:
            digest = sha256(key).digest()
            for name, known in self._keys:  # every one, so that time tells nothing of its place
                if hmac.compare_digest(digest, known):
                    holder = name
        return holder


def shut_paths(settings: ServingSettings) -> Callable[[str], bool]:
    """Return the function that tells whether a path needs a key."""
    keys, metrics = bool(settings.api_keys), settings.metrics_shut

    def shut(path: str) -> bool:
        if path == "/metrics":
            return metrics
        return keys and path not in _OPEN and not path.startswith(_OPEN_FOLDER)

    return shut


def document(shut: Callable[[str], bool]) -> Callable[[dict[str, Any]], None]:
    """Return what says on an OpenAPI page how to bring a key, so that the docs page asks for it."""

    def change(page: dict[str, Any]) -> None:
        page.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, item in page["paths"].items():
            for operation in item.values() if shut(path) else ():
                operation["security"] = [{"bearer": []}, {"header": []}]
                operation["responses"]["401"] = {"description": "The API key is missing or wrong."}

    return change


def _keys_of(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the keys that a request brings; an Authorization of another kind is none of ours."""
    keys = []
    for name, value in headers:
        if name == b"x-api-key":
            keys.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            keys.append(value[7:].strip())
    return [key for key in keys if key]
