"""What MLflow's server answers: every route of the installed MLflow is opened by name, or refused."""

import json
import re
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from registry.server import routes
from tests.conftest import ROOT, Stack
from tests.registry.support.sites import Site
from tests.registry.support.tracking_server import refused_start, tracking_server
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "tracking-server.md"
# Prints every route of MLflow's apps, with those that basic-auth adds, from a process without the guard.
LIST_ROUTES = """
import json, os
os.environ |= {"MLFLOW_BACKEND_STORE_URI": "sqlite://", "_MLFLOW_SGI_NAME": "uvicorn"}
os.environ |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "x", "MLFLOW_AUTH_ADMIN_PASSWORD": "long-enough-1"}
from mlflow.server import app, auth
auth._init_store_for_app = lambda: None
def walk(found, prefix=""):
    for route in found:
        if hasattr(route, "original_router"):
            yield from walk(route.original_router.routes, prefix + route.include_context.prefix)
        elif hasattr(route, "path") and getattr(route, "methods", None):
            for method in route.methods:
                yield method, prefix + route.path
native = auth.create_app()
listed = [["native", *route] for route in walk(native.routes)]
for rule in app.url_map.iter_rules():
    listed += [["flask", method, rule.rule] for method in rule.methods - {"HEAD", "OPTIONS"}]
print("ROUTES" + json.dumps(listed))
"""


