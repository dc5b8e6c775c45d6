"""Ways through the tracking server's HTTP: each change of what is served, in every writing of its request."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from bench.attack.target import LOCAL, LOGINS, NOBODY, WEB_PAGE, Answer, Target
from bench.attack.ways import Attempt, Body, Kind, Way, http
from registry.names import ACTION_HEADER, ACTOR_HEADER, EVIDENCE, GATE, REASON_HEADER

# Made-up accounts and passwords.
_WEAK = {"username": "eve", "password": "short"}  # pragma: allowlist secret
_STRONG = {"username": "eve", "password": "a-new-password-1"}  # pragma: allowlist secret
PREFIXES = ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
ROLLBACK = {ACTION_HEADER: "rollback", REASON_HEADER: "I say so"}


@dataclass(frozen=True)
class Change:
    """A request that would change what is served."""

    name: str
    method: str
    path: str
    body: Body
    headers: dict[str, str] | None = None


def _about(number: int | None = None, **more: Any) -> Body:
    def body(target: Target) -> dict[str, Any]:
        about = {"name": target.model, **({"version": str(number)} if number else {})}
        return {**about, **{k: v(target) if callable(v) else v for k, v in more.items()}}

    return body


def _version(**more: Any) -> Body:
    def body(target: Target) -> dict[str, Any]:
        about = {"source": target.places["source3"], "model_id": target.places["model3"]}
        return {
            "name": target.model,
            **about,
            **{k: v(target) if callable(v) else v for k, v in more.items()},
        }

    return body


def _place(name: str, place: str) -> Body:
    return lambda target: {name: target.places[place]}


_MOVE = "model-versions/transition-stage"
CHANGES = (
    Change("unjudged to Production", "POST", _MOVE, _about(3, stage="Production")),
    Change("unjudged to Staging", "POST", _MOVE, _about(3, stage="Staging")),
    Change("refused to Production", "POST", _MOVE, _about(4, stage="Production")),
    Change(
        "unjudged to Production, others archived",
        "POST",
        _MOVE,
        _about(3, stage="Production", archive_existing_versions=True),
    ),
    Change("rollback to what never was there", "POST", _MOVE, _about(3, stage="Production"), ROLLBACK),
    Change("rollback to Staging", "POST", _MOVE, _about(3, stage="Staging"), ROLLBACK),
    Change("alias of Production to another", "POST", "registered-models/alias", _about(3, alias="champion")),
    Change("alias of Production away", "DELETE", "registered-models/alias", _about(alias="champion")),
    Change("Production deleted", "DELETE", "model-versions/delete", _about(1)),
    Change("model deleted", "DELETE", "registered-models/delete", _about()),
    Change("model renamed", "POST", "registered-models/rename", _about(new_name="another")),
    Change("the gate's word set", "POST", "model-versions/set-tag", _about(3, key=GATE, value="passed")),
    Change(
        "evidence of another",
        "POST",
        "model-versions/set-tag",
        _about(3, key=EVIDENCE, value=lambda t: t.places["evidence1"]),
    ),
    Change("evidence deleted", "DELETE", "model-versions/delete-tag", _about(1, key=EVIDENCE)),
    Change(
        "created with evidence",
        "POST",
        "model-versions/create",
        _version(tags=lambda t: [{"key": EVIDENCE, "value": t.places["evidence1"]}]),
    ),
    Change(
        "model with the gate's word",
        "POST",
        "registered-models/create",
        lambda t: {"name": f"{t.model}-x", "tags": [{"key": GATE, "value": "passed"}]},
    ),
    Change(
        "hidden as a prompt",
        "POST",
        "registered-models/set-tag",
        _about(key="mlflow.prompt.is_prompt", value="true"),
    ),
    Change("run deleted", "POST", "runs/delete", _place("run_id", "run1")),
    Change("experiment deleted", "POST", "experiments/delete", _place("experiment_id", "experiment")),
)


def _spellings(path: str) -> dict[str, str]:
    """Return writings of a path below `/api` that some server somewhere takes for the path itself."""
    prefix, _, rest = path.rpartition("/mlflow/")
    room, verb = rest.split("/")
    return {
        "plain": path,
        "double slash": f"{prefix}//mlflow/{rest}",
        "double slash first": f"/{path}",
        "double slash last": f"{prefix}/mlflow/{room}//{verb}",
        "slash at the end": f"{path}/",
        "encoded dash": path.replace("-", "%2D"),
        "encoded letter": path.replace("mlflow", "%6dlflow"),
        "encoded slash": f"{prefix}/mlflow/{room}%2F{verb}",
        "doubly encoded slash": f"{prefix}/mlflow/{room}%252F{verb}",
        "doubly encoded dot": f"{prefix}/%252e/mlflow/{rest}",
        "dot": f"{prefix}/./mlflow/{rest}",
        "dots": f"{prefix}/mlflow/runs/../{rest}",
        "encoded dots": f"{prefix}/mlflow/runs/%2e%2e/{rest}",
        "upper case": path.upper(),
        "case of a letter": path.replace("mlflow", "MLflow"),
        "dot at the end": f"{path}.",
        "parameter": f"{path};x=1",
        "NUL at the end": f"{path}%00",
        "backslash": f"{prefix}/mlflow/{room}%5C{verb}",
        "as a file": f"/static-files/..{path}",
        "another version of the API": path.replace("/2.0/", "/3.0/"),
        "preview": path.replace("/2.0/", "/2.0/preview/"),
        "whole address": f"http://127.0.0.1{path}",
    }


def _route_ways() -> Iterator[Way]:
    for change in CHANGES:
        for prefix in PREFIXES:
            for spelling, path in _spellings(f"{prefix}/{change.path}").items():
                act = http(LOCAL, change.method, path, change.body, change.headers)
                yield Way("routes", LOCAL, f"{change.name}, {prefix.split('/')[1]}, {spelling}", act)


def _account_ways() -> Iterator[Way]:
    for account in LOGINS:
        for change in CHANGES:
            for prefix in PREFIXES:
                act = http(account, change.method, f"{prefix}/{change.path}", change.body, change.headers)
                yield Way("accounts", account, f"{change.name}, {prefix.split('/')[1]}", act)
        for actor in (ACTOR_HEADER, "Remote-User", "X-Remote-User", "X-Forwarded-User"):
            act = http(
                account, "POST", f"{PREFIXES[0]}/{_MOVE}", _about(3, stage="Production"), {actor: "olga"}
            )
            yield Way("accounts", account, f"says in {actor} to be the operator", act)
    for what, header in _FALSE_LOGINS.items():
        act = http(NOBODY, "POST", f"{PREFIXES[0]}/{_MOVE}", _about(3, stage="Production"), header)
        yield Way("accounts", NOBODY, f"login: {what}", act)
    for path, method, body in _RIGHTS:
        for account in LOGINS:
            yield Way("accounts", account, f"rights: {method} {path}", http(account, method, path, body))


_FALSE_LOGINS = {
    "wrong password": {"Authorization": "Basic b2xnYTp3cm9uZw=="},
    "no password": {"Authorization": "Basic b2xnYTo="},
    "no colon": {"Authorization": "Basic b2xnYQ=="},
    "no base64": {"Authorization": "Basic !!!"},
    "bearer": {"Authorization": "Bearer olga"},
    "empty": {"Authorization": ""},
    "cookie": {"Cookie": "session=eyJ1c2VyIjoib2xnYSJ9.x.y"},
    "proxy's header": {"Proxy-Authorization": "Basic b2xnYTpvbGdh"},
}


def _user(_: Target) -> dict[str, Any]:
    return {**_STRONG, "username": "emil", "is_admin": True}


def _grant(target: Target) -> dict[str, Any]:
    about = {"resource_type": "registered_model", "resource_id": target.model, "permission": "MANAGE"}
    return {"username": "nobody-yet", **about}


# What would give an account more rights, or another's password.
_RIGHTS: tuple[tuple[str, str, Body | None], ...] = (
    ("/api/2.0/mlflow/users/update-admin", "PATCH", _user),
    (
        "/api/2.0/mlflow/users/update-password",
        "PATCH",
        lambda _: {**_STRONG, "username": "admin"},
    ),
    (
        "/api/2.0/mlflow/users/create",
        "POST",
        lambda _: _WEAK,
    ),
    ("/api/2.0/mlflow/users/delete", "DELETE", lambda _: {"username": "admin"}),
    (
        "/api/2.0/mlflow/users/create-ui",
        "POST",
        lambda _: _STRONG,
    ),
    ("/api/3.0/mlflow/users/permissions/grant", "POST", _grant),
    ("/api/3.0/mlflow/roles/create", "POST", lambda _: {"name": "kings", "workspace": "default"}),
    ("/api/3.0/mlflow/roles/assign", "POST", lambda _: {"username": "emil", "role_id": 1}),
)


def _forms(body: dict[str, Any]) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return writings of a body, each with its headers."""
    plain = json.dumps(body)
    first = next(iter(body))
    kind = "Content-Type"
    json_type = {kind: "application/json"}
    doubled = {key: f'"{key}":"x","{key}":{json.dumps(value)}' for key, value in body.items()}
    escaped = "".join(f"\\u{ord(c):04x}" for c in first)
    camel = {
        "".join([p if i == 0 else p.title() for i, p in enumerate(k.split("_"))]): v for k, v in body.items()
    }
    return {
        **{
            f"key twice: {key}": (
                (
                    "{"
                    + ",".join([*(json.dumps({k: v})[1:-1] for k, v in body.items() if k != key), twice])
                    + "}"
                ).encode(),
                json_type,
            )
            for key, twice in doubled.items()
        },
        "camel case": (json.dumps(camel).encode(), json_type),
        "escaped key": (plain.replace(f'"{first}"', f'"{escaped}"').encode(), json_type),
        "text/plain": (plain.encode(), {kind: "text/plain"}),
        "with a charset": (plain.encode(), {kind: "application/json; charset=utf-8"}),
        "form": (urlencode(body).encode(), {kind: "application/x-www-form-urlencoded"}),
        "form that is JSON": (plain.encode(), {kind: "application/x-www-form-urlencoded"}),
        "multipart": (_multipart(body), {kind: "multipart/form-data; boundary=b"}),
        "UTF-16": (plain.encode("utf-16"), {kind: "application/json; charset=utf-16"}),
        "byte order mark": (b"\xef\xbb\xbf" + plain.encode(), json_type),
        "gzip": (gzip.compress(plain.encode()), {**json_type, "Content-Encoding": "gzip"}),
        "in a list": (f"[{plain}]".encode(), json_type),
        "as text": (json.dumps(plain).encode(), json_type),
        "with more after it": (f"{plain}{plain}".encode(), json_type),
        "with a comment": (f"/* */{plain}".encode(), json_type),
        "XML": (b"<name/>", {kind: "application/xml"}),
        "unknown fields": (json.dumps({**body, "workspace": "other", "force": True}).encode(), json_type),
        "no type": (plain.encode(), {kind: ""}),
    }


