"""uvicorn's HTTP protocol with bounds that uvicorn leaves open, and with one socket write for an answer.

The bounds: how long and how large a request's head may be, how many connections there are, how long a caller
may take to read an answer. Without them a caller who opens connections and sends nothing, or sends headers
without end, takes file handles or memory until no other caller is answered.

When the predictor stops, idle connections may bring one more request: uvicorn closes them at once, and a
request on its way is lost.
"""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving import limits

# Bytes that uvicorn sends in no header: line ends would begin another.
_NOT_IN_VALUES = bytes({*range(32), 127} - {9})
_NOT_IN_NAMES = _NOT_IN_VALUES + b'\t ()<>@,;:\\[]={}"'
# The key of an ASGI scope that says that the whole request has arrived: nothing of it need be waited for.
WHOLE_REQUEST = "greenroom.whole_request"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


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

    # Whether the predictor was told to stop: the next answer is the connection's last.
    _leaving = False
    _head_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
    _idle_timer: TimerHandle | None = None
    # When the last answer was complete, by the event loop's clock.
    _idle_since = 0.0
    _head_bytes = 0
    # Whether a request's head has come and its body has not.
    _in_body = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and hand all to the parser."""
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_body or not self._head_bytes:
            return
        # The head is not whole. Nearly always it is, and no timer is needed.
        self._start_head_timer()
        if self._head_bytes > limits.HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self._close()

    def on_headers_complete(self) -> None:
        """The head is whole: nothing of it is waited for any more."""
        self._stop_head_timer()
        self._head_bytes, self._in_body = 0, True
        super().on_headers_complete()
        self.cycle.__class__ = SingleWriteCycle  # uvicorn makes it, and takes no class for it
        if self._leaving:
            self.cycle.keep_alive = False  # so the answer says `Connection: close`

    def on_message_complete(self) -> None:
        """The body is whole as well; the next head may begin."""
        self._stop_head_timer()
        self._head_bytes, self._in_body = 0, False
        self.scope[WHOLE_REQUEST] = True  # type: ignore[literal-required]
        super().on_message_complete()

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
            self._head_timer = self.loop.call_later(limits.HEAD_TIMEOUT, self._close)

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

    def _close(self) -> None:
        self._stop_head_timer()
        if not self.transport.is_closing():
            self.transport.close()

    def _unread(self) -> None:
        self._read_timer = None
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()


def set_bounds(*, max_connections: int, drain: float) -> None:
    """Set this process's bounds: connections at once, and the seconds of `BoundedProtocol.shutdown`."""
    BoundedProtocol.max_connections = max_connections
    BoundedProtocol.drain = drain
