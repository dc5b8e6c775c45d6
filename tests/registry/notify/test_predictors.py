"""What running predictors serve, asked by /readyz."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from registry.notify.predictors import PredictorSettings, served_versions


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_versions_of_one_process_and_of_several() -> None:
    models = {"genre": {"version": 3}, "energy": {"version": None}}
    with answering(503, json.dumps({"models": models}).encode()) as url:
        assert served_versions(url) == {url: {"genre": 3}}
    workers = [{"pid": 7, "versions": {"genre": 3}}, {"pid": 8, "versions": {"genre": 2}}]
    with answering(200, json.dumps({"models": models, "workers": workers}).encode()) as url:
        assert served_versions(url) == {
            f"{url} (process 7)": {"genre": 3},
            f"{url} (process 8)": {"genre": 2},
        }


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b'{"models": [1]}', b'{"models": null}'])
def test_what_is_no_predictor_serves_nothing(body: bytes) -> None:
    with answering(200, body) as url:
        assert served_versions(url) == {url: {}}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "nowhere"])
def test_what_does_not_answer_serves_nothing(url: str) -> None:
    assert served_versions(url) == {url: {}}


def test_addresses_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_PREDICTORS", " http://a:1/ ,, http://b:2")
    assert PredictorSettings().predictor_urls == ["http://a:1", "http://b:2"]
