"""No caller takes what others need: connections, heads that do not end, turns, places for uploads."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from serving.callers import address_of, caller_of, is_within, parse_networks
from serving.middleware.concurrency import ConcurrencyLimiter
from serving.settings import ServingSettings
from serving.uploads.errors import UploadError
from serving.uploads.routes import MAX_UPLOADS, Uploads
from tests.serving.support.predictor_process import Running, Start
from tests.serving.support.scraped import Scraped
from tests.waiting import until

NOBODY = "http://127.0.0.1:9"
ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


def connect(running: Running, source: str = "127.0.0.1") -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=15, source_address=(source, 0))


def answer(connection: socket.socket) -> bytes:
    """Return the first bytes that come; none if the other side closed."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def rejected(running: Running, reason: str) -> float:
    scraped = Scraped(running.get("/metrics").text)
    return scraped.get("greenroom_requests_rejected_total", reason=reason)


@pytest.fixture(scope="module")
def narrow(start: Start) -> Running:
    """Few connections and heads for a caller, and no time limit for a head."""
    changed = {"MAX_CONNECTIONS": 30, "CALLER_CONNECTIONS": 20, "CALLER_HEADS": 5, "HEAD_GRACE": 0.2}
    return start(NOBODY, limits={**changed, "HEAD_TIMEOUT": 60})


@contextlib.contextmanager
def held(
    running: Running, count: int, content: bytes, source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(running, source)) for _ in range(count)]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(content)
        yield connections


def test_half_sent_heads_of_a_caller_make_room_for_the_same_caller(narrow: Running) -> None:
    with held(narrow, 15, HALF) as halves:
        time.sleep(0.5)  # longer than a caller may think over a head beside many others
        with connect(narrow) as good:
            good.sendall(ASK)
            assert answer(good).startswith(b"HTTP/1.1 200")
        assert answer(halves[0]).startswith(b"HTTP/1.1 408")
        halves[-1].sendall(b"\r\n")
        assert answer(halves[-1]).startswith(b"HTTP/1.1 200"), "the newest may still finish"
    assert rejected(narrow, "head_late") > 0


@linux
@pytest.mark.parametrize("content", [HALF, b"", ASK], ids=["half a head", "nothing", "idle"])
def test_silent_connections_of_one_make_room_for_another(narrow: Running, content: bytes) -> None:
    with held(narrow, 20, content, "127.0.0.2"), held(narrow, 10, content, "127.0.0.3"):
        for _ in range(5):
            with connect(narrow, "127.0.0.4") as good:
                good.sendall(ASK)
                assert answer(good).startswith(b"HTTP/1.1 200")


@linux
def test_one_address_has_so_many_connections_and_is_told_so(narrow: Running) -> None:
    with held(narrow, 20, ASK, "127.0.0.5") as mine:
        assert all(answer(connection).startswith(b"HTTP/1.1 200") for connection in mine)
        with connect(narrow, "127.0.0.5") as more:
            refused = answer(more)
            assert refused.startswith(b"HTTP/1.1 429")
            assert b"More than 20 connections are open from your address" in refused
        with connect(narrow, "127.0.0.6") as other:
            other.sendall(ASK)
            assert answer(other).startswith(b"HTTP/1.1 200")
    assert rejected(narrow, "caller_connections") > 0


@linux
def test_a_proxy_is_not_bounded_like_a_caller(start: Start) -> None:
    running = start(
        NOBODY,
        limits={"CALLER_CONNECTIONS": 5, "CALLER_HEADS": 2, "HEAD_GRACE": 0.0},
        GREENROOM_SERVING_PROXIES="127.0.0.8/30",
    )
    with held(running, 20, HALF, "127.0.0.9") as many:
        for connection in many:
            connection.sendall(b"\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 200")
    running.stop()


def head(size: int) -> bytes:
    """A whole request of so many bytes."""
    start, end = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Padding: ", b"\r\n\r\n"
    return start + b"y" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("pieces", [1, 2, 9])
@pytest.mark.parametrize(("size", "status"), [(65_536, b"200"), (65_537, b"431"), (70_000, b"431")])
def test_the_size_of_a_head_is_bounded_exactly(
    narrow: Running, size: int, status: bytes, pieces: int
) -> None:
    content = head(size)
    with connect(narrow) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = -(-size // pieces)
        for first in range(0, size, step):
            with contextlib.suppress(OSError):  # it may have had enough
                connection.sendall(content[first : first + step])
            time.sleep(0.02 if pieces > 1 else 0)
        assert answer(connection).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "content",
    [
        b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nA:" + b" " * 70_000 + b"b\r\n\r\n",
        ASK + head(70_000),
    ],
    ids=["request line", "many headers", "white space", "the second"],
)
def test_all_of_a_head_counts(narrow: Running, content: bytes) -> None:
    with connect(narrow) as connection:
        connection.sendall(content)
        received = b""
        while part := answer(connection):
            received += part
        assert b"HTTP/1.1 431" in received
    assert rejected(narrow, "head_size") > 0


