"""The load generator wrk: find it, run it, read its output. A run with errors does not count."""

import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# wrk's timeout for an answer; the slowest peer needs more than wrk's own 2 s at 64 connections.
_TIMEOUT = "30s"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class LoadError(Exception):
    """A run gave no number; the message says why."""


@dataclass(frozen=True)
class Load:
    """One run: requests, requests per second, and latencies in milliseconds."""

    requests: int
    per_second: float
    p50: float
    p99: float
    # Of the server with its children, in microseconds per request; a busy machine distorts this number least.
    cpu: float = float("nan")


def parse(output: str) -> Load:
    """Return what wrk measured; raises `LoadError` for errors, no answers, and other text."""
    if found := re.search(r"^\s*(Non-2xx.*|Socket errors:.*)$", output, re.MULTILINE):
        raise LoadError(found[1].strip())
    requests = re.search(r"(\d+) requests in ", output)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    p50, p99 = (re.search(rf"^\s*{p}%\s+([\d.]+)(us|ms|s|m)\s*$", output, re.MULTILINE) for p in (50, 99))
    if not (requests and rate and p50 and p99):
        raise LoadError(f"this is not what wrk --latency prints: {output.strip()[:200]!r}")
    if int(requests[1]) == 0:
        raise LoadError("not one answer")
    first, second = (float(p[1]) * _SECONDS[p[2]] * 1000 for p in (p50, p99))
    return Load(int(requests[1]), float(rate[1]), first, second)


def median(loads: Iterable[Load]) -> Load:
    """Return the median of each number over several runs."""
    runs = list(loads)
    return Load(
        requests=sum(run.requests for run in runs),
        per_second=statistics.median(run.per_second for run in runs),
        p50=statistics.median(run.p50 for run in runs),
        p99=statistics.median(run.p99 for run in runs),
        cpu=statistics.median(run.cpu for run in runs),
    )


def find(cache: Path) -> str:
    """Return wrk's path: the machine's, or Debian's package unpacked below `cache`."""
    if found := shutil.which("wrk"):
        return found
    inside = cache / "wrk"
    if not (inside / "usr/bin/wrk").exists() and shutil.which("apt-get") and shutil.which("dpkg"):
        inside.mkdir(parents=True, exist_ok=True)
        # As a package into a folder of ours: it needs no root, and leaves the machine as it was.
        subprocess.run(
            ["apt-get", "download", "wrk", "libluajit-5.1-2", "libluajit-5.1-common"],
            cwd=inside,
            check=False,
            capture_output=True,
        )
        for package in inside.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=inside, check=False)
    if (inside / "usr/bin/wrk").exists():
        libraries = ":".join(map(str, (inside / "usr/lib").glob("*-linux-*")))
        launcher = inside / "run"
        launcher.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {inside}/usr/bin/wrk "$@"\n')
        launcher.chmod(0o700)
        return str(launcher)
    raise LoadError("wrk is not here, and could not be fetched. Install it (Debian: apt-get install wrk).")


def run(wrk: str, url: str, body: bytes, *, connections: int, seconds: int) -> Load:
    """POST the JSON `body` to `url` over several kept connections; each sends again after its answer."""
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder:
        script = Path(folder) / "post.lua"
        # A JSON string is a Lua string as long as it escapes nothing but quotes and backslashes.
        text = json.dumps(body.decode("ascii"))
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {text}\n'
        )
        # One thread: the other core is the server's.
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", _TIMEOUT, "--latency"]
        done = subprocess.run(
            [wrk, *options, "-s", str(script), url], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[:200]}")
    return parse(done.stdout)
