"""Headers that cost nothing and close doors in browsers."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_NO_STORE = (b"cache-control", b"no-store")
_POLICY = (*_ALWAYS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
# The docs page runs one inline script and loads the rest from here, so that it works without internet.
_DOCS_POLICY = (
    *_ALWAYS,
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
    ),
)
_OURS = frozenset(name for name, _ in (*_POLICY, _NO_STORE))


class SecurityHeaders:
    """Plain ASGI, because Starlette's helper for middleware costs a task per request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = _DOCS_POLICY if scope["path"].startswith("/docs") else _POLICY

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                names = {name for name, _ in headers}
                if not names.isdisjoint(_OURS):
                    headers = [header for header in headers if header[0] not in _OURS]
                # An answer holds for its moment; only files, which have an ETag, may be kept.
                message["headers"] = [*headers, *(() if b"etag" in names else (_NO_STORE,)), *policy]
            await send(message)

        await self._app(scope, receive, add)
