"""The smaller tools of CI: the audit, the gate's key, the images, the list of models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def tool(name: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", f"infra.ci.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# audit


ACCEPTED = ROOT / "infra" / "requirements" / "audit-accepted.txt"


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_package_that_cannot_be_looked_up_is_no_pass(tmp_path: Path) -> None:
    """pip-audit by itself passes what pypi.org does not know, and there may be no pypi.org at all."""
    file = tmp_path / "requirements.txt"
    file.write_text(f"greenroom-there-is-no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    done = make("audit", f"AUDITED={file}")
    assert done.returncode, done.stdout + done.stderr
    assert "greenroom-there-is-no-such-package" in done.stdout + done.stderr


def test_audit_reads_every_hashed_file_and_lets_pass_what_the_list_names() -> None:
    commands = make("--dry-run", "audit").stdout
    for file in ("app", "dev", "checks", "bootstrap", "serving", "flows", "build"):
        assert f"infra/requirements/{file}.txt" in commands
    assert f"--ignore-vuln {' --ignore-vuln '.join(accepted())} " in commands
    assert "--strict --require-hashes" in commands


def accepted() -> list[str]:
    return [line.split()[0] for line in ACCEPTED.read_text().splitlines() if not line.startswith("#")]


def test_each_accepted_vulnerability_says_why() -> None:
    lines = ACCEPTED.read_text().splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
    assert all(known.startswith(("PYSEC-", "GHSA-", "CVE-")) for known in accepted())


# the images

DOCKER = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1" in
  login) cat >> "$LOG.password" ;;
  push) test "$REFUSE" = "" || exit 1 ;;
  image) echo "other/name@sha256:bad"; echo "${5%:*}@sha256:0123" ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path) -> dict[str, str]:
    """A stand-in that writes down what it was asked; the real engine has no registry to push to."""
    program = tmp_path / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "IMAGE_REPOSITORY": "ghcr.io/Band/Greenroom",
        "IMAGE_TAG": "v1.2.3",
    }


def test_images_are_named_pushed_and_their_digests_handed_on(docker: dict[str, str]) -> None:
    login = {"REGISTRY_USERNAME": "ann", "REGISTRY_PASSWORD": "hush"}
    done = tool("images", **docker, **login)
    assert done.returncode == 0, done.stdout + done.stderr
    log = Path(docker["LOG"]).read_text()
    assert "push ghcr.io/band/greenroom/serving:v1.2.3" in log
    assert "tag greenroom-flows ghcr.io/band/greenroom/flows:v1.2.3" in log
    assert "hush" not in log + done.stdout + done.stderr
    assert Path(docker["LOG"] + ".password").read_text() == "hush"
    assert Path(docker["GITHUB_OUTPUT"]).read_text().splitlines() == [
        "flows-name=ghcr.io/band/greenroom/flows",
        "flows-digest=sha256:0123",
        "serving-name=ghcr.io/band/greenroom/serving",
        "serving-digest=sha256:0123",
    ]


def test_push_that_is_refused_fails(docker: dict[str, str]) -> None:
    done = tool("images", **docker, REFUSE="yes")
    assert done.returncode == 1
    assert not Path(docker["GITHUB_OUTPUT"]).exists()


# the list


def test_models_are_listed_for_a_matrix(tmp_path: Path) -> None:
    done = tool("model_list", GITHUB_OUTPUT=str(tmp_path / "output"))
    listed = json.loads(done.stdout)
    assert {"genre", "energy"} <= set(listed)
    assert (tmp_path / "output").read_text() == f"models={done.stdout}"
    assert json.loads(tool("model_list", "genre").stdout) == ["genre"]
    refused = tool("model_list", "no-such-model")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
