"""What stands for Python and for `greenroom` behaves as they do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.warm_commands import warm_greenroom, warm_python


def run(*command: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"], ["promote"]])
def test_greenroom_says_and_ends_as_the_real_one(arguments: list[str], tmp_path: Path) -> None:
    real = Path(sys.executable).with_name("greenroom")
    ends = [
        run(program, *arguments, GREENROOM_HOME=str(tmp_path), COLUMNS="70")
        for program in (real, warm_greenroom())
    ]
    assert len({(end.returncode, end.stdout, end.stderr) for end in ends}) == 1, ends


def test_code_and_modules_see_their_arguments_environment_and_folder(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.environ['MINE'], os.getcwd(), __name__)"
    (tmp_path / "mine.py").write_text(code)
    module = subprocess.run(
        [warm_python(), "-m", "mine", "a", "b c"],
        env={**os.environ, "MINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert module.stdout.split() == [*f"['{tmp_path}/mine.py', 'a', 'b c'] 1 {tmp_path} __main__".split()]
    assert run(warm_python(), "-c", code, "a", MINE="2").stdout == f"['-c', 'a'] 2 {ROOT} __main__\n"


def test_what_reads_the_environment_at_its_import_is_not_imported_yet() -> None:
    code = "import sys; print('sklearn' in sys.modules, 'mlflow' in sys.modules, 'prefect' in sys.modules)"
    assert run(warm_python(), "-c", code).stdout == "True False False\n"


def test_no_thread_and_no_module_of_ours_or_of_a_server_is_there_yet() -> None:
    names = ("mlflow.server", "prefect.server", "registry", "polars", "onnxruntime")
    code = f"import mlflow.sklearn, prefect.main, sys; print(*(name in sys.modules for name in {names}))"
    # The guard, which MLflow loads, is ours.
    assert run(warm_python(), "-c", code).stdout == "False False True False False\n"


def test_prefect_and_mlflow_read_the_environment_at_their_import() -> None:
    code = (
        "import os; os.environ.update(PREFECT_API_URL='http://127.0.0.1:2/api', MLFLOW_LOGGING_LEVEL='ERROR',"
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL='CRITICAL'); import logging, mlflow, prefect.main;"
        "from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL;"
        "loggers = [logging.getLogger(name) for name in ('', 'prefect', 'mlflow', 'alembic')];"
        "levels = [[logger.level, *(one.level for one in logger.handlers)] for logger in loggers];"
        "print(PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value(), levels)"
    )
    before = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_API_AUTH_STRING": "a:b"}
    ends = [run(program, "-c", code, **before).stdout for program in (sys.executable, warm_python())]
    assert ends[0] == ends[1]
    assert ends[0].startswith("http://127.0.0.1:2/api a:b [[30, 50], ")


@pytest.mark.parametrize("package", ["mlflow", "prefect"])
def test_a_package_that_it_has_imported_can_be_run(package: str) -> None:
    ends = [run(program, "-m", package, "--version") for program in (sys.executable, warm_python())]
    assert len({(end.returncode, end.stdout) for end in ends}) == 1, ends
    assert ends[0].returncode == 0


def test_mlflow_has_its_guard_where_the_environment_asks_for_it_at_its_import() -> None:
    code = "import mlflow, sys; print('registry.server.route_guard' in sys.modules, mlflow.__spec__.origin)"
    for variables in ({}, {"_MLFLOW_SERVER_REGISTRY_STORE": "greenroom://"}):
        ends = [run(program, "-c", code, **variables).stdout for program in (sys.executable, warm_python())]
        assert ends[0] == ends[1]
        assert ends[0].startswith(f"{bool(variables)} /")


def test_threads_and_exit_functions_come_to_their_end() -> None:
    code = (
        "import atexit, threading, time; atexit.register(print, 'last');"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start(); print('main')"
    )
    done = run(warm_python(), "-c", code)
    assert (done.returncode, done.stdout) == (0, "main\nthread\nlast\n")


def test_a_process_that_it_starts_with_its_own_python_is_warm_too() -> None:
    inner = "import sys; print(len(sys.modules) > 2000)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    assert run(warm_python(), "-c", code).stdout == "True\n"
