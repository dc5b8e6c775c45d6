"""Clients that are slow, silent or deaf, and bodies that are huge, keep nobody else from being answered."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from typing import Any

import pytest

from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped

GOOD = 20


@pytest.fixture(scope="module")
def usual(start: Start, published: Published) -> Running:
    """A predictor with the limits as they come."""
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted)
    running.loaded()
    return running


def address(running: Running) -> tuple[str, int]:
    host, port = running.url.removeprefix("http://").split(":")
    return host, int(port)


def request(model: str, body: bytes) -> bytes:
    head = (
        f"POST /api/predict/{model} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answers(running: Running, model: str, track: dict[str, Any]) -> None:
    """Each of some good requests, on a connection of its own, is answered."""
    for _ in range(GOOD):
        answer = running.post(model, json=track)
        assert answer.status_code == 200, answer.text


@contextmanager
def dripping(running: Running, content: bytes, clients: int, at_once: int) -> Iterator[None]:
    """Clients that have sent the first `at_once` bytes, and go on with one byte now and then."""
    done = Event()

    def drip(connections: list[socket.socket]) -> None:
        for place in range(at_once, len(content)):
            if done.wait(0.2):
                return
            for connection in connections:
                with suppress(OSError):  # it may have had enough
                    connection.send(content[place : place + 1])

    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(address(running), timeout=20))
            for _ in range(clients)
        ]
        for connection in connections:
            connection.sendall(content[:at_once])
        thread = Thread(target=drip, args=(connections,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("at_once", [0, 1, 30], ids=["idle", "a byte", "half a header"])
def test_connections_that_send_no_whole_header_keep_nobody_waiting(
    usual: Running, names: dict[str, str], track: dict[str, Any], at_once: int
) -> None:
    content = request(names["genre"], json.dumps(track).encode())
    with dripping(usual, content if at_once else b"", 300, at_once):
        answers(usual, names["genre"], track)


def test_bodies_that_come_byte_by_byte_keep_nobody_waiting(
    usual: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    """Fewer than may be under way at once: the others go on with the turns that are left."""
    content = request(names["genre"], json.dumps(track).encode())
    with dripping(usual, content, 60, len(content) - 300):
        answers(usual, names["genre"], track)


def test_who_does_not_read_the_answers_takes_no_turn_with_them(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any]
) -> None:
    """More deaf clients than turns, each with more large answers on the way than the kernel takes."""
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, limits={"MAX_CONCURRENCY": 2})
    running.loaded()
    content = request(names["genre"], json.dumps([track] * 1000, separators=(",", ":")).encode())
    with ExitStack() as stack:
        for _ in range(4):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(address(running))
            Thread(target=_send, args=(deaf, content * 40), daemon=True).start()
        settled(running, names["genre"])
        answers(running, names["genre"], track)


def settled(running: Running, model: str) -> None:
    """Wait until nothing is predicted any more: each deaf client has all that goes on the way to it."""
    before, now = -1.0, 0.0
    while before != now:
        time.sleep(0.5)
        scraped = Scraped(running.get("/metrics").text)
        before, now = now, scraped.get("greenroom_rows_predicted_total", model=model)


def _send(connection: socket.socket, content: bytes) -> None:
    with suppress(OSError):  # it is closed at the end
        connection.sendall(content)
