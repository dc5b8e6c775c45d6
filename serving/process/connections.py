"""uvicorn's HTTP protocol with bounds that uvicorn leaves open, and with one socket write for an answer.

The bounds: how long and how large a request's head may be, how many connections there are, in all and of one
address, how long a caller may take to read an answer. Without them a caller who opens connections and sends
nothing, or sends headers without end, takes file handles or memory until no other caller is answered.

When the predictor stops, idle connections may bring one more request: uvicorn closes them at once, and a
request on its way is lost.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving import limits
from serving.callers import Network, address_of, is_within

# Bytes that uvicorn sends in no header: line ends would begin another.
_NOT_IN_VALUES = bytes({*range(32), 127} - {9})
_NOT_IN_NAMES = _NOT_IN_VALUES + b'\t ()<>@,;:\\[]={}"'
# The key of an ASGI scope that says that the whole request has arrived: nothing of it need be waited for.
WHOLE_REQUEST = "greenroom.whole_request"
_EMPTY_LINE = b"\r\n\r\n"
Refusal = Literal["connections", "caller_connections", "head_late", "head_size"]
# A body that is sent in chunks has a size before each; one with more than so many such bytes for each of its
# own is sent for no other purpose.
_CHUNKING = 8


def _refusal(status: HTTPStatus, message: str) -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\n"
        f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(message)}\r\n\r\n{message}"
    ).encode()


class SingleWriteCycle(RequestResponseCycle):
    """uvicorn's request and response, but an answer in one piece leaves in one write to the socket.

    uvicorn writes head and body apart and examines each header by itself. That was 15 % of the time of a
    small answer.
    """

    _start: ASGISendEvent | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Keep the start of an answer until its body comes, then send both."""
        start, self._start = self._start, None
        if start is None:
            if message["type"] == "http.response.start" and not self.response_started:
                self._start = message
            else:
                await super().send(message)
        elif not self._sent_at_once(start, message):
            await super().send(start)
            await super().send(message)

    def _sent_at_once(self, start: Any, message: Any) -> bool:
        """Write an answer of one piece; return False, with nothing written, where uvicorn must decide.

        uvicorn decides about answers in several pieces, without a length or with a wrong one, about the end
        of a connection, and about headers that may not be sent.
        """
        if message.get("more_body") or not self.keep_alive or self.disconnected or self.flow.write_paused:
            return False
        body, headers = message.get("body", b""), [*self.default_headers, *start["headers"]]
        names, values = map(b"".join, zip(*headers, strict=True))
        if (
            (b"content-length", b"%d" % len(body)) not in headers
            or self.scope["method"] == "HEAD"
            or not names.islower()
            or b"connection" in names
            or b"transfer-encoding" in names
            or len(names.translate(None, _NOT_IN_NAMES)) < len(names)
            or len(values.translate(None, _NOT_IN_VALUES)) < len(values)
        ):
            return False
        head = b"\r\n".join([b": ".join(header) for header in headers])
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(b"%b%b\r\n\r\n%b" % (STATUS_LINE[start["status"]], head, body))
        self.message_event.set()
        self.on_response()
        return True


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on heads, connections and unread answers."""

    # uvicorn makes the protocols and takes no arguments for them: see `set_bounds`.
    max_connections = 1000
    drain = 0.0
    proxies: ClassVar[Sequence[Network]] = ()
    counters: ClassVar[tuple[Callable[[Refusal], None], ...]] = ()

    # Connections by address, the oldest first; those of proxies are all under their own.
    _of_callers: ClassVar[dict[str, dict["BoundedProtocol", None]]] = {}
    _caller = ""
    # Since when a head has been waited for, by the event loop's clock; None while none is.
    _head_since: float | None = None
    # Whether the predictor was told to stop: the next answer is the connection's last.
    _leaving = False
    _head_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
    _idle_timer: TimerHandle | None = None
    # When the last answer was complete, by the event loop's clock.
    _idle_since = 0.0
    # Bytes of a head that has begun and is not whole, and the last of them, in which its end may begin.
    _head_bytes, _head_tail = 0, b""
    _in_head = False
    # Whether a request's head has come and its body has not; bytes of that body, and bytes that came for it.
    _in_body = False
    _body_bytes = _received = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once when there are too many."""
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        self._caller = address_of(host)
        own = self._of_callers.setdefault(self._caller, {})
        own[self] = None
        bounded = not is_within(host, self.proxies)
        if bounded:
            self._close_unfinished(own)
        if len(self.connections) > self.max_connections and self._is_full() and not self._make_room(own):
            self._count_refusal("connections")
            transport.abort()
        elif bounded and len(own) > limits.CALLER_CONNECTIONS:
            message = f"More than {limits.CALLER_CONNECTIONS} connections are open from your address."
            self._refuse(
                HTTPStatus.TOO_MANY_REQUESTS, f"{message} Close some, or keep fewer.", "caller_connections"
            )
        else:
            self._head_since = self.loop.time()
            self._start_head_timer()

    def _close_unfinished(self, own: "dict[BoundedProtocol, None]") -> None:
        """Close a caller's oldest connections that wait for a head, beyond those that a caller may have."""
        if len(own) <= limits.CALLER_HEADS:
            return
        before = self.loop.time() - limits.HEAD_GRACE
        waiting = [connection for connection in own if connection._waits_since(before)]
        for connection in waiting[: max(0, len(waiting) - limits.CALLER_HEADS)]:
            connection._head_late()

    def _is_full(self) -> bool:
        """Whether there are too many connections without those that are being closed."""
        return sum(map(len, self._of_callers.values())) > self.max_connections

    def _make_room(self, own: "dict[BoundedProtocol, None]") -> bool:
        """Close a silent connection of the caller who has most of them, if that is not this one."""
        most = max(self._of_callers.values(), key=len)
        if len(most) <= len(own):
            return False
        now = self.loop.time()
        for connection in most:
            if connection._waits_since(now):
                connection._head_late()
                return True
        for connection in most:
            if connection._is_idle():
                connection._close()
                return True
        return False

    def _waits_since(self, before: float) -> bool:
        return self._head_since is not None and self._head_since <= before and not self.transport.is_closing()

    def _is_idle(self) -> bool:
        if self.transport.is_closing() or self._in_body or self.cycle is None:
            return False
        return bool(self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        """Bound what belongs to a head, and hand all to the parser."""
        most = limits.HEAD_BYTES
        # In pieces no longer than a head may be: a head that is whole in one of them is short enough.
        self._take(data if len(data) <= most else data[:most])
        for first in range(most, len(data), most):
            if not self.transport.is_closing():
                self._take(data[first : first + most])

    def _take(self, data: bytes) -> None:
        in_body = self._in_body
        if self._head_bytes and self._head_bytes + len(data) > limits.HEAD_BYTES:
            before, end, _ = (self._head_tail + data).partition(_EMPTY_LINE)
            if not end or self._head_bytes - len(self._head_tail) + len(before + end) > limits.HEAD_BYTES:
                self._refuse_head()
                return
        self._received += len(data)
        super().data_received(data)
        if in_body and (
            len(self.headers) > limits.MAX_HEADERS
            or self._received > limits.HEAD_BYTES + (1 + _CHUNKING) * self._body_bytes
        ):
            self.transport.abort()
        if self._in_head:
            self._count_head(data)

    def _count_head(self, data: bytes) -> None:
        """Remember how much of a head has come. Nearly always it is whole, and no timer is needed."""
        # What came before it in the same piece ended with an empty line.
        part = data if self._head_bytes else data.rpartition(_EMPTY_LINE)[2]
        self._head_bytes += len(part)
        self._head_tail = (self._head_tail + part)[-3:]
        if self._head_since is None:
            self._head_since = self.loop.time()
        self._start_head_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: nothing of it is waited for any more."""
        self._stop_head_timer()
        self._in_head, self._head_bytes, self._head_tail, self._head_since = False, 0, b"", None
        if len(self.headers) > limits.MAX_HEADERS:
            raise ValueError("too many headers")  # see `send_400_response`
        self._in_body, self._body_bytes, self._received = True, 0, 0
        super().on_headers_complete()
        self.cycle.__class__ = SingleWriteCycle  # uvicorn makes it, and takes no class for it
        if self._leaving:
            self.cycle.keep_alive = False  # so the answer says `Connection: close`

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole as well; the next head may begin."""
        self._stop_head_timer()
        self._in_body = False
        self.scope[WHOLE_REQUEST] = True  # type: ignore[literal-required]
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take."""
        if len(self.headers or ()) > limits.MAX_HEADERS:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        most = f"{limits.HEAD_BYTES} bytes and {limits.MAX_HEADERS} headers"
        message = f"A request's line and headers together may have {most}; send fewer."
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message, "head_size")

    def _head_late(self) -> None:
        """Close a connection that brings no head in time; who has begun one reads why."""
        if self._head_bytes:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                "The request's line and headers did not arrive in time; send them at once.",
                "head_late",
            )
            return
        if self._head_since is not None:
            self._count_refusal("head_late")
        self._close()

    def _count_refusal(self, reason: Refusal) -> None:
        for count in self.counters:
            count(reason)

    def _refuse(self, status: HTTPStatus, message: str, reason: Refusal) -> None:
        self._count_refusal(reason)
        if not self.transport.is_closing():
            self.transport.write(_refusal(status, message))
        self._close()

    def on_response_complete(self) -> None:
        """The answer is written. Whether it is read is checked later, if it does not fit the buffers.

        What is still to come of a body that was answered before its end is taken and thrown away, for a
        while: a caller who is refused in the middle of sending can then read the answer.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            self._start_idle_timer(self.timeout_keep_alive)
        if self._in_body:
            self._start_head_timer()
        # uvicorn writes nothing more before this is read, so a new timer gives no caller more time.
        self._stop_read_timer()
        if self.transport.get_write_buffer_size() > 0:
            self._start_read_timer()

    def pause_writing(self) -> None:
        """The buffers are full: the caller must read."""
        super().pause_writing()
        self._start_read_timer()

    def resume_writing(self) -> None:
        """The caller has read."""
        super().resume_writing()
        self._stop_read_timer()

    def shutdown(self) -> None:
        """The predictor was told to stop: finish what is under way, and let an idle caller ask once more.

        A caller that asks within `drain` seconds is answered with `Connection: close` and knows that the next
        request needs another connection. One that does not ask is closed then.
        """
        self._leaving = True
        if self.drain and (self.cycle is None or self.cycle.response_complete):
            self.loop.call_later(self.drain, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers with the connection."""
        self._stop_head_timer()
        self._stop_read_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._forget()
        super().connection_lost(exc)
        self._stop_read_timer()  # uvicorn resumes writing to wake waiting tasks

    def _start_idle_timer(self, seconds: float) -> None:
        # It runs on through requests: uvicorn's own, which starts anew for each, took 3 % of a small answer.
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(seconds, self._end_idleness)

    def _end_idleness(self) -> None:
        """Close the connection if its last answer is as long ago as uvicorn lets a connection be idle."""
        self._idle_timer = None
        rest = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if rest > 0:
            self._start_idle_timer(rest)
        elif self.cycle.response_complete and self._head_timer is None:
            self._close()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(limits.HEAD_TIMEOUT, self._head_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_read_timer(self) -> None:
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(limits.READ_TIMEOUT, self._unread)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _forget(self) -> None:
        """Count this connection no more."""
        own = self._of_callers.get(self._caller, {})
        own.pop(self, None)
        if not own:
            self._of_callers.pop(self._caller, None)

    def _close(self) -> None:
        self._forget()
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.close()

    def _unread(self) -> None:
        self._read_timer = None
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()


def set_bounds(
    *,
    max_connections: int,
    drain: float,
    proxies: Sequence[Network] = (),
    rejected: Callable[[Refusal], None] = lambda _: None,
) -> None:
    """Set this process's bounds: connections at once, and the seconds of `BoundedProtocol.shutdown`.

    Connections from `proxies` are not bounded by address. `rejected` is called for each that is refused.
    """
    BoundedProtocol.max_connections = max_connections
    BoundedProtocol.drain = drain
    BoundedProtocol.proxies = tuple(proxies)
    BoundedProtocol.counters = (rejected,)
