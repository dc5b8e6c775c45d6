"""Under a flood the predictor refuses what it cannot take, says so, goes on answering, and recovers."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.http_errors import ErrorBody
from serving.middleware.concurrency import ConcurrencyLimiter, LimitConcurrency, Limits
from tests.serving.support.onnx_parts import json_of
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped
from tests.waiting import until

NOWHERE = "http://127.0.0.1:9"
BODY = b'[{"no": "feature"}]'
# So that the beginning of `BODY` is a large body, which takes a turn for being read.
LARGE = {"GREENROOM_SERVING_MAX_BODY_BYTES": "4"}


def connect(running: Running, content: bytes = BODY, model: str = "genre") -> socket.socket:
    """Open a connection and send a request whose body is `BODY`, or only the beginning of it."""
    host, port = running.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = (
        f"POST /api/predict/{model} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def answer(connection: socket.socket) -> tuple[int, str, dict[str, str]]:
    """Return status, code of the error, and headers of what comes back."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    error = ErrorBody.model_validate(json_of(body.decode())).error
    return int(lines[0].split()[1]), error.code, headers


def scrape(running: Running, headers: dict[str, str] | None = None) -> Scraped:
    return Scraped(running.get("/metrics", headers=headers).text)


def under_way(running: Running, headers: dict[str, str] | None = None) -> tuple[float, float]:
    """How many requests are worked at, and how many wait."""
    seen = scrape(running, headers)
    return seen.get("greenroom_requests_in_flight"), seen.get("greenroom_queue_length")


def settles(running: Running, *, working: int, waiting: int, headers: dict[str, str] | None = None) -> None:
    """Wait until so many requests are worked at and so many wait."""
    wanted = (working, waiting)
    until(lambda: under_way(running, headers) == wanted, lambda: f"{under_way(running)}, not {wanted}")


def refusals(running: Running) -> dict[str, float]:
    found = scrape(running).having("greenroom_requests_rejected_total")
    return {dict(labels)["reason"]: value for labels, value in found.items()}


def test_a_full_house_refuses_goes_on_answering_and_recovers(start: Start) -> None:
    running = start(
        NOWHERE,
        GREENROOM_SERVING_MAX_CONCURRENCY="2",
        GREENROOM_SERVING_MAX_QUEUE="3",
        limits={"QUEUE_TIMEOUT": 15, "BODY_TIMEOUT": 60},
        **LARGE,
    )
    running.loaded()
    slow = [connect(running, BODY[:5]) for _ in range(2)]
    settles(running, working=2, waiting=0)
    patient = [connect(running, BODY[:5]) for _ in range(3)]
    settles(running, working=2, waiting=3)

    for _ in range(20):
        began = time.monotonic()
        with connect(running, BODY[:5]) as refused:
            status, code, headers = answer(refused)
        assert (status, code, headers["retry-after"]) == (503, "overloaded", "15")
        assert headers["x-content-type-options"] == "nosniff"
        assert time.monotonic() - began < 1
    assert refusals(running) == {"queue_full": 20}
    # Whoever has sent all waits for nobody who sends slowly, and what does not predict does not wait.
    with connect(running) as whole:
        assert answer(whole)[:2] == (503, "model_unavailable")
    for path in ("/healthz", "/docs", "/openapi.json", "/api/models", "/metrics"):
        assert running.get(path).status_code == 200
    assert running.get("/readyz").json()["status"] == "not_ready"
    settles(running, working=2, waiting=3)

    for connection in (*slow, *patient):
        connection.sendall(BODY[5:])
    for connection in (*slow, *patient):
        assert answer(connection)[:2] == (503, "model_unavailable")
        connection.close()
    settles(running, working=0, waiting=0)
    assert running.post("genre", content=BODY, headers={"content-type": "application/json"}).json()["error"][
        "code"
    ] == ("model_unavailable")
    assert "Traceback" not in running.log.read_text()


