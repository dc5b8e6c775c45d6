"""Which routes MLflow's server answers. What is not in the table is refused, also what a later MLflow adds.

The table is data; docs/tracking-server.md shows it to people. Paths are written as Flask writes them. A path
that does not begin with a slash stands for two, under `/api/` (clients) and under `/ajax-api/` (MLflow's UI).
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from urllib.parse import urlsplit

_PARAMETER = re.compile(r"<(path:)?\w+>")
# As MLflow has it: probes know no name for the server.
_FOR_PROBES = ("/health", "/version")
_ARTIFACTS = "mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class RouteGroup:
    """Routes that are open for the same reason: what they are, who needs them, `METHOD path` each."""

    name: str
    needed_by: str
    lines: tuple[str, ...]

    @cached_property
    def routes(self) -> frozenset[tuple[str, str]]:
        """The routes, as method and path."""
        return frozenset(route for line in self.lines for route in _expanded(line))


def _expanded(line: str) -> Iterator[tuple[str, str]]:
    method, path = line.split(" ")
    paths = [path] if path.startswith("/") else [f"/api/{path}", f"/ajax-api/{path}"]
    yield from ((method, path) for path in paths)


def _lines(method: str, folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{method} {folder}{name}" for name in names)


_CLIENTS_UI_GREENROOM = "MLflow's clients, its UI, Greenroom"
_CLIENTS_UI = "MLflow's clients, its UI"

OPEN = (
    RouteGroup("Pages", "MLflow's UI", ("GET /", "GET /static-files/<path:path>")),
    RouteGroup(
        "Health, version, features",
        "probes, MLflow's clients, its UI",
        ("GET /health", "GET /version", "GET 3.0/mlflow/server-info"),
    ),
    RouteGroup(
        "Experiments",
        _CLIENTS_UI_GREENROOM,
        (
            *_lines("GET", "2.0/mlflow/experiments/", "get", "get-by-name", "search"),
            *_lines("POST", "2.0/mlflow/experiments/", "create", "delete", "restore", "search", "update"),
            *_lines("POST", "2.0/mlflow/experiments/", "set-experiment-tag", "delete-experiment-tag"),
            "POST /ajax-api/2.0/mlflow/experiments/search-datasets",
        ),
    ),
    RouteGroup(
        "Runs",
        _CLIENTS_UI_GREENROOM,
        (
            "GET 2.0/mlflow/runs/get",
            *_lines("POST", "2.0/mlflow/runs/", "create", "delete", "restore", "search", "update"),
            *_lines("POST", "2.0/mlflow/runs/", "set-tag", "delete-tag", "log-batch", "log-inputs"),
            *_lines("POST", "2.0/mlflow/runs/", "log-metric", "log-model", "log-parameter", "outputs"),
        ),
    ),
    RouteGroup(
        "Metrics",
        _CLIENTS_UI,
        (
            "GET 2.0/mlflow/metrics/get-history",
            "GET 2.0/mlflow/metrics/get-history-bulk-interval",
            "GET /ajax-api/2.0/mlflow/metrics/get-history-bulk",
        ),
    ),
    RouteGroup("Queries of the UI", "MLflow's UI", ("GET /graphql", "POST /graphql")),
    RouteGroup(
        "Logged models",
        _CLIENTS_UI_GREENROOM,
        (
            "POST 2.0/mlflow/logged-models",
            "POST 2.0/mlflow/logged-models/search",
            *(f"{method} 2.0/mlflow/logged-models/<model_id>" for method in ("GET", "PATCH", "DELETE")),
            "POST 2.0/mlflow/logged-models/<model_id>/params",
            "PATCH 2.0/mlflow/logged-models/<model_id>/tags",
            "DELETE 2.0/mlflow/logged-models/<model_id>/tags/<tag_key>",
            "GET 2.0/mlflow/logged-models/<model_id>/artifacts/directories",
            "GET /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files",
        ),
    ),
    RouteGroup(
        "Registered models",
        _CLIENTS_UI_GREENROOM,
        (
            *_lines("GET", "2.0/mlflow/registered-models/", "get", "get-latest-versions", "search"),
            *_lines("POST", "2.0/mlflow/registered-models/", "create", "get-latest-versions", "rename"),
            "POST 2.0/mlflow/registered-models/set-tag",
            "PATCH 2.0/mlflow/registered-models/update",
            *_lines("DELETE", "2.0/mlflow/registered-models/", "delete", "delete-tag"),
            *(f"{method} 2.0/mlflow/registered-models/alias" for method in ("GET", "POST", "DELETE")),
        ),
    ),
    RouteGroup(
        "Model versions",
        _CLIENTS_UI_GREENROOM,
        (
            *_lines("GET", "2.0/mlflow/model-versions/", "get", "get-download-uri", "search"),
            *_lines("POST", "2.0/mlflow/model-versions/", "create", "set-tag", "transition-stage"),
            "PATCH 2.0/mlflow/model-versions/update",
            *_lines("DELETE", "2.0/mlflow/model-versions/", "delete", "delete-tag"),
        ),
    ),
    RouteGroup(
        "Artifacts",
        _CLIENTS_UI_GREENROOM,
        (
            "GET 2.0/mlflow/artifacts/list",
            f"GET 2.0/{_ARTIFACTS}",
            *(f"{method} 2.0/{_ARTIFACTS}/<path:artifact_path>" for method in ("GET", "PUT", "DELETE")),
            "GET 2.0/mlflow-artifacts/presigned/<path:artifact_path>",
            *_lines(
                "POST",
                "2.0/mlflow-artifacts/mpu/",
                *(f"{verb}/<path:artifact_path>" for verb in ("create", "complete", "abort")),
            ),
            "GET /get-artifact",
            "GET /model-versions/get-artifact",
        ),
    ),
    RouteGroup(
        "Traces",
        _CLIENTS_UI,
        (
            "POST /v1/traces",
            *(f"{method} 2.0/mlflow/traces" for method in ("GET", "POST")),
            "PATCH 2.0/mlflow/traces/<request_id>",
            "GET 2.0/mlflow/traces/<request_id>/info",
            *(f"{method} 2.0/mlflow/traces/<request_id>/tags" for method in ("PATCH", "DELETE")),
            *_lines("POST", "2.0/mlflow/traces/", "delete-traces", "link-prompts", "link-to-run"),
            *_lines("GET", "3.0/mlflow/traces/", "<trace_id>", "batchGet", "get"),
            "POST 3.0/mlflow/traces",
            *_lines("POST", "3.0/mlflow/traces/", "batchGetInfos", "delete-traces", "metrics", "search"),
            "POST 3.0/mlflow/traces/calculate-filter-correlation",
            *(f"{method} 3.0/mlflow/traces/<trace_id>/tags" for method in ("PATCH", "DELETE")),
            "POST 3.0/mlflow/traces/<trace_id>/assessments",
            *(
                f"{method} 3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>"
                for method in ("GET", "PATCH", "DELETE")
            ),
            "GET /ajax-api/2.0/mlflow/get-trace-artifact",
            "GET /ajax-api/3.0/mlflow/get-trace-artifact",
        ),
    ),
    RouteGroup(
        "Webhooks",
        _CLIENTS_UI,
        (
            *(f"{method} 2.0/mlflow/webhooks" for method in ("GET", "POST")),
            *(f"{method} 2.0/mlflow/webhooks/<webhook_id>" for method in ("GET", "PATCH", "DELETE")),
            "POST 2.0/mlflow/webhooks/<webhook_id>/test",
        ),
    ),
    RouteGroup(
        "Accounts (with basic-auth)",
        "administrators, Greenroom's set-up of a stack of containers",
        (
            "GET /signup",
            "POST /api/2.0/mlflow/users/create-ui",
            "POST 2.0/mlflow/users/create",
            *_lines("GET", "2.0/mlflow/users/", "get", "list", "current"),
            *_lines("PATCH", "2.0/mlflow/users/", "update-password", "update-admin"),
            "DELETE 2.0/mlflow/users/delete",
            "GET 3.0/mlflow/users/current/permissions",
            *_lines("GET", "3.0/mlflow/users/permissions/", "get", "list"),
            *_lines("POST", "3.0/mlflow/users/permissions/", "grant", "revoke"),
            "GET 3.0/mlflow/users/roles/list",
            *_lines("GET", "3.0/mlflow/roles/", "get", "list", "permissions/list", "users/list"),
            *_lines("POST", "3.0/mlflow/roles/", "create", "assign", "permissions/add"),
            *_lines("PATCH", "3.0/mlflow/roles/", "update", "permissions/update"),
            *_lines("DELETE", "3.0/mlflow/roles/", "delete", "unassign", "permissions/remove"),
        ),
    ),
)


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: HTTP status, MLflow's error code, a sentence."""

    status: int
    code: str
    sentence: str

    @property
    def body(self) -> dict[str, str]:
        """The JSON that MLflow's clients and UI show."""
        return {"error_code": self.code, "message": self.sentence}