def test_the_head_after_a_body_is_bounded_as_well(narrow: Running) -> None:
    body = b"POST /api/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    with connect(narrow) as connection:
        connection.sendall(body + HALF)
        assert answer(connection).startswith(b"HTTP/1.1 404")
        connection.sendall(b"\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(body + HALF)
        assert answer(connection).startswith(b"HTTP/1.1 404")
        with contextlib.suppress(OSError):
            connection.sendall(b"A: " + b"b" * 66_000)
        assert answer(connection).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "content",
    [b"0\r\n" + b"a: b\r\n" * 20_000, b"0\r\nA: " + b"b" * 200_000, b"1;" + b"x" * 200_000 + b"\r\n"],
    ids=["trailers", "a long trailer", "a long extension"],
)
def test_what_comes_with_a_body_is_bounded(narrow: Running, content: bytes) -> None:
    """Nobody reads it, and it would be kept."""
    with connect(narrow) as connection:
        connection.sendall(
            b"POST /api/upload-dataset HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            connection.sendall(content)
        connection.settimeout(5)
        until(lambda: _gone(connection), "it takes all of it")


def _gone(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"a")
    except OSError:
        return True
    return False


def test_an_address_is_a_caller_and_so_is_a_network_of_ipv6() -> None:
    assert address_of("192.0.2.7") == "192.0.2.7"
    assert address_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert address_of("2001:db8:1:2:3:4:5:6") == address_of("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert address_of("2001:db8:1:3::1") != address_of("2001:db8:1:2::1")
    assert address_of("unix") == "unix"
    assert is_within("::ffff:10.1.2.3", parse_networks("10.0.0.0/8, fd00::/8"))
    assert not is_within("unix", parse_networks("10.0.0.0/8"))


def test_behind_a_proxy_the_last_address_counts_that_is_no_proxys() -> None:
    caller = caller_of(parse_networks("10.0.0.0/8"))

    def scope(client: str, *forwarded: bytes, key: str = "") -> dict[str, object]:
        state = {"api_key_name": key} if key else {}
        headers = [(b"x-forwarded-for", value) for value in forwarded]
        return {"client": (client, 1), "headers": headers, "state": state}

    assert caller(scope("10.1.1.1", b"1.1.1.1, 192.0.2.7")) == "192.0.2.7"
    assert caller(scope("10.1.1.1", b"1.1.1.1", b"192.0.2.7, 10.2.2.2")) == "192.0.2.7"
    assert caller(scope("10.1.1.1")) == "10.1.1.1"
    assert caller(scope("192.0.2.9", b"1.1.1.1")) == "192.0.2.9", "nobody else is believed"
    assert caller(scope("192.0.2.9", key="shop")) == "key shop"
    assert caller_of(())(scope("10.1.1.1", b"1.1.1.1")) == "10.1.1.1"


def test_a_wrong_proxy_is_named() -> None:
    with pytest.raises(ValueError, match="serving_proxies"):
        ServingSettings(serving_proxies="10.0.0.0/8,proxy")


def test_callers_who_wait_take_turns() -> None:
    async def run() -> list[str]:
        turns, order = ConcurrencyLimiter(1, 100, 10.0), list[str]()
        assert turns.take_free()

        async def ask(caller: str) -> None:
            assert await turns.wait(caller) is None
            order.append(caller)
            turns.give_back()

        asked = [asyncio.ensure_future(ask("flood")) for _ in range(20)]
        await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(ask("other")))
        await asyncio.sleep(0)
        turns.give_back()
        await asyncio.gather(*asked)
        assert (turns.taken, turns.waiting) == (0, 0)
        return order

    assert asyncio.run(run()).index("other") == 1


def test_a_full_queue_makes_room_for_who_has_less_of_it() -> None:
    async def run() -> None:
        turns = ConcurrencyLimiter(1, 4, 10.0)
        assert turns.take_free()
        flood = [asyncio.ensure_future(turns.wait("flood")) for _ in range(4)]
        await asyncio.sleep(0)
        assert await turns.wait("flood") == "queue_full"
        others = [asyncio.ensure_future(turns.wait("other")) for _ in range(2)]
        for _ in range(3):  # until those have heard of it who wait
            await asyncio.sleep(0)
        assert [ended.result() for ended in flood if ended.done()] == ["queue_full"] * 2
        assert await turns.wait("other") == "queue_full", "half of it is as much as the other has"
        assert turns.waiting == 4
        for waiting in (*flood, *others):
            waiting.cancel()
        await asyncio.sleep(0)
        assert turns.waiting == 0
        turns.give_back()
        assert turns.taken == 0

    asyncio.run(run())


def test_one_caller_does_not_have_all_turns_where_that_is_bounded() -> None:
    async def run() -> None:
        turns = ConcurrencyLimiter(4, 10, 10.0, of_caller=2)
        assert [turns.take_free("slow") for _ in range(3)] == [True, True, False]
        waiting = [asyncio.ensure_future(turns.wait("slow")) for _ in range(2)]
        await asyncio.sleep(0)
        assert [turns.take_free("other") for _ in range(3)] == [True, True, False]
        turns.give_back("other")
        await asyncio.sleep(0)
        assert not waiting[0].done(), "it has two already"
        assert turns.take_free("third")
        turns.give_back("slow")
        assert await waiting[0] is None
        turns.give_back("slow")
        assert await waiting[1] is None
        for caller in ("slow", "slow", "other", "third"):
            turns.give_back(caller)
        assert (turns.taken, turns.waiting, len(turns._held)) == (0, 0, 0)

    asyncio.run(run())


def test_each_caller_has_one_upload_and_none_has_all_places() -> None:
    counted: list[str] = []
    uploads = Uploads((), ServingSettings(), lambda scope: str(scope["client"]), counted.append)
    with contextlib.ExitStack() as stack:
        for number in range(MAX_UPLOADS):
            stack.enter_context(uploads._place({"client": number}))
        with (
            pytest.raises(UploadError, match="Another upload of yours") as mine,
            uploads._place({"client": 0}),
        ):
            pass
        assert (mine.value.status, mine.value.code) == (503, "upload_busy")
        with pytest.raises(UploadError, match="Other uploads"), uploads._place({"client": "other"}):
            pass
    with uploads._place({"client": "other"}):
        assert counted == ["caller_upload"]
