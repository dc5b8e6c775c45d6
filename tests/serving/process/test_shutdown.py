"""A predictor that is told to stop takes leave of its callers, and a rolling update loses no request.

What Kubernetes does is done here by hand, with the probes and settings of infra/k8s: a new pod gets
connections when it has started and is ready; an old one is told to stop some time after it got its last.
"""

import contextlib
import json
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.rolling import Service
from tests.waiting import until

BASE = ROOT / "infra" / "k8s" / "base" / "predictor"


def pod() -> dict[str, Any]:
    """The predictor's container in Kubernetes."""
    documents = yaml.safe_load_all((BASE / "deployment.yaml").read_text())
    deployment = next(one for one in documents if one["kind"] == "Deployment")
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def leaving() -> dict[str, str]:
    """What it is told there about stopping."""
    names = ("GREENROOM_SERVING_DRAIN", "GREENROOM_SERVING_SHUTDOWN_TIMEOUT")
    return {one["name"]: one["value"] for one in pod()["env"] if one["name"] in names}


def request(name: str, row: dict[str, Any]) -> bytes:
    body = json.dumps(row).encode()
    head = f"POST /api/predict/{name} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def idle(running: Running) -> socket.socket:
    """A connection that was answered once and is kept."""
    host, port = running.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    return connection


def told_to_stop(running: Running) -> None:
    """Tell it, and wait until it takes no connection any more."""
    running.process.terminate()
    host, port = running.url.removeprefix("http://").split(":")

    def refused() -> bool:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return True
        return False

    until(refused, "it still takes connections")


def test_an_idle_caller_may_ask_once_more(
    start: Start, published: Published, names: dict[str, str], track_without_energy: dict[str, Any]
) -> None:
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, GREENROOM_SERVING_DRAIN="5")
    running.loaded()
    with idle(running) as asks, idle(running) as silent:
        told_to_stop(running)
        asks.sendall(request(names["energy"], track_without_energy))
        answer = b""
        while chunk := asks.recv(65536):  # and then it is closed
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        assert silent.recv(65536) == b""
    assert running.process.wait(10) == 0


def test_without_that_an_idle_connection_is_closed_at_once(start: Start, published: Published) -> None:
    running = start(published.url)
    with idle(running) as silent:
        told_to_stop(running)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(65536) == b""
    assert running.process.wait(10) == 0


def started(running: Running) -> bool:
    """The startup probe, as the manifest runs it."""
    command = pod()["startupProbe"]["exec"]["command"]
    assert command[-1] == "8000"
    port = running.url.rpartition(":")[2]
    probe = [sys.executable, *command[1:-2], str(BASE / "startup_probe.py"), port]
    return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0


def rolled_out(start: Start, published: Published) -> Running:
    """A pod that Kubernetes would send requests to."""
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, **leaving())
    until(lambda: started(running), "the startup probe never says yes")
    assert running.get(pod()["readinessProbe"]["httpGet"]["path"]).status_code == 200
    return running


def test_a_rolling_update_loses_no_request(
    start: Start, published: Published, names: dict[str, str], track_without_energy: dict[str, Any]
) -> None:
    old = [rolled_out(start, published) for _ in range(2)]
    new: list[Running] = []
    with Service(request(names["energy"], track_without_energy), callers=32) as service:
        service.endpoints = [one.url for one in old]
        time.sleep(1)
        for leaves in old:
            # maxSurge 1, maxUnavailable 0
            new.append(rolled_out(start, published))
            service.endpoints = [*service.endpoints, new[-1].url]
            # The pod is told to stop when preStop is over; the nodes hear meanwhile that it is no endpoint.
            time.sleep(0.5)
            service.endpoints = [url for url in service.endpoints if url != leaves.url]
            time.sleep(1)
            leaves.process.terminate()
            assert leaves.process.wait(30) == 0
        time.sleep(1)
    assert service.seen.lost == []
    assert service.seen.answered > 500
    assert set(service.seen.connections) == {one.url for one in (*old, *new)}


def test_the_startup_probe_says_no_until_models_are_loaded(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = start(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert running.get("/healthz").status_code == 200
        assert not started(running)
    running.stop()
    assert not started(running)


@pytest.mark.parametrize("nothing", ["http://127.0.0.1:9"])
def test_the_startup_probe_leaves_the_rest_to_readiness(start: Start, nothing: str) -> None:
    """A predictor that looked in vain has started: it is not ready, and restarting it would not help."""
    running = start(nothing)
    running.loaded()
    until(lambda: started(running), "the startup probe never says yes")
    assert running.get("/readyz").status_code == 503
