"""Setting up the environments: what stops it is said in one message, and what is half done is done anew."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.ports import free_port

NEWER = [f"python3.{minor}" for minor in range(11, 15)]
SCRIPT = ROOT / "infra" / "bootstrap.py"


class Version(NamedTuple):
    """What `sys.version_info` looks like."""

    major: int
    minor: int
    micro: int = 0


class Recorder:
    """Takes the place of `_run`: makes what a command would make, and remembers what was asked."""

    def __init__(self, fails_at: str = "") -> None:
        self.steps: list[str] = []
        self.fails_at = fails_at

    def __call__(self, command: list[str], what: str) -> None:
        self.steps.append(what)
        if self.fails_at and what.startswith(self.fails_at):
            raise KeyboardInterrupt
        if what == "creating a virtual environment":
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The part of a checkout that the script reads."""
    (tmp_path / "infra").mkdir()
    shutil.copy(SCRIPT, tmp_path / "infra")
    shutil.copytree(ROOT / "infra" / "requirements", tmp_path / "infra" / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def bootstrap(checkout: Path) -> ModuleType:
    """The script, loaded from that checkout."""
    spec = importlib.util.spec_from_file_location("greenroom_bootstrap", checkout / "infra" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ran(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(bootstrap, "_run", recorder)
    return recorder


def stamp(checkout: Path, venv: str = ".venv") -> Path:
    return checkout / venv / "greenroom-setup.txt"


def old_python(monkeypatch: pytest.MonkeyPatch, which: Callable[[str], str | None]) -> None:
    monkeypatch.setattr(sys, "version_info", Version(3, 9))
    monkeypatch.setattr(shutil, "which", which)


def test_too_old_python_is_refused_with_what_to_do(
    bootstrap: ModuleType, ran: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old_python(monkeypatch, {}.get)
    assert bootstrap.main([]) == 1
    said = capsys.readouterr().err
    assert "this is Python 3.9" in said
    assert "3.11 or newer" in said
    assert "make PYTHON=python3.12 up" in said
    assert ran.steps == []


def test_old_python_hands_over_to_a_newer_one_on_the_path(
    bootstrap: ModuleType, ran: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_python(monkeypatch, {"python3.12": sys.executable}.get)

    class HandedOverError(Exception):
        """execv does not come back."""

    handed: list[tuple[str, list[str]]] = []

    def execv(program: str, arguments: list[str]) -> None:
        handed.append((program, arguments))
        raise HandedOverError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["infra/bootstrap.py", "dev"])
    with pytest.raises(HandedOverError):
        bootstrap.main(["dev"])
    assert handed == [(sys.executable, [sys.executable, "infra/bootstrap.py", "dev"])]


def test_newer_python_that_does_not_run_is_passed_over(
    bootstrap: ModuleType, ran: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyenv leaves such: a name on PATH that says that the version is not installed."""
    old_python(monkeypatch, dict.fromkeys(NEWER, "/bin/false").get)
    assert bootstrap.main([]) == 1
    assert ran.steps == []


@pytest.mark.slow
def test_no_network_is_one_clear_message(checkout: Path) -> None:
    index = f"http://127.0.0.1:{free_port()}/simple"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    environment |= {"PIP_INDEX_URL": index, "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, str(checkout / "infra" / "bootstrap.py")],
        env={**environment, "PIP_NO_CACHE_DIR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("Set-up stopped") == 1
    assert "package index could not be reached" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (checkout / ".venv" / "bin" / "python").exists()
    assert not stamp(checkout).exists()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: failed to write: Disk quota exceeded (os error 122)", "disk is full"),
        (
            "The virtual environment was not created successfully because ensurepip is not\navailable.",
            "without the `venv` module",
        ),
        ("/usr/bin/python3: No module named ensurepip", "without the `venv` module"),
        ("error: Failed to fetch: `https://pypi.org/simple/x/`", "index could not be reached"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'",
            "index could not be reached",
        ),
    ],
)
def test_output_is_explained(bootstrap: ModuleType, output: str, expected: str) -> None:
    assert expected in bootstrap._explain("installing", output)


def test_other_output_is_shown_as_it_is(bootstrap: ModuleType) -> None:
    said = bootstrap._explain("installing uv", "line 1\nhash mismatch for uv")
    assert "hash mismatch for uv" in said
    assert "index could not be reached" not in said
    assert "disk is full" not in said


def test_full_disk_while_writing_is_explained(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(command: list[str], what: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bootstrap, "_run", full)
    assert bootstrap.main([]) == 1
    assert "disk is full" in capsys.readouterr().err


def test_fresh_checkout_gets_both_environments_and_is_then_left_alone(
    bootstrap: ModuleType, ran: Recorder, checkout: Path
) -> None:
    assert bootstrap.main([]) == 0
    assert ran.steps.count("creating a virtual environment") == 2
    assert stamp(checkout).exists()
    assert stamp(checkout, ".venv-checks").exists()
    ran.steps.clear()
    assert bootstrap.main([]) == 0
    assert ran.steps == []


@pytest.mark.parametrize("step", ["installing uv", "installing pinned", "installing Greenroom"])
def test_half_finished_environment_is_rebuilt(
    bootstrap: ModuleType, ran: Recorder, checkout: Path, step: str
) -> None:
    ran.fails_at = step
    assert bootstrap.main([]) == 130
    assert not stamp(checkout).exists()
    leftover = checkout / ".venv" / "half-way"
    leftover.touch()
    ran.fails_at = ""
    ran.steps.clear()
    assert bootstrap.main([]) == 0
    assert ran.steps[:2] == ["creating a virtual environment", "installing uv"]
    assert not leftover.exists()


def test_upgrade_that_is_killed_leaves_no_stamp(bootstrap: ModuleType, ran: Recorder, checkout: Path) -> None:
    assert bootstrap.main([]) == 0
    with (checkout / "infra" / "requirements" / "app.txt").open("a") as file:
        file.write("# changed\n")
    ran.fails_at = "installing pinned"
    assert bootstrap.main([]) == 130
    assert not stamp(checkout).exists()


def test_environment_whose_python_is_gone_is_rebuilt(
    bootstrap: ModuleType, ran: Recorder, checkout: Path
) -> None:
    assert bootstrap.main([]) == 0
    (checkout / ".venv" / "bin" / "python").unlink()
    ran.steps.clear()
    assert bootstrap.main([]) == 0
    assert "creating a virtual environment" in ran.steps


def test_environment_for_developers_is_enough_for_users(bootstrap: ModuleType, ran: Recorder) -> None:
    assert bootstrap.main(["dev"]) == 0
    ran.steps.clear()
    assert bootstrap.main([]) == 0
    assert ran.steps == []


def test_environment_for_users_is_not_enough_for_developers(bootstrap: ModuleType, ran: Recorder) -> None:
    assert bootstrap.main([]) == 0
    ran.steps.clear()
    assert bootstrap.main(["dev"]) == 0
    assert [step.split(" (")[0] for step in ran.steps] == [
        "installing pinned packages",
        "installing Greenroom itself",
    ]
