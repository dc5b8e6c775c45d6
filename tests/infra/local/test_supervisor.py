"""Starting and stopping services, with small real ones: what was started is stopped, and nothing else."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local import supervisor
from infra.local.supervisor import Service, StackError, processes, start, stop
from tests.ports import free_port

WEB = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, {options})"
# A parent that starts the real server as a child in a session of its own, as Prefect and MLflow do.
PARENT = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True);"
    "time.sleep(600)"
)

Make = Callable[..., Service]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def web(port: int) -> str:
    """The source of a small web server."""
    return WEB.format(options=f"port={port}, bind='127.0.0.1'")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes services of a home of their own; whatever is left of them in the end is killed."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))

    def service(*code: str, port: int = 0, name: str = "web", **options: object) -> Service:
        port = port or free_port()
        given = {"ready": lambda: answers(port), "env": {}, "timeout": 20.0, **options}
        return Service(
            name=name,
            title="Web server",
            port=port,
            command=(sys.executable, "-c", *(code or (web(port),))),
            variable="GREENROOM_WEB_PORT",
            **given,  # type: ignore[arg-type]
        )

    yield service
    for home in tmp_path.iterdir():
        monkeypatch.setenv("GREENROOM_HOME", str(home))
        for found, _, _ in supervisor.marked():
            found.kill()


def test_service_is_started_until_it_is_ready_and_stopped(make: Make) -> None:
    service = make()
    assert processes(service) == []
    start(service)
    assert answers(service.port)
    assert supervisor.is_current(service)
    assert len(processes(service)) == 1
    assert stop(service)
    assert not answers(service.port)
    assert processes(service) == []
    assert not stop(service)


def test_changed_environment_makes_a_service_stale(make: Make) -> None:
    service = make()
    start(service)
    assert not supervisor.is_current(make(port=service.port, env={"NEW": "1"}))
    assert not supervisor.is_current(make(port=service.port, uses=("other code",)))


def test_children_are_stopped_when_their_parent_was_killed(make: Make) -> None:
    port = free_port()
    service = make(PARENT, web(port), port=port)
    start(service)
    parent, child = sorted(processes(service), key=lambda one: one.ppid() != os.getpid())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(5)
    assert answers(port)
    assert [one.pid for one in processes(service)] == [child.pid]
    assert stop(service)
    assert not child.is_running()
    assert not answers(port)


def test_process_that_ignores_the_signal_is_killed(make: Make) -> None:
    port = free_port()
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {web(port)}"
    service = make(stubborn, port=port)
    start(service)
    assert stop(service, patience=0.2)
    assert processes(service) == []


def test_taken_port_is_named_with_its_holder_and_the_variable(make: Make) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        service = make(port=other.getsockname()[1])
        with pytest.raises(StackError) as refused:
            start(service)
    said = str(refused.value)
    assert f"Port {service.port}" in said
    assert f"by process {os.getpid()} " in said
    assert "GREENROOM_WEB_PORT=PORT" in said
    assert processes(service) == []


def test_taken_extra_port_is_refused_too(make: Make) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(StackError, match=f"Port {taken}"):
            start(make(extra_ports=(taken,)))


def test_service_that_dies_is_reported_with_the_end_of_its_log(make: Make) -> None:
    service = make("import sys; print('early'); sys.exit('no such database')")
    with pytest.raises(StackError, match=r"Web server stopped\.") as refused:
        start(service)
    assert "no such database" in str(refused.value)
    assert str(service.log) in str(refused.value)
    assert not supervisor.is_current(service)


def test_full_disk_in_the_log_is_explained(make: Make) -> None:
    with pytest.raises(StackError, match="disk is full"):
        start(make("import sys; sys.exit('write failed: No space left on device')"))


def test_service_that_never_gets_ready_is_stopped(make: Make) -> None:
    service = make(ready=lambda: False, timeout=0.5)
    with pytest.raises(StackError, match="not ready after"):
        start(service)
    assert processes(service) == []
    assert not supervisor.is_current(service)


def test_error_while_asking_leaves_nothing_running(make: Make) -> None:
    """PostgreSQL's question raises when it refuses the password of stack.env."""

    def refuses() -> bool:
        raise StackError("refuses the password")

    service = make(ready=refuses)
    with pytest.raises(StackError, match="refuses the password"):
        start(service)
    assert processes(service) == []


def test_nothing_of_the_shell_leaks_into_services(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = {
        "MLFLOW_TRACKING_URI": "http://elsewhere",
        "PREFECT_API_URL": "http://elsewhere",
        "AWS_SECRET_ACCESS_KEY": "theirs",
        "GREENROOM_POSTGRES_PASSWORD": "ours",
        "HTTP_PROXY": "http://proxy",
        "PYTHONPATH": "/somewhere",
    }
    for name, value in leaks.items():
        monkeypatch.setenv(name, value)
    service = make(env={"MLFLOW_BACKEND_STORE_URI": "postgresql://"})
    start(service)
    (running,) = processes(service)
    seen = running.environ()
    assert not set(leaks) & set(seen)
    assert seen["MLFLOW_BACKEND_STORE_URI"] == "postgresql://"
    assert seen["PATH"] == os.environ["PATH"]


def test_services_of_another_home_are_not_touched(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make()
    start(ours)
    # A longer path of the same beginning: the marker is compared whole.
    (tmp_path / "home-2").mkdir()
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home-2"))
    assert processes(ours) == []
    assert not stop(ours)
    assert list(supervisor.marked()) == []
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))
    assert [one.status() != psutil.STATUS_ZOMBIE for one in processes(ours)] == [True]
    assert answers(ours.port)


def test_services_of_one_home_are_told_apart(make: Make) -> None:
    first, second = make(name="first"), make(name="second")
    start(first)
    start(second)
    assert stop(first)
    assert not answers(first.port)
    assert answers(second.port)


def test_its_temporary_files_are_in_the_home_and_nobody_elses(make: Make, tmp_path: Path) -> None:
    port = free_port()
    asks = "import os, pathlib, tempfile; pathlib.Path('said').write_text(tempfile.gettempdir());"
    start(make(asks + web(port), port=port))
    temporary = tmp_path / "home" / "tmp"
    assert (tmp_path / "home" / "said").read_text() == str(temporary)
    assert temporary.stat().st_mode & 0o777 == 0o700
