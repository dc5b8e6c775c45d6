"""Bounds that uvicorn leaves open: how long and large a head may be, how many connections there are, and
how long a caller may take to read an answer.

Without them whoever opens connections and says nothing, or sends headers without end, takes file handles or
memory until nobody else is answered.

And how a predictor that is told to stop takes leave: uvicorn closes idle connections at once, also one on
which a request is on its way, which is lost then.
"""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on heads, connections and unread answers."""

    # See `set_bounds`.
    max_connections = 1000
    max_head_bytes = 64 * 1024
    head_timeout = 10.0
    read_timeout = 30.0
    drain = 0.0

    # Whether the predictor was told to stop: the next answer is the connection's last.
    _leaving = False
    _head_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
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
            self._start_head_timer()
        super().data_received(data)
        if not self._in_body and self._head_bytes > self.max_head_bytes:
            self.transport.write(_TOO_LARGE)
            self._close()

    def on_headers_complete(self) -> None:
        """The head is whole: nothing of it is waited for any more."""
        self._stop_head_timer()
        self._head_bytes, self._in_body = 0, True
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False  # so the answer says `Connection: close`

    def on_message_complete(self) -> None:
        """The body is whole as well; the next head may begin."""
        self._stop_head_timer()
        self._head_bytes, self._in_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written. Whether it is read is looked at later, if it does not fit the buffers.

        What is still to come of a body that was answered before its end is taken and thrown away, for a
        while: who is refused in the middle of sending shall read why, and not see the connection break.
        """
        super().on_response_complete()
        if self._in_body:
            self._start_head_timer()
        # uvicorn writes nothing more before this is read, so that starting anew gives nobody more time.
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
        super().connection_lost(exc)
        self._stop_read_timer()  # uvicorn resumes writing to wake whoever waits

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout, self._close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_read_timer(self) -> None:
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_timeout, self._unread)

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


def set_bounds(*, max_connections: int, head_timeout: float, read_timeout: float, drain: float) -> None:
    """Set this process's bounds: connections at once, seconds for a head, seconds to read an answer, and
    seconds in which idle callers may ask once more when it is told to stop.

    On the class, because uvicorn makes the protocols and takes no arguments for them.
    """
    BoundedProtocol.max_connections = max_connections
    BoundedProtocol.head_timeout, BoundedProtocol.read_timeout = head_timeout, read_timeout
    BoundedProtocol.drain = drain
