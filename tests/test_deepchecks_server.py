"""The script that stands for the Python of `.venv-checks` behaves as that Python does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from catalog.spec import Check, GatePolicy
from checks.gate import run_gate
from tests.checks.conftest import constant_spec, energy, small
from tests.checks.support.sample_models import Small
from tests.deepchecks_server import DeepChecksServer
from tests.waiting import until

__all__ = ["constant_spec", "energy", "small"]
pytestmark = pytest.mark.slow

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(deepchecks_server: DeepChecksServer, tmp_path: Path) -> Start:
    """Start a worker with this text in the place of `checks/worker`."""

    def run(source: str) -> "subprocess.Popen[str]":
        worker = tmp_path / "worker"
        worker.mkdir()
        (worker / "__main__.py").write_text(source)
        return subprocess.Popen(
            [str(deepchecks_server.python), "-s", str(worker), str(tmp_path)],
            cwd=tmp_path,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return run


def test_same_verdict_as_in_a_process_of_its_own(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run uses the default of `GREENROOM_CHECKS_PYTHON`, as an installation does."""
    spec, (train, test), model = small
    checks = tuple(
        Check(check=name, suite="data_integrity", condition=condition, why="a test")
        for name, condition in (
            ("MixedNulls", "different_nulls_less_equal_to"),
            ("NoSuchCheck", "some"),
        )
    )
    spec = spec.model_copy(update={"gate": GatePolicy(checks=checks)})
    warm = run_gate(spec, train=train, test=test, model=model, report_dir=tmp_path / "warm")
    monkeypatch.delenv("GREENROOM_CHECKS_PYTHON")
    cold = run_gate(spec, train=train, test=test, model=model, report_dir=tmp_path / "cold")
    assert [outcome.status for outcome in cold.outcomes] == ["passed", "error"]
    assert warm.outcomes == cold.outcomes


def test_what_the_process_gets(start: Start, tmp_path: Path) -> None:
    process = start(
        "import os, sys, tempfile\n"
        "print(sys.argv, os.getcwd(), sorted(os.environ), tempfile.gettempdir())\n"
        "print('deepchecks' in sys.modules, 'outcomes' in sys.modules, os.getpid() == os.getsid(0))\n"
        "sys.exit(3)"
    )
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    worker, folder = str(tmp_path / "worker"), str(tmp_path)
    assert printed.splitlines() == [
        f"{[worker, folder]} {folder} {['LANG', 'PATH', 'PYTHONHASHSEED', 'TMPDIR']} {folder}",
        "True False True",
    ]


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("raise ValueError('the last words')", 1, "the last words"),
        ("import sys; sys.exit('the last words')", 1, "the last words"),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_the_process_ends(start: Start, source: str, code: int, text: str) -> None:
    process = start(source)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert text in errors


def test_killing_it_kills_the_process(start: Start, tmp_path: Path) -> None:
    process = start("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout
    job = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    until(lambda: not job.is_running(), "the job outlives its client")
    process.communicate()


def test_any_other_command_is_for_the_real_python(deepchecks_server: DeepChecksServer) -> None:
    command = [deepchecks_server.python, "-I", "-c", "import sys; print(sys.prefix)"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith(".venv-checks")


def test_it_ends_with_the_session_even_if_that_is_killed(tmp_path: Path) -> None:
    session = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from pathlib import Path; from tests.deepchecks_server import DeepChecksServer\n"
            f"print(DeepChecksServer(Path({str(tmp_path)!r})).process.pid, flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdout
    server = psutil.Process(int(session.stdout.readline()))
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    session.kill()
    session.communicate()
    until(lambda: not server.is_running(), "the server outlives its session")
