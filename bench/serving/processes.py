"""Servers as process groups: start, pause, CPU time, memory, stop."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent.parent


class StartError(Exception):
    """A server did not start; the message says why."""


@dataclass
class Running:
    """A server that runs. It and its children are one process group."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def pause(self) -> None:
        """Take no CPU time until `resume`."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def members(self) -> list[psutil.Process]:
        """Return the process and its children."""
        with suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self.process.pid)
            return [whole, *whole.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """Return the CPU time of the process and its children, in seconds."""
        taken = 0.0
        for member in self.members():
            with suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                taken += times.user + times.system
        return taken

    def megabytes(self) -> tuple[float, float | None]:
        """Return the resident and, on Linux, the proportional memory of the whole group, in MB."""
        resident, proportional = 0, 0
        for member in self.members():
            found = member.memory_full_info()
            resident += found.rss
            proportional += getattr(found, "pss", 0)
        return resident / 1e6, proportional / 1e6 or None

    def stop(self) -> None:
        """End the whole group."""
        with suppress(ProcessLookupError):
            self.resume()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        """Return the end of the log as one line."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " / ".join(line.strip() for line in lines[-3:])[-400:]


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without Greenroom's settings, without telemetry, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENROOM_")}
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "true"}
    return {**kept, **quiet, "NO_PROXY": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1", **extra}


def start(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path = ROOT) -> Running:
    """Start a server in its own process group."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(process, log)


def wait(running: Running, ready: Callable[[], bool], seconds: float, every: float = 0.05) -> None:
    """Wait until `ready`; raises `StartError` when the process has ended or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError):
            if ready():
                return
        if running.process.poll() is not None:
            raise StartError(f"it ended with code {running.process.returncode}: {running.tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"it is not ready after {seconds:.0f} s: {running.tail()}")
        time.sleep(every)
