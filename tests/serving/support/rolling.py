"""Callers and a balancer for rolling updates, as Kubernetes' Services do it: a connection goes to one of the
ready pods and stays there, also when the pod is no endpoint any more."""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Seen:
    """What the callers saw: requests answered with 200, by backend connections, and what was lost."""

    answered: int = 0
    connections: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


class Service:
    """Balances and calls, in a thread of its own; new connections go to `endpoints`."""

    def __init__(self, request: bytes, callers: int) -> None:
        """Each of `callers` sends `request` over and over; every fourth opens a connection for each."""
        self.endpoints: list[str] = []
        self.seen = Seen()
        self._request, self._callers = request, callers
        self._turn = itertools.count()
        self._done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._balance, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await asyncio.gather(*(self._call(port, one % 4 != 0) for one in range(self._callers)))

    async def _balance(self, *caller: Any) -> None:
        backend = self.endpoints[next(self._turn) % len(self.endpoints)]
        self.seen.connections[backend] += 1
        try:
            pod = await asyncio.open_connection(urlsplit(backend).hostname, urlsplit(backend).port)
        except OSError:
            caller[1].transport.abort()
            return
        await asyncio.gather(_pump(caller[0], pod[1]), _pump(pod[0], caller[1]))

    async def _call(self, port: int, keep_alive: bool) -> None:
        """A client as they all are: it goes on with a connection until an answer says that it is the last."""
        connection: Streams | None = None
        while not self._done.is_set():
            try:
                async with asyncio.timeout(20):
                    connection = connection or await asyncio.open_connection("127.0.0.1", port)
                    connection[1].write(self._request)
                    head = (await connection[0].readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    body = await connection[0].readexactly(length)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self.seen.lost.append(repr(error))
                connection = None
                continue
            if head.startswith(b"http/1.1 200"):
                self.seen.answered += 1
            else:
                self.seen.lost.append((head + body)[:300].decode(errors="replace"))
            if b"connection: close" in head or not keep_alive:
                connection[1].close()
                connection = None
            await asyncio.sleep(0.02)
        if connection:
            connection[1].close()


def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> Coroutine[Any, Any, None]:
    async def pumping() -> None:
        try:
            while chunk := await source.read(65536):
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass  # the other direction sees the same
        finally:
            sink.close()

    return pumping()