def test_nobody_waits_longer_than_the_timeout(start: Start) -> None:
    one = {"GREENROOM_SERVING_MAX_CONCURRENCY": "1", **LARGE}
    running = start(NOWHERE, limits={"QUEUE_TIMEOUT": 0.3}, **one)
    running.loaded()
    with connect(running, BODY[:5]) as slow:
        settles(running, working=1, waiting=0)
        began = time.monotonic()
        waiting = [connect(running, BODY[:5]) for _ in range(5)]
        for connection in waiting:
            status, code, headers = answer(connection)
            assert (status, code, headers["retry-after"]) == (503, "overloaded", "1")
            connection.close()
        assert 0.25 < time.monotonic() - began < 3
        assert refusals(running) == {"queue_timeout": 5}
        slow.sendall(BODY[5:])
        assert answer(slow)[1] == "model_unavailable"
    settles(running, working=0, waiting=0)


def test_callers_who_leave_take_no_turn_with_them(start: Start) -> None:
    running = start(
        NOWHERE,
        GREENROOM_SERVING_MAX_CONCURRENCY="3",
        GREENROOM_SERVING_MAX_QUEUE="5",
        limits={"QUEUE_TIMEOUT": 30, "BODY_TIMEOUT": 60},
        **LARGE,
    )
    running.loaded()
    for _ in range(5):
        # Some leave while their body is read, some while they wait.
        gone = [connect(running, BODY[:5]) for _ in range(8)]
        settles(running, working=3, waiting=5)
        random.shuffle(gone)
        for connection in gone:
            connection.close()
        settles(running, working=0, waiting=0)
    # Every turn is there again.
    slow = [connect(running, BODY[:5]) for _ in range(3)]
    settles(running, working=3, waiting=0)
    for connection in slow:
        connection.sendall(BODY[5:])
        assert answer(connection)[1] == "model_unavailable"
        connection.close()
    assert refusals(running) == {}


def test_a_body_that_never_comes_gives_its_turn_back(start: Start) -> None:
    running = start(
        NOWHERE,
        GREENROOM_SERVING_MAX_CONCURRENCY="1",
        limits={"QUEUE_TIMEOUT": 10, "BODY_TIMEOUT": 1.5},
        **LARGE,
    )
    running.loaded()
    with connect(running, BODY[:5]) as slow:
        assert answer(slow)[:2] == (408, "request_timeout")
    with connect(running, BODY[:5]) as next_one:
        settles(running, working=1, waiting=0)
        next_one.sendall(BODY[5:])
        assert answer(next_one)[:2] == (503, "model_unavailable")


def test_small_bodies_that_come_slowly_take_no_turn(start: Start) -> None:
    running = start(
        NOWHERE,
        GREENROOM_SERVING_MAX_CONCURRENCY="1",
        GREENROOM_SERVING_MAX_QUEUE="0",
        limits={"BODY_TIMEOUT": 60},
    )
    running.loaded()
    slow = [connect(running, BODY[:5]) for _ in range(100)]
    for _ in range(5):
        with connect(running) as whole:
            assert answer(whole)[:2] == (503, "model_unavailable")
    for connection in slow:
        connection.close()
    assert refusals(running) == {}