@pytest.fixture(scope="module")
def installed() -> set[tuple[str, str]]:
    done = subprocess.run(
        [str(warm_python()), "-c", LIST_ROUTES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    listed = json.loads(done.stdout.partition("ROUTES")[2])
    assert {kind for kind, _, _ in listed} == {"native", "flask"}
    return {(method, re.sub(r"{(\w+)(:path)?}", _as_flask, path)) for _, method, path in listed}


def _as_flask(parameter: re.Match[str]) -> str:
    return f"<path:{parameter[1]}>" if parameter[2] else f"<{parameter[1]}>"


def example(path: str) -> str:
    return re.sub(r"<\w+>", "x1", re.sub(r"<path:\w+>", "x1/y2", path))


def send(url: str, method: str, path: str, **headers: str) -> httpx.Response:
    return httpx.request(method, url + path, headers=headers, timeout=30, trust_env=False)


def test_the_table_opens_what_exists_alone(installed: set[tuple[str, str]]) -> None:
    assert routes.open_routes() - installed == set()
    for kind in ("assistant", "gateway", "jobs", "scorer/invoke", "webhooks", "mcp-servers", "demo"):
        assert [path for _, path in installed if kind in path], f"MLflow has no {kind} any more"


def test_every_other_route_of_mlflow_is_refused(stack: Stack, installed: set[tuple[str, str]]) -> None:
    closed = installed - routes.open_routes()
    assert len(closed) > 150
    with httpx.Client(base_url=stack.tracking_url, timeout=30, trust_env=False) as client:
        for method, path in sorted(closed):
            answer = client.request(method, example(path), json={})
            assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"
            assert answer.json()["error_code"] == "ENDPOINT_NOT_FOUND", f"{method} {path}: {answer.text}"
            assert "docs/tracking-server.md" in answer.json()["message"]


def test_every_open_route_passes(installed: set[tuple[str, str]]) -> None:
    for method, path in routes.open_routes():
        assert routes.is_open(method, example(path)), f"{method} {path}"
        assert routes.is_open_rule(method, path)


ASSISTANT = "/ajax-api/3.0/mlflow/assistant/config"


@pytest.mark.parametrize(
    "path",
    [
        ASSISTANT,
        ASSISTANT + "/",
        "/" + ASSISTANT,
        ASSISTANT.replace("assistant", "%61ssistant"),
        ASSISTANT.replace("/mlflow/", "//mlflow/"),
        "/health/.." + ASSISTANT,
        "/health/%2e%2e" + ASSISTANT,
        "/api/3.0/mlflow/traces/..%2f..%2f..%2f.." + ASSISTANT,
        "/AJAX-API/3.0/mlflow/assistant/config",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/build/index.html",
        "/new/in/some/release",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_no_writing_of_a_path_gets_round_the_table(stack: Stack, method: str, path: str) -> None:
    # Sent as it is written: httpx would tidy it.
    with socket.create_connection(("127.0.0.1", stack.ports["MLFLOW"]), timeout=30) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{stack.ports['MLFLOW']}\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404 "), answer[:300]


def test_a_method_that_is_not_listed_is_refused(stack: Stack) -> None:
    for method in ("DELETE", "PATCH", "PUT", "TRACE"):
        assert send(stack.tracking_url, method, "/api/2.0/mlflow/experiments/get").status_code == 404


# Whose page asks


@pytest.mark.parametrize(
    "host", ["evil.example", "10.evil.example", "192.168.evil.example", "127.0.0.1.evil.example", "mlflow"]
)
def test_another_name_of_the_server_is_refused(stack: Stack, host: str) -> None:
    answer = send(stack.tracking_url, "GET", "/api/3.0/mlflow/server-info", Host=host)
    assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:1", "http://localhost:1", "null"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_from_elsewhere_is_refused(stack: Stack, origin: str, method: str) -> None:
    for path in ("/api/2.0/mlflow/experiments/search", "/graphql", "/"):
        answer = send(stack.tracking_url, method, path, Origin=origin)
        assert answer.status_code == 403, f"{path}: {answer.text}"
        assert answer.headers.get("access-control-allow-origin") != "*"


def test_mlflows_own_pages_are_answered(stack: Stack) -> None:
    for url in (stack.tracking_url, stack.tracking_url.replace("127.0.0.1", "localhost")):
        answer = send(url, "GET", "/api/2.0/mlflow/experiments/search?max_results=1", Origin=url)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("variable", "value", "names"),
    [
        ("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true", "--disable-security-middleware"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*", "--allowed-hosts"),
        ("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "*", "--cors-allowed-origins"),
    ],
)
def test_a_server_without_these_checks_does_not_start(
    tmp_path: Path, variable: str, value: str, names: str
) -> None:
    code, log = refused_start(
        tmp_path, {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/x.db", variable: value}
    )
    assert code != 0
    assert names in log


# Whichever way it is started


@pytest.mark.parametrize(
    "arguments", [(), ("--gunicorn-opts", "--log-level error")], ids=["uvicorn", "gunicorn"]
)
def test_the_table_comes_with_the_registry_store(
    tmp_path: Path, guarded: Site, arguments: tuple[str, ...]
) -> None:
    env = guarded.variables(tmp_path, guarded.app)
    with tracking_server(tmp_path, env, arguments) as url:
        assert send(url, "GET", "/api/2.0/mlflow/experiments/search?max_results=1").is_success
        for path in ("/gateway/mlflow/v1/models", "/ajax-api/3.0/mlflow/gateway/secrets/list", ASSISTANT):
            assert send(url, "GET", path).status_code == 404


def test_a_prefix_is_part_of_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MLFLOW_STATIC_PREFIX", "/music/")
    assert routes.is_open("GET", "/music/health")
    assert routes.is_open_rule("GET", "/music/api/2.0/mlflow/runs/get")
    # As MLflow has it: streamed artifacts have no prefix.
    assert routes.is_open("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/x")
    assert not routes.is_open("GET", "/music" + ASSISTANT)
    assert not routes.is_open("GET", "/elsewhere/health")


# The page


def test_the_page_lists_the_table() -> None:
    page = PAGE.read_text()
    for group in routes.OPEN:
        row = f"| {group.name} | {group.needed_by} | {', '.join(f'`{line}`' for line in group.lines)} |"
        assert row in page, f"{PAGE} needs this row:\n{row}"
    listing = [line for line in page.splitlines() if re.search(r"\| `(GET|POST|PUT|PATCH|DELETE) ", line)]
    assert len(listing) == len(routes.OPEN)
