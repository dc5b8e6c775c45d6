"""Callers who open connections and say little, say it slowly, or do not listen are bounded; nobody waits."""

import contextlib
import json
import re
import socket
import time
from typing import Any

import httpx
import pytest

from tests.serving.support.predictor_process import Published, Running, Start
from tests.waiting import answers, until

SETTINGS = {"GREENROOM_SERVING_MAX_ROWS": "10000"}
LIMITS = {"MAX_CONNECTIONS": 20, "HEAD_TIMEOUT": 1, "READ_TIMEOUT": 1}


@pytest.fixture(scope="module")
def strict(start: Start, published: Published) -> Running:
    running = start(published.url, limits=LIMITS, GREENROOM_TRUSTED_KEYS=published.trusted, **SETTINGS)
    running.loaded()
    return running


def connect(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15)


def closed(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes; fails after the socket's time-out if it does not."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def whole(connection: socket.socket) -> bytes:
    """Return one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    while len(body) < length(head):
        body += connection.recv(65536)
    return head + body


def length(head: bytes) -> int:
    """Return the length that an answer's head declares."""
    found = re.search(rb"content-length: (\d+)", head)
    assert found, head
    return int(found[1])


def drip(connection: socket.socket) -> None:
    """Send a header every now and then, until the other side has enough of it."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        connection.sendall(b"X-More: 1\r\n")
        time.sleep(0.1)
    raise AssertionError("it was let go on")


def test_who_says_nothing_is_closed(strict: Running) -> None:
    with connect(strict) as connection:
        assert closed(connection) == b""


def test_who_does_not_finish_a_head_is_told_so_and_closed(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(b"POST /api/predict/genre HTTP/1.1\r\nHost: x\r\n")
        assert closed(connection).startswith(b"HTTP/1.1 408")


def test_who_drips_a_head_is_closed_all_the_same(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            drip(connection)


def test_the_second_head_on_a_connection_is_bounded_too(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HT")
        assert closed(connection).startswith(b"HTTP/1.1 408")


def test_headers_without_end_are_refused(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for number in range(2000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        closed(connection)  # or it fails after the socket's time-out
    assert strict.get("/healthz").is_success


def test_a_large_head_is_told_so(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 66_000)
        assert closed(connection).startswith(b"HTTP/1.1 431")


def test_too_many_connections_are_closed_and_the_others_go_on(
    strict: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    body = json.dumps(track).encode()
    request = (
        f"POST /api/predict/{names['genre']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(connect(strict))
        good.sendall(request)
        assert whole(good).startswith(b"HTTP/1.1 200")
        others = [stack.enter_context(connect(strict)) for _ in range(30)]
        for one in others[:19]:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        refused = [closed(one) for one in others[19:]]
        assert refused == [b""] * 11
        good.sendall(request)
        assert whole(good).startswith(b"HTTP/1.1 200")
    # They are counted anew: who closes makes room.
    until(lambda: answers(f"{strict.url}/healthz"), "there is no room after they have gone")


def test_who_does_not_read_answers_is_closed(
    strict: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    """Many megabytes of answers, more than the buffers of both sides hold."""
    page = len(strict.get("/openapi.json").content)
    times = 20_000_000 // page
    with socket.socket() as connection:
        # Small buffers on this side, so that answers stay on the other.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(15)
        host, port = strict.url.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * times)
        time.sleep(3)
        received = len(closed(connection))
    # What the buffers held came; the rest was cut off.
    assert received < times * page
    assert strict.post(names["genre"], json=track).status_code == 200


def test_who_is_refused_in_the_middle_of_sending_reads_why(
    strict: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    """What is left of the body is thrown away, and the connection goes on."""
    with connect(strict) as connection:
        connection.sendall(
            b"POST /api/predict/nobody HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 200000\r\n\r\n"
        )
        assert whole(connection).startswith(b"HTTP/1.1 404")
        connection.sendall(b" " * 200_000)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole(connection).startswith(b"HTTP/1.1 200")
    too_long = json.dumps([track] * 10_001).encode()
    answer = strict.post(names["genre"], content=too_long, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_rows")


def test_who_never_ends_a_body_that_was_answered_is_closed(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(
            b"POST /api/predict/nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert whole(connection).startswith(b"HTTP/1.1 404")
        with pytest.raises(OSError, match=r"reset|pipe"):
            drip(connection)


def test_an_idle_connection_is_closed_and_one_in_use_is_not(strict: Running) -> None:
    """uvicorn lets a connection be idle for 5 s after an answer."""
    with connect(strict) as connection:
        for _ in range(14):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert whole(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.5)
        assert closed(connection) == b""


ANSWERS = """
import os
import uvicorn
from serving.process.connections import BoundedProtocol

HEADERS = {
    "/value": [(b"x-a", b"1\\r\\nx-b: 2")],
    "/name": [(b"x a", b"1")],
    "/twice": [(b"x-a", b"1"), (b"x-a", b"2")],
    "/last": [(b"Connection", b"close")],
}

async def app(scope, receive, send):
    length = b"3" if scope["path"] == "/short" else b"2"
    headers = [(b"content-length", length), *HEADERS.get(scope["path"], ())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

port = int(os.environ["GREENROOM_SERVING_PORT"])
uvicorn.run(app, http=BoundedProtocol, port=port, lifespan="off", server_header=False)
"""


def test_an_answer_in_one_write_is_examined_as_uvicorn_does(start: Start) -> None:
    running = start("http://127.0.0.1:9", program=ANSWERS)
    for path in ("/value", "/name", "/short"):
        with pytest.raises(httpx.RemoteProtocolError):  # uvicorn closes the connection
            running.get(path)
    assert running.get("/twice").headers.get_list("x-a") == ["1", "2"]
    assert running.get("/last").headers["connection"] == "close"
    head = running.ask("HEAD", "/twice")
    assert (head.status_code, head.content) == (200, b"")
    with connect(running) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        both = b""
        while both.count(b"\r\n\r\nok") < 2:
            part = connection.recv(65536)
            assert part, both
            both += part
    running.kill()
