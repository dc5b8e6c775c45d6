"""The scan for secrets on real git checkouts."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Put together here, so that this file holds none.
PLANTED = {
    "AWS Access Key": "aws = '" + "AKIA" + "IOSFODNN7EXAMPL1'",
    "Private Key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "GitHub Token": "token: " + "ghp_" + "a1B2" * 9,
    "Basic Auth Credentials": "url = 'postgresql://app:" + "Xk29fjQz@db.example/app'",
}


def scan(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "-s", "secrets", f"CHECKOUT={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(".env\n")
    (tmp_path / "clean.py").write_text("url = 'postgresql://USER:PASSWORD@HOST/NAME'\n")
    return tmp_path


def test_clean_checkout_passes(checkout: Path) -> None:
    done = scan(checkout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_secret_is_refused_and_not_repeated(checkout: Path, kind: str) -> None:
    (checkout / "tests").mkdir()
    for name in ("settings.yml", "tests/test_it.py"):
        (checkout / name).write_text(f"one: line\n{PLANTED[kind]}\n")
    done = scan(checkout)
    assert done.returncode
    for name in ("settings.yml", "tests/test_it.py"):
        assert re.search(rf"Secret Type: {kind}\nLocation: +{name}:2\n", done.stdout), done.stdout
    assert PLANTED[kind][-12:] not in done.stdout + done.stderr


def test_password_is_refused_outside_of_tests(checkout: Path) -> None:
    (checkout / "settings.py").write_text("db_password = '" + "wX7pQ2mZ'\n")
    done = scan(checkout)
    assert done.returncode
    assert re.search(r"Secret Type: Secret Keyword\nLocation: +settings.py:1\n", done.stdout), done.stdout


def test_what_git_ignores_is_left_alone_and_a_marked_line_passes(checkout: Path) -> None:
    (checkout / ".env").write_text(PLANTED["AWS Access Key"])
    (checkout / "example.py").write_text(f"{PLANTED['AWS Access Key']}  # pragma: allowlist secret\n")
    assert scan(checkout).returncode == 0


def test_folder_that_is_no_checkout_is_no_pass(tmp_path: Path) -> None:
    done = scan(tmp_path)
    assert done.returncode
    assert "not a git repository" in done.stderr
