"""Services as plain processes that outlive the command which started them.

A process belongs to a service if it carries the service's marker in its environment: children inherit it,
so nothing is lost when a parent was killed, and there is no pid file to go stale.
"""

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import psutil

from infra.local.settings import is_free
from registry.settings import home

_MARKER = "GREENROOM_SERVICE"
# What a service may see of the caller's environment; the rest (a user's MLFLOW_TRACKING_URI, say) would
# change what it does.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")


class StackError(click.ClickException):
    """The local stack cannot do it; the message says why and what to do."""


@dataclass(frozen=True)
class Service:
    """One service: how to start it, and how to know that it is ready.

    `user` is a system user to run as, for programs that refuse to run as root. A change of `uses` restarts it
    like a change of its command. `start` does not wait until a service that `waits` is ready. `find` returns
    its processes, where the marker cannot.
    """

    name: str
    title: str
    port: int | None
    command: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    variable: str
    user: str | None = None
    uses: Sequence[str] = ()
    stop_signal: int = 15
    timeout: float = 120.0
    extra_ports: Sequence[int] = ()
    waits: bool = False
    find: Callable[[], list[psutil.Process]] | None = None

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return home() / "logs" / f"{self.name}.log"

    @property
    def fingerprint(self) -> str:
        """Changes when the service would be started differently from now."""
        parts = [*self.command, *sorted(f"{k}={v}" for k, v in self.env.items()), *self.uses]
        return sha256("\0".join(parts).encode()).hexdigest()[:12]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return a clean environment for a process of the stack, with telemetry off."""
    return {
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        # A proxy must not come between services on one machine.
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def marked(name: str | None = None) -> Iterator[tuple[psutil.Process, str, str]]:
    """Yield every process of this home's stack as (process, service, fingerprint)."""
    for process in psutil.process_iter():
        try:
            marker = process.environ().get(_MARKER, "")
        except (psutil.Error, OSError):
            # Another user's process, or one that just ended.
            continue
        owner, _, fingerprint = marker.rpartition("|")
        base, _, service = owner.rpartition("|")
        if base == str(home()) and name in (None, service) and process.pid != os.getpid():
            yield process, service, fingerprint


def processes(service: Service) -> list[psutil.Process]:
    """Return the running processes of a service."""
    if service.find:
        return service.find()
    return [
        process
        for process, _, _ in marked(service.name)
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def is_current(service: Service) -> bool:
    """Whether the service's processes were started the way it would be started now."""
    file = _fingerprint_file(service)
    return file.exists() and file.read_text() == service.fingerprint


def as_user(user: str | None) -> dict[str, Any]:
    """Return the arguments that make `subprocess` run a program as another user, groups too."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def start(service: Service) -> None:
    """Start a service and wait until it is ready. Raises `StackError` with the log's last lines."""
    for port in filter(None, (service.port, *service.extra_ports)):
        if not is_free(port):
            raise StackError(
                f"Port {port}, which {service.title} needs, is taken{_holder(port)}. Stop what holds it, "
                f"or choose another: {service.variable}=PORT make up."
            )
    service.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    extra = {_MARKER: f"{home()}|{service.name}|{service.fingerprint}"}
    if service.user is None:
        # Prefect's worker keeps its files there under one fixed name, which the first user would own.
        temporary = home() / "tmp"
        temporary.mkdir(exist_ok=True, mode=0o700)
        extra["TMPDIR"] = str(temporary)
    with service.log.open("ab") as log:
        process = subprocess.Popen(
            list(service.command),
            env=environment({**service.env, **extra}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=home() if service.user is None else "/",
            # What it writes is for this user alone.
            umask=0o077,
            **as_user(service.user),
        )
    if not service.waits:
        try:
            _wait(service, service.timeout, lambda: process.poll() is None)
        except StackError:
            stop(service)
            raise
    file = _fingerprint_file(service)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.write_text(service.fingerprint)


def stop(service: Service, patience: float = 15.0) -> bool:
    """Stop every process of a service, children too; return whether there was one."""
    running = processes(service)
    if not running:
        return False
    # Children with an environment of their own (the gate's checks) carry no marker.
    running = list({*running, *(child for process in running for child in _children(process))})
    members = {process.pid for process in running}
    for process in running:
        # The signal is for the parents: they stop their children in order.
        with suppress(psutil.NoSuchProcess):
            if process.ppid() not in members:
                process.send_signal(service.stop_signal)
    _, alive = psutil.wait_procs(running, timeout=patience)
    kill({*alive, *processes(service)})
    psutil.wait_procs(alive, timeout=5)
    return True


def kill(running: Iterable[psutil.Process]) -> None:
    """Kill processes, of which some may have ended."""
    for process in running:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_ready(service: Service, seconds: float) -> None:
    """Wait for a service that was started without waiting. Raises `StackError` with the log's last lines."""
    _wait(service, seconds, lambda: bool(processes(service)))


def _wait(service: Service, seconds: float, is_running: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not service.ready():
        running = is_running()
        if not running or time.monotonic() > deadline:
            reason = f"is not ready after {seconds:.0f} s" if running else "stopped"
            raise StackError(f"{service.title} {reason}.{_tail(service.log)}")
        time.sleep(0.1)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _fingerprint_file(service: Service) -> Path:
    return home() / "run" / service.name


def _holder(port: int) -> str:
    # macOS, and other users' processes, refuse to be looked at: then the message names the port alone.
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listening = connection.laddr.port if connection.laddr else None
            if connection.status == psutil.CONN_LISTEN and listening == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    if "no space left" in text[-4000:].lower():
        return f" The disk is full: free some space and run `make up` again. Its log is {log}."
    lines = text.strip().splitlines()[-8:]
    return f" Its log, {log}, ends with:\n  " + "\n  ".join(lines)