def refusal(method: str, path: str, host: str | None, origin: str | None) -> Refusal | None:
    """Return why a request is refused, or None.

    `path` is percent-decoded, as the server's router sees it.
    """
    if path.removeprefix(_prefix()) not in _FOR_PROBES and not _known_host(host or ""):
        return Refusal(
            403,
            "PERMISSION_DENIED",
            "This server does not answer under that name: a web page may have pointed its own name here. "
            "MLFLOW_SERVER_ALLOWED_HOSTS lists the names that it has.",
        )
    if origin and not _known_origin(origin, host or ""):
        return Refusal(
            403,
            "PERMISSION_DENIED",
            "A web page from elsewhere sent this request, and MLflow's own pages alone may. "
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS lists the others.",
        )
    return None if is_open(method, path) else closed(method, path)


def closed(method: str, path: str) -> Refusal:
    """Return the refusal of a route that is not in the table."""
    return Refusal(
        404,
        "ENDPOINT_NOT_FOUND",
        f"This server does not answer {method[:10]} {path[:200]}: it is not among the routes that Greenroom "
        "opens (docs/tracking-server.md).",
    )


def is_open(method: str, path: str) -> bool:
    """Whether a request's method and path are those of an open route."""
    wanted = {"HEAD": "GET"}.get(method, method)
    rest = path.removeprefix(_prefix())
    # MLflow has its streamed artifacts without the prefix.
    paths = {rest} | ({path} if f"/2.0/{_ARTIFACTS}/" in path else set())
    return any(
        (wanted in (route, "OPTIONS")) and pattern.fullmatch(candidate)
        for route, pattern in _patterns()
        for candidate in paths
    )


