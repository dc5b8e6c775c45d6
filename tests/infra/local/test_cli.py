"""`greenroom up`, `down` and `status` where something is in the way, and two stacks side by side."""

import fcntl
import json
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import Stack
from tests.infra.local.test_stack import SERVICES, pids_of, processes_of, states_of


@pytest.fixture
def empty(tmp_path: Path) -> Stack:
    """A home in which nothing was ever started."""
    return Stack(tmp_path / "home")


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command that refused printed."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_status_of_an_empty_home(empty: Stack) -> None:
    done = empty.greenroom("status")
    assert done.returncode == 1
    assert f"There is no stack in {empty.home} yet; `make up` starts one." in done.stdout.replace("\n", " ")
    done = empty.greenroom("status", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["services"], found["models"]) == ([], [])
    assert "no stack" in found["problem"]
    assert not empty.home.exists()


def test_down_of_an_empty_home_is_harmless(empty: Stack) -> None:
    done = empty.greenroom("down")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no stack" in done.stdout
    assert not empty.home.exists()


@pytest.mark.parametrize("command", ["up", "down"])
def test_second_command_says_that_another_is_at_work(empty: Stack, command: str) -> None:
    empty.home.mkdir()
    (empty.home / "stack.env").touch()
    with (empty.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = empty.greenroom(command)
    assert "Another greenroom up or down is at work" in refusal(done)
    assert str(empty.home) in done.stderr
    assert processes_of(empty) == {}


@pytest.mark.parametrize("command", ["up", "status"])
def test_home_that_cannot_be_one_is_refused(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    stack = Stack(tmp_path / "file" / "home")
    done = stack.greenroom(command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(stack.home) in done.stdout + done.stderr


def test_home_that_may_not_be_written_to_is_refused_with_a_way_out() -> None:
    """/proc refuses everybody, root too."""
    said = refusal(Stack(Path("/proc/greenroom")).greenroom("up"))
    assert "/proc/greenroom" in said


@pytest.mark.parametrize("port", ["80", "70000", "web"])
def test_bad_port_is_refused_by_name(empty: Stack, port: str) -> None:
    said = refusal(empty.greenroom("up", "--no-train", GREENROOM_MLFLOW_PORT=port))
    assert "GREENROOM_MLFLOW_PORT" in said
    assert processes_of(empty) == {}


@pytest.mark.slow
def test_taken_port_is_refused_and_the_second_try_goes_through(stack: Stack, tmp_path: Path) -> None:
    """A second home: refused while its port is taken, then up next to the first, then down alone."""
    second, before = Stack(tmp_path / "home"), pids_of(stack)
    # What a killed initdb leaves.
    leftover = second.home / "postgres" / "initdb-xyz" / "data"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    try:
        with socket.socket() as other:
            other.bind(("127.0.0.1", second.ports["MLFLOW"]))
            other.listen()
            said = refusal(second.greenroom("up", "--no-train"))
        assert f"Port {second.ports['MLFLOW']}" in said
        assert "GREENROOM_MLFLOW_PORT" in said
        assert not leftover.exists()

        done = second.greenroom("up", "--no-train")
        assert done.returncode == 0, done.stdout + done.stderr
        assert states_of(second) == dict.fromkeys(SERVICES, "up")
        assert httpx.get(f"{second.tracking_url}/health").is_success
        # The ports are remembered: a shell that knows the home alone finds the same stack.
        bare = Stack(second.home, ports={})
        assert states_of(bare) == dict.fromkeys(SERVICES, "up")

        done = bare.greenroom("down")
        assert done.returncode == 0, done.stderr
        assert processes_of(second) == {}
        again = bare.greenroom("down")
        assert again.returncode == 0, again.stderr
        assert "Nothing was running" in again.stdout
        found = json.loads(bare.greenroom("status", "--json").stdout)
        assert {s["state"] for s in found["services"]} == {"down"}
        assert "make up" in found["problem"]
    finally:
        second.end()
    assert pids_of(stack) == before
    assert set(states_of(stack).values()) == {"up"}
