"""Receivers of notifications on this machine: one of HTTP, one of mail, one that never answers."""

import json
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@dataclass
class Received:
    """A receiver's port and what came, in order."""

    port: int
    bodies: list[dict[str, Any]] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)

    @property
    def titles(self) -> list[str]:
        """The titles that came."""
        return [str(body["title"]) for body in self.bodies]


@contextmanager
def http_receiver(status: int = 200) -> Iterator[Received]:
    """Take what apprise's json:// sends, and answer with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.bodies.append({**json.loads(body), "path": self.path})
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        received = Received(port)
        yield received


@contextmanager
def mail_receiver() -> Iterator[Received]:
    """Take mail by as much of SMTP (RFC 5321) as a client needs that does not log in."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 here")
            while line := self.rfile.readline():
                command = line[:4].upper()
                if command == b"DATA":
                    self._say("354 go on")
                    received.mails.append(self._mail())
                self._say("221 bye" if command == b"QUIT" else "250 well")
                if command == b"QUIT":
                    return

        def _mail(self) -> EmailMessage:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b"."))
            return message_from_bytes(b"".join(lines), policy=policy.default)

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        received = Received(port)
        yield received


@contextmanager
def silent_receiver() -> Iterator[int]:
    """Accept connections and never answer."""
    over = Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            over.wait(60)

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port
        over.set()


@contextmanager
def _running(server: Any) -> Iterator[int]:
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