def is_open_rule(method: str, rule: str) -> bool:
    """Whether a route, as Flask writes its path, is in the table; parameters by their very names."""
    wanted = {"HEAD": "GET"}.get(method, method)
    rest = rule.removeprefix(_prefix())
    return any(wanted in (route, "OPTIONS") and rest == path for route, path in open_routes())


@cache
def open_routes() -> frozenset[tuple[str, str]]:
    """Return every open route, as method and path."""
    return frozenset().union(*(group.routes for group in OPEN))


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((method, _pattern(path)) for method, path in sorted(open_routes()))


def _pattern(path: str) -> re.Pattern[str]:
    parts, end = [], 0
    for parameter in _PARAMETER.finditer(path):
        parts += [re.escape(path[end : parameter.start()]), ".+" if parameter[1] else "[^/]+"]
        end = parameter.end()
    return re.compile("".join([*parts, re.escape(path[end:])]), re.DOTALL)


def _prefix() -> str:
    # `mlflow server --static-prefix`.
    return os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")


def _known_host(host: str) -> bool:
    """Whether a Host is one of this machine's; a list of names is for MLflow's own check.

    MLflow's default takes whatever begins like a private address, 10.example.org too.
    """
    if os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_private or address.is_loopback


def _known_origin(origin: str, host: str) -> bool:
    allowed = os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "").split(",")
    if any(fnmatchcase(origin, entry.strip()) for entry in allowed):
        return True
    return origin in {f"http://{host}", f"https://{host}"}