def _multipart(body: dict[str, Any]) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in body.items()]
    return ("".join(parts) + "--b--\r\n").encode()


# Of those changes whose body is one flat object.
_IN_FORMS = (
    "unjudged to Production",
    "alias of Production to another",
    "the gate's word set",
    "Production deleted",
    "model renamed",
    "run deleted",
)


def _body_ways() -> Iterator[Way]:
    for change in CHANGES:
        if change.name not in _IN_FORMS:
            continue
        for form in _forms({"name": "x", "version": "1"}):
            if not form.startswith("key twice"):
                yield Way("bodies", LOCAL, f"{change.name}, {form}", _in_form(change, form), harmless=True)
        for key in change.body(_NAMES):
            form = f"key twice: {key}"
            yield Way("bodies", LOCAL, f"{change.name}, {form}", _in_form(change, form))
        for mix in ("query", "query and body", "query says another", "method in the query"):
            yield Way("bodies", LOCAL, f"{change.name}, {mix}", _in_query(change, mix), harmless=True)
    for value in (
        "03",
        " 3",
        "3 ",
        "+3",
        "3.0",
        "٣",
        3,
        -3,
        3.0,
        None,
        True,
        [3],
        {"x": 3},
        "3\x00",
        "1e0",
        2**70,
    ):
        act = http(LOCAL, "POST", f"{PREFIXES[0]}/{_MOVE}", _about(3, version=value, stage="Production"))
        yield Way("bodies", LOCAL, f"number {value!r}", act)
    for stage in (
        "production",
        "PRODUCTION",
        " Production",
        "Production ",
        "Ｐroduction",
        "Produc\u200btion",
        "Deleted_Internal",
        "",
        None,
        2,
        ["Production"],
        "staging",
        "STAGING",
    ):
        act = http(LOCAL, "POST", f"{PREFIXES[0]}/{_MOVE}", _about(3, stage=stage))
        yield Way("bodies", LOCAL, f"stage {stage!r}", act)


