"""The process itself: how it starts, what it holds, how it stops."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.http_errors import ErrorBody
from tests.serving.support.onnx_parts import json_of
from tests.serving.support.predictor_process import Published, Running, Start
from tests.waiting import until

FORBIDDEN = {"sklearn", "skl2onnx", "onnx", "deepchecks", "prefect", "pandas", "mlflow", "scipy", "joblib"}

# Runs the predictor as `python -m serving` does, and at its end writes what it imported and what it
# unpickled: Python announces each class that an unpickler looks up.
_WATCHED = """
import atexit, json, runpy, sys
unpickled = []
sys.addaudithook(lambda event, args: event == "pickle.find_class" and unpickled.append(repr(args)))
report = lambda: open({report!r}, "w").write(json.dumps([sorted(sys.modules), unpickled]))
atexit.register(report)
sys.argv = ["serving"]
runpy.run_module("serving", run_name="__main__")
"""


def test_nothing_heavy_is_imported_and_nothing_is_unpickled(  # noqa: PLR0917 - fixtures
    start: Start,
    published: Published,
    names: dict[str, str],
    track: dict[str, Any],
    track_without_energy: dict[str, Any],
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    running = start(
        published.url,
        program=_WATCHED.format(report=str(report)),
        GREENROOM_TRUSTED_KEYS=published.trusted,
    )
    running.loaded()
    assert running.post(names["genre"], json=track).status_code == 200
    assert running.post(names["energy"], json=track_without_energy).status_code == 200
    assert running.post(names["genre"], json={}).status_code == 422
    assert running.get("/docs").status_code == 200
    assert running.stop() == 0

    modules, unpickled = json.loads(report.read_text())
    roots = {module.partition(".")[0] for module in modules}
    assert {"serving", "onnxruntime", "fastapi"} <= roots, "the report is about the wrong process"
    assert not FORBIDDEN & roots
    assert not {"checks", "flows", "infra"} & roots
    assert unpickled == []


def test_without_a_tracking_server_it_starts_and_says_so(start: Start, track: dict[str, Any]) -> None:
    running = start("http://someone:hunter2@127.0.0.1:9", GREENROOM_TRACKING_PASSWORD="s3cret")
    running.loaded()
    assert running.get("/healthz").status_code == 200
    ready = running.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    answer = running.post("genre", json=track)
    assert answer.status_code == 503
    error = ErrorBody.model_validate(json_of(answer.text)).error
    assert "The tracking server at http://127.0.0.1:9 does not answer" in error.message
    assert "GREENROOM_TRACKING_URI" in error.message
    listing = running.get("/api/models")
    assert listing.status_code == 200
    running.stop()
    for text in (ready.text, answer.text, listing.text, running.log.read_text()):
        assert "hunter2" not in text
        assert "s3cret" not in text
        assert "Traceback" not in text


def test_some_other_server_is_no_reason_to_fail(start: Start) -> None:
    with _server(b"<html>hello</html>") as url:
        running = start(url)
        models = running.loaded()
    assert running.get("/readyz").status_code == 503
    assert {model["status"] for model in models.values()} == {"unavailable"}
    running.stop()
    assert "Traceback" not in running.log.read_text()


def test_a_tracking_server_that_hangs_holds_up_neither_start_nor_stop(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = start(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert running.get("/healthz").status_code == 200
        assert "being loaded" in running.post("genre", json={}).json()["error"]["message"]
        assert running.stop() == 0


def test_stopping_lets_a_request_under_way_finish(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any]
) -> None:
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted)
    running.loaded()
    host, port = running.url.removeprefix("http://").split(":")
    body = json.dumps(track).encode()
    head = (
        f"POST /api/predict/{names['genre']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + body[:10])
        running.get("/healthz")  # by its answer the half request has been read as well
        running.process.terminate()
        threading.Event().wait(0.3)
        connection.sendall(body[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert running.process.wait(10) == 0


def test_access_log_leaves_out_health_checks(predictor: Running) -> None:
    predictor.get("/healthz")
    predictor.get("/readyz")
    predictor.get("/api/models")
    # A line is written after its answer has gone out.
    until(lambda: "GET /api/models" in predictor.log.read_text())
    log = predictor.log.read_text()
    assert "GET /healthz" not in log
    assert "GET /readyz" not in log


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("GREENROOM_SERVING_PORT", "seventy", "GREENROOM_SERVING_PORT"),
        ("GREENROOM_SERVING_MAX_ROWS", "0", "GREENROOM_SERVING_MAX_ROWS"),
        ("GREENROOM_CATALOG_PATH", "/nowhere", "/nowhere, which does not exist"),
    ],
)
def test_wrong_settings_are_named_without_a_traceback(
    tmp_path: Path, setting: str, value: str, says: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "serving"],
        env={**os.environ, "GREENROOM_HOME": str(tmp_path), setting: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


@contextmanager
def _server(content: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - http.server's names

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
