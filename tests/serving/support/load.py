"""Constant load on one model, from a process of its own: `python load.py URL MODEL CONNECTIONS BODIES`.

BODIES is a file of JSON: pairs of a request's body and the numbers that version 0 would answer, one per row.
Version N answers STEP * N more, so that each number says by itself which version and which row it is of; an
answer with a row of another version, of another request, or in another place is a failure like any other.

Every connection asks again as soon as it is answered and has paused, and is opened once: a connection that
breaks is a failure too. For each line on standard input it says what it has counted so far, as a line of
JSON (`Counted`); at the end of the input each connection finishes its request, and it says so a last time.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

STEP = 10_000.0
CONNECTIONS = 64
# About 600 requests a second from 64 connections: little enough for a registry to work on the same two cores.
_PAUSE = 0.1


@dataclass
class Counted:
    """What was seen: answers by the version that gave them, rows, and what went wrong."""

    answers: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.failed += 1
        if len(self.failures) < 10:
            self.failures.append(what[:500])


def judge(answer: dict[str, Any], expected: list[float], counted: Counted) -> None:
    """Count an answer, whose rows must all be of the version that it names, in the order of the request."""
    version = int(answer["version"])
    found = [row["prediction"] for row in answer.get("predictions", [answer])]
    should = [STEP * version + number for number in expected]
    counted.answers[str(version)] = counted.answers.get(str(version), 0) + 1
    counted.rows += len(found)
    if len(found) != len(should) or any(abs(a - b) > 0.25 for a, b in zip(found, should, strict=True)):
        counted.fail(f"version {version} answered {found[:5]}, not {should[:5]}")


class Caller:
    """One connection."""

    def __init__(self, url: str, path: str, counted: Counted) -> None:
        self._to = (urlsplit(url).hostname, urlsplit(url).port)
        self._path, self._counted = path, counted

    async def run(self, bodies: list[tuple[str, list[float]]], done: asyncio.Event) -> None:
        """Ask until `done`."""
        try:
            reader, writer = await asyncio.open_connection(*self._to)
        except OSError as error:
            self._counted.fail(f"not connected: {error!r}")
            return
        place = 0
        while not done.is_set():
            body, expected = bodies[place % len(bodies)]
            place += 1
            try:
                async with asyncio.timeout(60):
                    status, answer = await self._ask(reader, writer, body.encode())
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._counted.fail(f"no answer: {error!r}")
                break
            if status == 200:
                judge(json.loads(answer), expected, self._counted)
            else:
                self._counted.fail(f"{status}: {answer!r}")
            await asyncio.sleep(_PAUSE)
        writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> tuple[int, bytes]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(line.partition(":")[2] for line in lines if line.startswith("content-length:"))
        return int(lines[0].split()[1]), await reader.readexactly(int(length))


async def run(url: str, model: str, connections: int, bodies: list[tuple[str, list[float]]]) -> None:
    """Keep the load up until standard input ends."""
    counted, done = Counted(), asyncio.Event()
    caller = Caller(url, f"/api/predict/{model}", counted)
    # Each begins with another body, so that different ones arrive together.
    turned = [bodies[n % len(bodies) :] + bodies[: n % len(bodies)] for n in range(connections)]
    tasks = [asyncio.create_task(caller.run(mine, done)) for mine in turned]
    while await asyncio.to_thread(sys.stdin.readline):
        say(counted)
    done.set()
    await asyncio.gather(*tasks)
    say(counted)


def say(counted: Counted) -> None:
    sys.stdout.write(json.dumps(asdict(counted)) + "\n")
    sys.stdout.flush()


class Load:
    """Starts and ends such a process, and asks it what it has seen."""

    def __init__(self, url: str, model: str, bodies: Path, connections: int = CONNECTIONS) -> None:
        command = [sys.executable, __file__, url, model, str(connections), str(bodies)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass

    def counted(self) -> Counted:
        """Return what it has seen so far."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._said()

    def finish(self) -> Counted:
        """Let each connection finish its request, and return all that was seen."""
        assert self._process.stdin
        self._process.stdin.close()
        found = self._said()
        assert self._process.wait(60) == 0
        return found

    def _said(self) -> Counted:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the load generator ended"
        return Counted(**json.loads(line))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(Path(sys.argv[4]).read_text())))
