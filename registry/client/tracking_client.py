"""MLflow's public REST API, the part that this project needs.

Why not `mlflow.MlflowClient`: it imports pandas and takes seconds, and the predictor and the command line
stand on this module (docs/decisions/002-rest-client.md).
"""

from collections.abc import Iterator, Mapping
from getpass import getuser
from socket import gethostname
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from registry.errors import (
    NotFoundError,
    RegistryRefusedError,
    RegistryUnavailableError,
    TooLargeError,
)
from registry.names import ACTOR_HEADER
from registry.settings import RegistrySettings

# Seconds that one answer may take. A model file of 100 MiB comes in pieces, each of which has so long.
TIMEOUT = 30.0
_API = "/api/2.0/mlflow/"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
# How the guard's refusals begin (registry/server/guarded_store.py).
_GUARD = "Greenroom refused: "
_NOT_MLFLOW = "{url} does not answer like an MLflow server. Check GREENROOM_TRACKING_URI."


class TrackingClient:
    """A connection to one tracking server.

    Every method raises `RegistryUnavailableError` when the server does not answer or fails,
    `NotFoundError` for what it does not have, and `RegistryRefusedError` for any other refusal.
    """

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        settings = settings or RegistrySettings()
        auth = None
        if settings.tracking_username:
            auth = httpx.BasicAuth(settings.tracking_username, settings.tracking_password.get_secret_value())
        try:
            base = httpx.URL(settings.tracking_url)
            self._http = httpx.Client(
                base_url=base,
                auth=auth,
                timeout=TIMEOUT,
                headers={ACTOR_HEADER: quote(_me())},
            )
        except httpx.InvalidURL as error:
            raise RegistryUnavailableError(
                f"GREENROOM_TRACKING_URI is not a web address ({error}); it looks like http://127.0.0.1:5000."
            ) from error
        # For messages: credentials that someone put into the address stay out of them.
        self.url = str(base.copy_with(userinfo=b""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """GET one of MLflow's REST endpoints, such as `model-versions/get`, and return its answer."""
        return self._json(self._send("GET", _API + path, params=params))

    def require(self, answer: Mapping[str, Any], key: str) -> Any:
        """Return what an answer holds under `key`; an MLflow server always sends it."""
        if key not in answer:
            raise RegistryUnavailableError(_NOT_MLFLOW.format(url=self.url))
        return answer[key]

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """POST to one of MLflow's REST endpoints and return its answer.

        `headers` are Greenroom's own (registry/names.py), in plain text.
        """
        encoded = {name: quote(value) for name, value in (headers or {}).items()}
        return self._json(self._send("POST", _API + path, json=body, headers=encoded))

    def pages(self, path: str, params: Mapping[str, str | int], key: str) -> Iterator[dict[str, Any]]:
        """Yield the items under `key` of every page of a search."""
        query = dict(params)
        while True:
            page = self.get(path, query)
            yield from page.get(key, [])
            token = page.get("next_page_token")
            if not token:
                return
            query["page_token"] = token

    def artifact(self, uri: str, path: str, *, max_bytes: int | None = None) -> bytes:
        """Return the bytes of `path` under an artifact URI such as `mlflow-artifacts:/1/RUN/artifacts`.

        Raises `TooLargeError` when there are more than `max_bytes`, without holding more than that.
        """
        root = _proxied(uri)
        try:
            return self._send("GET", f"{_ARTIFACTS}/{quote(f'{root}/{path}')}", max_bytes=max_bytes).content
        except RegistryUnavailableError:
            # On S3 the server reports a missing file as a failure of its own (500); the listing tells.
            if self._lists(root, path):
                raise
        raise NotFoundError(f"There is no artifact {path} under {uri}.")

    def artifact_paths(self, uri: str) -> list[str]:
        """Return the path of every file under an artifact URI, relative to it."""
        root, folders = _proxied(uri), [""]
        paths: list[str] = []
        while folders:
            folder = folders.pop()
            answer = self._json(
                self._send("GET", _ARTIFACTS, params={"path": f"{root}/{folder}".rstrip("/")})
            )
            for file in answer.get("files", []):
                path = f"{folder}/{str(file['path']).rpartition('/')[2]}".lstrip("/")
                (folders if file.get("is_dir") else paths).append(path)
        return sorted(paths)

    def put_artifact(self, uri: str, path: str, content: bytes) -> None:
        """Write `path` under an artifact URI."""
        self._send("PUT", f"{_ARTIFACTS}/{quote(f'{_proxied(uri)}/{path}')}", content=content)

    def _lists(self, root: str, path: str) -> bool:
        folder, _, name = f"{root}/{path}".rpartition("/")
        listing = self._json(self._send("GET", _ARTIFACTS, params={"path": folder}))
        return any(str(file.get("path", "")).rpartition("/")[2] == name for file in listing.get("files", []))

    def _send(
        self, method: str, path: str, *, max_bytes: int | None = None, **options: Any
    ) -> httpx.Response:
        try:
            with self._http.stream(method, path, **options) as streamed:
                response = _read(streamed, max_bytes)
        except httpx.HTTPError as error:
            raise RegistryUnavailableError(
                f"The tracking server at {self.url} does not answer ({type(error).__name__}). "
                "Start the local stack with `make up`, or set GREENROOM_TRACKING_URI."
            ) from error
        if response.is_success:
            return response
        code, message = _mlflow_error(response)
        if code == "RESOURCE_DOES_NOT_EXIST" or (response.status_code == 404 and code):
            raise NotFoundError(message)
        if response.status_code == 404:  # without MLflow's error form: some other server, or an old one
            raise RegistryUnavailableError(_NOT_MLFLOW.format(url=self.url))
        if response.status_code >= 500 or response.status_code == 429:
            raise RegistryUnavailableError(
                f"The tracking server at {self.url} failed with status {response.status_code}.", message
            )
        if message.startswith(_GUARD):  # a sentence for people, as it is
            raise RegistryRefusedError(message)
        raise RegistryRefusedError(f"The tracking server refused ({response.status_code}): {message}")

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError as error:
            raise RegistryUnavailableError(_NOT_MLFLOW.format(url=self.url)) from error
        if not isinstance(answer, dict):
            raise RegistryUnavailableError(_NOT_MLFLOW.format(url=self.url))
        return answer


def _read(streamed: httpx.Response, max_bytes: int | None) -> httpx.Response:
    """Return an answer read whole, or raise `TooLargeError`; its length is not believed, but counted."""
    if max_bytes is None or not streamed.is_success:
        streamed.read()
        return streamed
    content = bytearray()
    for chunk in streamed.iter_bytes():
        content += chunk
        if len(content) > max_bytes:
            raise TooLargeError(f"The tracking server sends more than {max_bytes} bytes.")
    return httpx.Response(streamed.status_code, content=bytes(content))


def _me() -> str:
    """Return who runs this, as the machine knows it: a claim, which the server records as one."""
    try:
        return f"{getuser()}@{gethostname()}"
    except (OSError, KeyError):  # a container's user may have no name
        return gethostname()


def _proxied(uri: str) -> str:
    scheme, _, path = uri.partition(":")
    if scheme != "mlflow-artifacts":
        raise RegistryRefusedError(
            f"Artifacts are read through the tracking server, but {scheme}: is not proxied by it. "
            "Start the server with --serve-artifacts."
        )
    # `mlflow-artifacts://host:port/path` names a server; the path is the same on ours.
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return path.strip("/")


def _mlflow_error(response: httpx.Response) -> tuple[str, str]:
    try:
        body = response.json()
        return str(body["error_code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        return "", response.text.strip()[:300] or response.reason_phrase