def test_a_flood_of_good_requests_is_answered_or_refused_but_never_lost(
    start: Start, published: Published, names: dict[str, str], track: dict[str, object]
) -> None:
    running = start(
        published.url,
        GREENROOM_TRUSTED_KEYS=published.trusted,
        GREENROOM_SERVING_MAX_CONCURRENCY="2",
        GREENROOM_SERVING_MAX_QUEUE="4",
        limits={"QUEUE_TIMEOUT": 0.5},
    )
    running.loaded()
    body = json.dumps(track).encode()
    head = (
        f"POST /api/predict/{names['genre']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def caller() -> int:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + body[:50])
        await asyncio.sleep(random.uniform(0.0, 0.02))
        writer.write(body[50:])
        status = await reader.readline()
        writer.close()
        return int(status.split()[1])

    async def flood() -> list[int]:
        return await asyncio.gather(*(caller() for _ in range(200)))

    statuses = asyncio.run(flood())
    assert set(statuses) == {200, 503}
    assert statuses.count(503) == sum(refusals(running).values())
    settles(running, working=0, waiting=0)
    assert running.post(names["genre"], json=track).status_code == 200


class Answers:
    """Collects what an app sends, as a server would."""

    def __init__(self) -> None:
        self.status = 0

    async def __call__(self, message: Message) -> None:
        self.status = message.get("status", self.status)


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def limited(app: Callable[[Scope, Receive, Send], object], turns: ConcurrencyLimiter) -> Callable[[], object]:
    """Return a call of `app` behind `turns`; it answers the status."""
    guard = LimitConcurrency(
        app,  # type: ignore[arg-type]
        bounds=Limits(("/api/predict/",), turns, ConcurrencyLimiter(1, 0, 1.0), small=10),
        rejected=lambda _: None,
    )
    scope = {"type": "http", "path": "/api/predict/genre", "method": "POST", "headers": []}

    async def call() -> int:
        answers = Answers()
        await guard(dict(scope), _receive, answers)
        return answers.status

    return call


def test_a_handler_that_raises_gives_its_turn_back() -> None:
    async def broken(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        raise RuntimeError("out of order")

    async def run() -> None:
        turns = ConcurrencyLimiter(1, 0, 1.0)
        call = limited(broken, turns)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="out of order"):
                await call()  # type: ignore[misc]
        assert (turns.taken, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_whole_requests_beyond_the_turns_are_refused_while_one_is_worked_on() -> None:
    async def run() -> None:
        turns, go = ConcurrencyLimiter(1, 0, 1.0), asyncio.Event()

        async def slow(_: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        call = limited(slow, turns)
        first = asyncio.ensure_future(call())  # type: ignore[arg-type, var-annotated]
        await asyncio.sleep(0)
        assert await call() == 503  # type: ignore[misc]
        assert turns.taken == 1
        go.set()
        assert await first == 200
        assert await call() == 200  # type: ignore[misc]
        assert turns.taken == 0

    asyncio.run(run())


def test_a_turn_that_comes_to_one_who_is_cancelled_goes_on_to_the_next() -> None:
    async def run() -> None:
        turns = ConcurrencyLimiter(1, 5, 10.0)
        assert turns.take_free()
        first, second = (asyncio.ensure_future(turns.wait()) for _ in range(2))
        await asyncio.sleep(0)
        assert turns.waiting == 2
        turns.give_back()  # to the first, which is told in the next step
        first.cancel()
        assert await second is None
        assert first.cancelled()
        assert (turns.taken, turns.waiting) == (1, 0)
        turns.give_back()
        assert turns.taken == 0

    asyncio.run(run())


def test_turns_come_in_the_order_of_arrival() -> None:
    async def run() -> None:
        turns, came = ConcurrencyLimiter(1, 10, 10.0), []
        assert turns.take_free()

        async def one(number: int) -> None:
            assert await turns.wait() is None
            came.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(10)]
        await asyncio.sleep(0)
        assert await turns.wait() == "queue_full"
        for number in range(10):
            turns.give_back()
            assert not turns.take_free()  # a newcomer does not come in between
            await tasks[number]
        assert came == list(range(10))

    asyncio.run(run())


def test_no_turn_is_lost_whoever_leaves_or_fails() -> None:
    chance = random.Random(7)

    async def run() -> None:
        turns, most, served = ConcurrencyLimiter(4, 30, 0.005), 0, 0

        async def one() -> None:
            nonlocal most, served
            if not turns.take_free() and await turns.wait():
                return
            try:
                served += 1
                most = max(most, turns.taken)
                await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01]))
                if chance.random() < 0.1:
                    raise RuntimeError
            finally:
                turns.give_back()

        tasks = []
        for _ in range(2000):
            tasks.append(asyncio.ensure_future(one()))
            if chance.random() < 0.2:
                chance.choice(tasks[-40:]).cancel()
            if chance.random() < 0.05:
                await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (turns.taken, turns.waiting) == (0, 0)
        assert most == 4
        assert served > 100

    asyncio.run(run())


@pytest.mark.parametrize(
    ("setting", "value"),
    [("MAX_CONCURRENCY", "0"), ("MAX_QUEUE", "-1")],
)
def test_limits_that_limit_nothing_are_refused(start: Start, setting: str, value: str) -> None:
    with pytest.raises(AssertionError, match=f"GREENROOM_SERVING_{setting}: Input should be greater"):
        start(NOWHERE, **{f"GREENROOM_SERVING_{setting}": value})
