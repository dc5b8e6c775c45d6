"""Bounds that uvicorn leaves open: how long and large a head may be, how many connections there are, and
how long a caller may take to read an answer.

Without them whoever opens connections and says nothing, or sends headers without end, takes file handles or
memory until nobody else is answered.
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

    _head_timer: TimerHandle | None = None
    _read_timer: TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it at once when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, and hand all to the parser."""
        if self.cycle is None or self.cycle.response_complete:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > self.max_head_bytes:
            self.transport.write(_TOO_LARGE)
            self._close()

    def on_headers_complete(self) -> None:
        """The head is whole: nothing of it is waited for any more."""
        self._stop(self._head_timer)
        self._head_timer, self._head_bytes = None, 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The answer is written; whether it is read is looked at later, if it does not fit the buffers."""
        super().on_response_complete()
        if self._read_timer is None and self.transport.get_write_buffer_size() > 0:
            self._read_timer = self.loop.call_later(self.read_timeout, self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers with the connection."""
        self._stop(self._head_timer)
        self._stop(self._read_timer)
        self._head_timer = self._read_timer = None
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._close)

    def _close(self) -> None:
        self._stop(self._head_timer)
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _unread(self) -> None:
        self._read_timer = None
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()

    @staticmethod
    def _stop(timer: TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def set_bounds(*, max_connections: int, head_timeout: float, read_timeout: float) -> None:
    """Set this process's bounds: connections at once, seconds for a head, seconds to read an answer.

    On the class, because uvicorn makes the protocols and takes no arguments for them.
    """
    BoundedProtocol.max_connections = max_connections
    BoundedProtocol.head_timeout, BoundedProtocol.read_timeout = head_timeout, read_timeout
