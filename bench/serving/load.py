"""Mixed clients for the soak: good, bad, slow and interrupted requests, over plain sockets that stay open."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import orjson

# How often each kind of request is sent.
_MIX = {"single": 80, "list": 10, "bad": 6, "slow": 2, "aborted": 2}
_GOOD = frozenset({"single", "list", "slow"})
_TIMEOUT = 30.0


@dataclass
class Tally:
    """Counts of sent requests and of answers."""

    sent: Counter[str] = field(default_factory=Counter)
    # Good requests that did not get 200, by the failure.
    failed: Counter[str] = field(default_factory=Counter)
    # Bad requests that were not refused with 400 or 422.
    wrong: Counter[str] = field(default_factory=Counter)
    # The versions that answered.
    versions: Counter[int] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """All requests but those that the client interrupted."""
        return sum(self.sent.values()) - self.sent["aborted"]


class Caller:
    """One connection: sends, waits for the answer, sends again; reconnects when it was closed."""

    def __init__(self, url: httpx.URL, rows: list[bytes], seed: int, tally: Tally) -> None:
        """Send `rows`, each a JSON object, to `url`, which is plain HTTP with a port."""
        self._address = url.host, url.port or 80
        self._rows, self._tally = rows, tally
        self._head = (
            f"POST {url.path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Type: application/json\r\n"
        )
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._kinds, self._weights = list(_MIX), list(_MIX.values())

    async def run(self, stopped: Callable[[], bool]) -> None:
        """Call until stopped."""
        while not stopped():
            kind = self._random.choices(self._kinds, self._weights)[0]
            self._tally.sent[kind] += 1
            try:
                async with asyncio.timeout(_TIMEOUT):
                    status, body = await self._send(kind)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.close()
                if kind in _GOOD:
                    self._tally.failed[f"{kind}: {type(error).__name__}"] += 1
                continue
            if kind in _GOOD and status != 200:
                self._tally.failed[f"{kind}: {status}"] += 1
            elif kind in _GOOD:
                self._tally.versions[orjson.loads(body)["version"]] += 1
            elif kind == "bad" and status not in (400, 422):
                self._tally.wrong[f"{kind}: {status}"] += 1
        self.close()

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _send(self, kind: str) -> tuple[int, bytes]:
        body = self._body(kind)
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        head = f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode()
        if kind == "aborted":
            self._writer.write(head + body[: len(body) // 2])
            with suppress(OSError):
                await self._writer.drain()
            self.close()
            return 0, b""
        if kind == "slow":
            self._writer.write(head + body[: len(body) // 2])
            await asyncio.sleep(self._random.uniform(0.1, 1.0))
            self._writer.write(body[len(body) // 2 :])
        else:
            self._writer.write(head + body)
        return await self._answer()

    def _body(self, kind: str) -> bytes:
        row = self._random.choice(self._rows)
        if kind == "list":
            return b"[" + b",".join(self._random.choices(self._rows, k=self._random.randint(2, 50))) + b"]"
        if kind == "bad":
            return self._random.choice(
                [row[:-1], row.replace(b'"energy":', b'"energi":'), b"", b'{"a":1e999}']
            )
        return row

    async def _answer(self) -> tuple[int, bytes]:
        assert self._reader is not None  # noqa: S101 - _send opened it
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head[9:12])
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        body = await self._reader.readexactly(int(length))
        if "connection: close" in head:
            self.close()
        return status, body


async def call(callers: list[Caller], stopped: Callable[[], bool], beside: Awaitable[None]) -> None:
    """Let all callers call until stopped, and `beside` run with them."""
    await asyncio.gather(beside, *(caller.run(stopped) for caller in callers))