# Names alone, to know which keys a body has.
_NAMES = Target(home=None, ports={})  # type: ignore[arg-type]
_NAMES.places = dict.fromkeys(("run1", "experiment", "source3", "model3", "evidence1"), "")


def _in_form(change: Change, form: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        content, headers = _forms(change.body(target))[form]
        return target.mlflow(LOCAL, change.method, f"{PREFIXES[0]}/{change.path}", content, headers)

    return act


def _in_query(change: Change, mix: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        body = change.body(target)
        other = dict.fromkeys(body, "x")
        path = f"{PREFIXES[0]}/{change.path}"
        if mix == "query":
            return target.mlflow(LOCAL, change.method, f"{path}?{urlencode(body)}")
        if mix == "query and body":
            return target.mlflow(LOCAL, change.method, f"{path}?{urlencode(body)}", body)
        if mix == "query says another":
            return target.mlflow(LOCAL, change.method, f"{path}?{urlencode(body)}", other)
        return target.mlflow(LOCAL, "GET", f"{path}?_method={change.method}&{urlencode(body)}", body)

    return act


_HEADERS: dict[str, dict[str, str]] = {
    **{
        f"{name}: {verb}": {name: verb}
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
        for verb in ("POST", "DELETE", "PATCH")
    },
    "X-Original-URL": {"X-Original-URL": f"{PREFIXES[0]}/{_MOVE}"},
    "X-Rewrite-URL": {"X-Rewrite-URL": f"{PREFIXES[0]}/{_MOVE}"},
    "X-Forwarded-Prefix": {"X-Forwarded-Prefix": "/x"},
    "X-Forwarded-Host": {"X-Forwarded-Host": "127.0.0.1"},
    "X-Script-Name": {"X-Script-Name": "/api"},
    "chunked and a length": {"Transfer-Encoding": "identity"},
    "Expect": {"Expect": "100-continue"},
    "Upgrade": {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"},
    "workspace": {"X-MLFLOW-WORKSPACE": "other"},
    "override": {ACTION_HEADER: "override", REASON_HEADER: "I say so"},
    "rollback without reason": {ACTION_HEADER: "rollback"},
    "another's name": {ACTOR_HEADER: "admin"},
}


def _header_ways() -> Iterator[Way]:
    for name, headers in _HEADERS.items():
        for method in ("GET", "POST"):
            act = http(LOCAL, method, f"{PREFIXES[0]}/{_MOVE}", _about(3, stage="Production"), headers)
            yield Way("headers", LOCAL, f"{name}, {method}", act)
        look = http(LOCAL, "GET", f"{PREFIXES[0]}/experiments/get?experiment_id=0", _about(1), headers)
        yield Way("headers", LOCAL, f"{name}, on a route that reads", look, harmless=True)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD", "post", "FOO"):
        act = http(LOCAL, method, f"{PREFIXES[0]}/{_MOVE}", _about(3, stage="Production"))
        yield Way("headers", LOCAL, f"method {method}", act, harmless=method == "OPTIONS")


# Routes that run commands, hold other people's keys, write runs, or send requests where they are told to.
CLOSED = (
    *(
        f"/ajax-api/3.0/mlflow/assistant/{p}"
        for p in (
            "config",
            "message",
            "stream",
            "skills/install",
            "providers/mlflow/health",
            "sessions/x/cancel",
        )
    ),
    *(
        f"/ajax-api/3.0/mlflow/gateway/{p}"
        for p in (
            "secrets/list",
            "secrets/create",
            "endpoints/list",
            "endpoints/create",
            "model-definitions/list",
            "supported-providers",
        )
    ),
    "/gateway/mlflow/v1/models",
    "/gateway/mlflow/v1/chat/completions",
    "/gateway/x/invocations",
    "/api/2.0/endpoints/",
    "/ajax-api/2.0/mlflow/gateway-proxy",
    *(f"/ajax-api/3.0/jobs{p}" for p in ("", "/", "/1", "/cancel/1", "/search")),
    *(f"/ajax-api/3.0/mlflow/scorers/{p}" for p in ("register", "list", "get", "versions", "delete")),
    "/ajax-api/3.0/mlflow/scorer/invoke",
    "/ajax-api/3.0/mlflow/genai/evaluate/invoke",
    "/ajax-api/3.0/mlflow/issues/invoke",
    "/ajax-api/3.0/mlflow/prompt-optimization/jobs",
    "/ajax-api/2.0/mlflow/upload-artifact",
    "/ajax-api/2.0/mlflow/runs/create-promptlab-run",
    "/ajax-api/3.0/mlflow/demo/generate",
    "/ajax-api/2.0/mlflow/artifacts/presigned-upload-url",
    "/api/2.0/mlflow/artifacts/presigned-download-url",
    "/ajax-api/3.0/mlflow/workspaces",
    "/api/3.0/mlflow/workspaces/other",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/redoc",
    "/build/index.html",
    "/ajax-api/3.0/mlflow/ui-telemetry",
    "/ajax-api/3.0/mlflow/mcp-servers",
    "/ajax-api/3.0/mlflow/datasets/create",
    "/console",
    "/_debug",
    "/api/2.0/preview/mlflow/runs/get",
    "/admin",
    "/shutdown",
    "/.env",
    "/proc/self/environ",
)


def _closed_ways() -> Iterator[Way]:
    for path in CLOSED:
        for method in ("GET", "POST", "PUT"):
            yield Way("closed routes", LOCAL, f"{method} {path}", http(LOCAL, method, path, lambda _: {}))
        for account in LOGINS:
            yield Way("closed routes", account, f"POST {path}", http(account, "POST", path, lambda _: {}))
    assistant = CLOSED[0]
    for spelling in (
        f"/health/..{assistant}",
        f"/health/%2e%2e{assistant}",
        f"/{assistant}",
        f"{assistant}/",
        f"{assistant}%00",
        assistant.upper(),
        assistant.replace("assistant", "%61ssistant"),
        f"/version;{assistant}",
        f"/health?{assistant}",
        f"/api/3.0/mlflow/traces/..%2f..%2f..%2f..{assistant}",
        f"/static-files/..%2f..{assistant}",
        f"/version{assistant}",
    ):
        harmless = spelling.startswith("/health?")
        yield Way("closed routes", LOCAL, f"POST {spelling}", http(LOCAL, "POST", spelling, lambda _: {}))
        yield Way("closed routes", LOCAL, f"GET {spelling}", http(LOCAL, "GET", spelling), harmless=harmless)


HOSTS = (
    "evil.example",
    "10.evil.example",
    "192.168.evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example:5000",
    "",
    "127.0.0.1@evil.example",
    "0x7f.1.evil.example",
)
ORIGINS = (
    "http://evil.example",
    "https://evil.example",
    "http://127.0.0.1:1",
    "http://localhost:1",
    "null",
    "http://127.0.0.1.evil.example",
    "file://",
    "chrome-extension://x",
)


def _web_ways() -> Iterator[Way]:
    asked: list[tuple[str, str, str, Body | None]] = [
        *(
            (change.name, change.method, f"{PREFIXES[0]}/{change.path}", change.body)
            for change in CHANGES[:3]
        ),
        ("a search", "GET", f"{PREFIXES[0]}/experiments/search?max_results=1", None),
        ("GraphQL", "POST", "/graphql", lambda _: {"query": "{__typename}"}),
        ("the UI", "GET", "/", None),
    ]
    for name, method, path, body in asked:
        for host in HOSTS:
            act = http(WEB_PAGE, method, path, body, {"Host": host})
            yield Way("web pages", WEB_PAGE, f"rebinding {host!r}, {name}", act)
        for origin in ORIGINS:
            act = http(WEB_PAGE, method, path, body, {"Origin": origin})
            yield Way("web pages", WEB_PAGE, f"origin {origin}, {name}", act)
    for origin in ORIGINS:
        yield Way("web pages", WEB_PAGE, f"preflight and request from {origin}", _with_preflight(origin))


def _with_preflight(origin: str) -> Callable[[Target], Attempt]:
    """Ask first, as browsers do, and send the request only if that was answered well."""

    def act(target: Target) -> Attempt:
        path, body = f"{PREFIXES[0]}/{_MOVE}", _about(3, stage="Production")(target)
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        first = target.mlflow(WEB_PAGE, "OPTIONS", path, None, asks)
        if first.refused:
            return Attempt((first,))
        return Attempt((target.mlflow(WEB_PAGE, "POST", path, body, {"Origin": origin}),))

    return act


def _queries(target: Target) -> dict[str, str]:
    name = target.model
    return {
        "mutation": f'mutation {{ mlflowTransitionModelVersionStage(input: {{name: "{name}", version: "3", stage: "Production"}}) {{ apiError {{ message }} }} }}',
        "mutation of an alias": f'mutation {{ mlflowSetRegisteredModelAlias(input: {{name: "{name}", alias: "champion", version: "3"}}) {{ apiError {{ message }} }} }}',
        "test mutation": 'mutation { testMutation(inputString: "x") { echoString: __typename } }',
        "introspection": "{ __schema { mutationType { fields { name } } types { name } } }",
        "versions": f"{{ mlflowSearchModelVersions(input: {{filter: \"name = '{name}'\"}}) {{ modelVersions {{ name version status }} }} }}",
        "SQL in a filter": "{ mlflowSearchModelVersions(input: {filter: \"name = 'x'; DELETE FROM model_versions\"}) { modelVersions { name } } }",
        "artifacts above the root": f'{{ mlflowListArtifacts(input: {{runId: "{target.places["run1"]}", path: "../../.."}}) {{ files {{ path }} }} }}',
        "no query": "",
    }


def _graphql_ways() -> Iterator[Way]:
    for name in _queries(_NAMES):
        for method in ("POST", "GET"):
            yield Way("GraphQL", LOCAL, f"{name}, {method}", _ask(LOCAL, name, method), harmless=True)
        for account in LOGINS:
            yield Way("GraphQL", account, name, _ask(account, name, "POST"), harmless=account != NOBODY)


def _ask(account: str, name: str, method: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        query = _queries(target)[name]
        if method == "GET":
            return target.mlflow(account, "GET", f"/graphql?{urlencode({'query': query})}")
        return target.mlflow(account, "POST", "/graphql", {"query": query})

    return act


_INSIDE = (
    "http://127.0.0.1:1/",
    "https://127.0.0.1:1/",
    "http://localhost:5300/verdicts",
    "https://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "gopher://127.0.0.1:1/",
    "https://[::1]/",
    "https://0.0.0.0/",
    "https://10.0.0.1/",
    "ftp://127.0.0.1/",
    "https://127.1/",
)


def _webhook_ways() -> Iterator[Way]:
    """A webhook to a service inside would make the server its messenger."""
    for url in _INSIDE:
        body = _hook(url)
        for account in (LOCAL, *LOGINS):
            yield Way("webhooks", account, url, http(account, "POST", f"{PREFIXES[0]}/webhooks", body))


def _hook(url: str) -> Body:
    event = {"entity": "REGISTERED_MODEL", "action": "CREATED"}
    return lambda _: {"name": "hook", "url": url, "events": [event]}


# Spans and traces: what takes bodies of another form, and names of files and experiments.
_TRACES: tuple[tuple[str, str, Any, dict[str, str]], ...] = (
    ("POST", "/v1/traces", {"resourceSpans": []}, {"x-mlflow-experiment-id": "0"}),
    (
        "POST",
        "/v1/traces",
        b"\x0a\x00",
        {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"},
    ),
    (
        "POST",
        "/v1/traces",
        b"\xff" * 1000,
        {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"},
    ),
    (
        "POST",
        "/v1/traces",
        gzip.compress(b"x" * 100_000),
        {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
    ),
    ("POST", "/v1/traces", {"resourceSpans": []}, {"x-mlflow-experiment-id": "../../keys"}),
    (
        "POST",
        "/v1/traces",
        {"resourceSpans": []},
        {"x-mlflow-experiment-id": "0; DELETE FROM model_versions"},
    ),
    ("GET", "/v1/traces", None, {}),
    ("POST", "/v1/metrics", {"resourceMetrics": []}, {}),
    ("POST", "/v1/logs", {"resourceLogs": []}, {}),
    ("POST", "/api/3.0/mlflow/traces/search", {"locations": [], "filter": "x' OR 1=1"}, {}),
    ("POST", "/api/3.0/mlflow/traces/delete-traces", {"experiment_id": "0", "max_timestamp_millis": 1}, {}),
    ("GET", "/api/3.0/mlflow/traces/..%2f..%2fkeys", None, {}),
    ("PATCH", "/api/3.0/mlflow/traces/tr-1/tags", {"key": EVIDENCE, "value": "x"}, {}),
    ("GET", "/ajax-api/3.0/mlflow/get-trace-artifact?request_id=tr-1&path=../../keys/gate.pem", None, {}),
    ("POST", "/api/2.0/mlflow/traces/link-prompts", {"trace_id": "tr-1", "prompt_versions": []}, {}),
)


def _trace_ways() -> Iterator[Way]:
    for number, (method, path, body, headers) in enumerate(_TRACES, start=1):
        for account in (LOCAL, NOBODY):
            act = http(account, method, path, None if body is None else _always(body), headers)
            yield Way("traces", account, f"{number}, {method} {path}", act, harmless=account == LOCAL)


def _always(body: Any) -> Body:
    return lambda _: body


KINDS = (
    Kind("traces", "spans and traces, whose bodies and names have other forms", _trace_ways),
    Kind("routes", "each change of what is served, in 23 writings of its path", _route_ways),
    Kind(
        "accounts", "each of them by every account of a server with a login; rights and logins", _account_ways
    ),
    Kind("bodies", "each of them in other writings of its body, in the query, and mixed", _body_ways),
    Kind("headers", "methods and headers that some servers obey", _header_ways),
    Kind("closed routes", "MLflow's routes that nobody needs, and paths that lead to them", _closed_ways),
    Kind("web pages", "what a page in a visitor's browser can send: other Host, other Origin", _web_ways),
    Kind("GraphQL", "mutations and queries of MLflow's UI", _graphql_ways),
    Kind("webhooks", "addresses inside, where the server would send requests", _webhook_ways),
)
