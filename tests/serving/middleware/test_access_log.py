"""Logs that machines read, ids that lead from an answer to its line, and spans."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.ids import new_id, request_id
from tests.serving.support.predictor_process import Published, Running, Start
from tests.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OpenTelemetry collector: its address, and the spans that it was sent."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(span for r in sent.resource_spans for s in r.scope_spans for span in s.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def logging_json(start: Start, published: Published, collector: tuple[str, list[Any]]) -> Running:
    running = start(
        published.url,
        GREENROOM_TRUSTED_KEYS=published.trusted,
        GREENROOM_SERVING_LOG_FORMAT="json",
        GREENROOM_SERVING_OTLP_ENDPOINT=collector[0],
    )
    running.loaded()
    return running


def lines(running: Running) -> list[dict[str, Any]]:
    # The last one may be half written.
    return [
        json.loads(line) for line in running.log.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]


def about_request(running: Running, name: str) -> list[dict[str, Any]]:
    """Return the lines about a request; they are written when its answer is already on its way."""
    return until(
        lambda: [one for one in lines(running) if one["request_id"] == name], "there is no line about it"
    )


def test_every_line_is_json_and_leads_to_its_request(
    logging_json: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    url = f"/api/predict/{names['genre']}?api_key=oops"
    answer = logging_json.ask("POST", url, json=[track, track], headers={"X-Request-Id": "order-17.a_b"})
    assert answer.headers["x-request-id"] == "order-17.a_b"
    (line,) = about_request(logging_json, "order-17.a_b")
    assert {"time", "level", "logger", "message", "milliseconds"} <= set(line)
    about = ("method", "path", "status", "version", "rows")
    assert [line[name] for name in about] == ["POST", url.partition("?")[0], 200, "1", 2]
    assert "oops" not in logging_json.log.read_text()


@pytest.mark.parametrize("form", ["text", "quiet"])
def test_quiet_leaves_out_the_line_of_a_request(start: Start, published: Published, form: str) -> None:
    running = start(
        published.url,
        GREENROOM_TRUSTED_KEYS=published.trusted,
        GREENROOM_SERVING_LOG_FORMAT=form,
    )
    assert running.ask("GET", "/api/models").headers["x-request-id"]
    running.process.terminate()
    assert running.process.wait(20) == 0, "what there is to log is written by then"
    log = running.log.read_text()
    assert ("GET /api/models" in log) is (form == "text")
    assert "Uvicorn running" in log


def test_a_request_without_a_fit_id_gets_one(logging_json: Running) -> None:
    for given in ("", "x" * 65, "a b", "a\tb", "é", 'a"b'):
        headers = [(b"X-Request-Id", given.encode())] if given else []
        answer = logging_json.ask("GET", "/api/models", headers=headers)
        assert UUID(answer.headers["x-request-id"]).version == 7
    assert UUID(logging_json.ask("GET", "/nothing").headers["x-request-id"]).version == 7


def test_a_path_cannot_forge_a_line(logging_json: Running) -> None:
    logging_json.ask("GET", "/a%0A%7B%22level%22%3A%20%22FORGED%22%7D%1B%5B31m")
    text = logging_json.log.read_text()
    assert all(isinstance(one, dict) for one in lines(logging_json))
    assert "\x1b[31m" not in text
    assert not [one for one in lines(logging_json) if one["level"] == "FORGED"]


def test_requests_are_spans_in_the_callers_trace(
    logging_json: Running,
    collector: tuple[str, list[Any]],
    names: dict[str, str],
    track: dict[str, Any],
) -> None:
    parent = f"00-{TRACE}-00f067aa0ba902b7-01"
    logging_json.ask("POST", f"/api/predict/{names['genre']}", json=track, headers={"traceparent": parent})
    logging_json.ask("POST", f"/api/predict/{names['genre']}", json={}, headers={"traceparent": parent})
    assert logging_json.stop() == 0, "a stop sends what is left"
    mine = [span for span in collector[1] if span.trace_id.hex() == TRACE]
    assert [span.name for span in mine] == ["POST /api/predict/{model}"] * 2
    found = [{one.key: one.value for one in span.attributes} for span in mine]
    assert [one["http.response.status_code"].int_value for one in found] == [200, 422]
    assert found[0]["greenroom.model"].string_value == names["genre"]
    assert found[0]["greenroom.version"].string_value == "1"
    assert {span.parent_span_id.hex() for span in mine} == {"00f067aa0ba902b7"}


def test_tracing_without_its_library_is_said_at_the_start(tmp_path: Path) -> None:
    blocked = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None; import serving.__main__ as m; m.main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", blocked],
        env={
            **os.environ,
            "GREENROOM_HOME": str(tmp_path),
            "GREENROOM_SERVING_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "install Greenroom with the extra `tracing`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ids_are_in_the_order_of_time_and_unique() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert [one[:13] for one in made] == sorted(one[:13] for one in made)
    assert {UUID(one).version for one in made} == {7}
    assert {UUID(one).variant for one in made} == {"specified in RFC 4122"}
    assert request_id(b"mine") == "mine"
    assert UUID(request_id(b"not mine")).version == 7
