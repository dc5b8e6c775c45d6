"""`make bench-compose`: image sizes, start times and memory of the stack in containers, as Markdown.

Runs on the stack of `.env`, which must have been up before. Its content does not matter. The bench stops and
starts it once.
"""

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime

_COMPOSE = os.environ.get("COMPOSE", "docker compose").split()
_SETTLE = 30  # seconds after the last service is healthy, before memory is read
_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main() -> None:
    """Print the tables."""
    _run("make", "-s", "compose-down")
    began, since = time.monotonic(), time.time()
    _run("make", "-s", "compose-up")
    whole = time.monotonic() - began
    containers = [
        json.loads(_run("docker", "inspect", one))[0] for one in _run(*_COMPOSE, "ps", "-q").split()
    ]
    healthy = _healthy_at(since)
    time.sleep(_SETTLE)
    images = {one["Config"]["Image"] for one in containers}
    _say("| image | MB |\n|---|---:|")
    for image in sorted(images):
        size = int(_run("docker", "image", "inspect", "-f", "{{.Size}}", image))
        _say(f"| `{image}` | {size / 1e6:.0f} |")
    _say("\n| service | start to healthy, s | memory, MB |\n|---|---:|---:|")
    for one in sorted(containers, key=lambda c: str(c["State"]["StartedAt"])):
        service = one["Config"]["Labels"]["com.docker.compose.service"]
        if one["State"]["Status"] != "running":
            ran = _moment(one["State"]["FinishedAt"]) - _moment(one["State"]["StartedAt"])
            _say(f"| {service} (job) | {ran.total_seconds():.1f} | |")
            continue
        after = healthy[one["Id"]] - _moment(one["State"]["StartedAt"]).timestamp()
        _say(f"| {service} | {after:.1f} | {_memory(one['Id']):.0f} |")
    _say(f"| **`make compose-up`, from nothing running** | **{whole:.1f}** | |")


def _healthy_at(since: float) -> dict[str, float]:
    """Return when each container was first healthy; the engine keeps its events for a limited time."""
    said = _run(
        *("docker", "events", "--since", f"{since:.0f}", "--until", f"{time.time():.0f}"),
        *("--filter", "event=health_status", "--format", "{{json .}}"),
    )
    found: dict[str, float] = {}
    for line in said.splitlines():
        event = json.loads(line)
        if event["Action"] == "health_status: healthy":
            found.setdefault(event["Actor"]["ID"], event["timeNano"] / 1e9)
    return found


def _memory(container: str) -> float:
    used = (
        _run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container).split("/")[0].strip()
    )
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]+)", used).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit.upper()] / 2**20


def _moment(text: str) -> datetime:
    # Nanoseconds, which Python 3.11 does not read.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00"))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
