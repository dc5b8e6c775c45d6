"""The processes of a local stack, found here and not by the code under test, and how to kill them."""

import signal

import psutil

from tests.conftest import Stack


def processes_of(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The stack's processes by service, the leader first."""
    data = str(stack.home / "postgres" / "data")
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            marker = process.environ().get("GREENROOM_SERVICE", "")
            if marker.startswith(f"{stack.home}|"):
                found.setdefault(marker.split("|")[1], []).append(process)
            elif data in process.cmdline():
                found["postgres"] = [process, *process.children(recursive=True)]
        except (psutil.Error, OSError):
            continue
    for group in found.values():
        pids = {process.pid for process in group}
        group.sort(key=lambda process: process.ppid() in pids)
    return found


def kill(stack: Stack, service: str, *, whole: bool) -> None:
    """Kill a service's leader, or all of it, with no chance to clean up."""
    group = processes_of(stack)[service]
    for process in group if whole else group[:1]:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(group if whole else group[:1], timeout=10)
