"""The Secrets for a cluster: what is an example, missing or too short is refused, and shown to nobody."""

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.k8s import lint
from infra.k8s.manifests import ROOT, flow_run_job, pods, resources
from infra.k8s.policy import secret_keys
from infra.k8s.secrets import SECRETS

EXAMPLE = ROOT / "secrets.example.yaml"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n"  # pragma: allowlist secret
STRONG = "b7c1f0a93d5e48e6ac20"
GOOD: dict[str, dict[str, str]] = {
    "greenroom-predictor": {
        "tracking-password": STRONG,
        "api-keys": f"shop:{hashlib.sha256(b'x').hexdigest()}",
        "s3-access-key": "AKIA7Q2P",
        "s3-secret-key": STRONG,
    },
    "greenroom-mlflow": {
        "database-url": f"postgresql+psycopg2://mlflow:{STRONG}@db:5432/mlflow",
        "auth-database-url": f"postgresql+psycopg2://mlflow_auth:{STRONG}%40@db:5432/mlflow_auth",
        "admin-password": STRONG,
        "secret-key": STRONG,
        "s3-access-key": "AKIA7Q2M",
        "s3-secret-key": STRONG,
    },
    "greenroom-mlflow-owner": {"database-admin-url": f"postgresql+psycopg2://owner:{STRONG}@db:5432/mlflow"},
    "greenroom-prefect-server": {"database-url": f"postgresql+asyncpg://prefect:{STRONG}@db:5432/prefect"},
    "greenroom-prefect": {"auth-string": f"greenroom:{STRONG}"},
    "greenroom-flow-run": {"tracking-password": STRONG, "s3-access-key": "AKIA7Q2F", "s3-secret-key": STRONG},
    "greenroom-gate": {"gate.pem": PEM, "s3-access-key": "AKIA7Q2G", "s3-secret-key": STRONG},
}


def made(given: Any, folder: Path, mode: int = 0o600) -> "subprocess.CompletedProcess[str]":
    file = folder / "secrets.yaml"
    file.write_text(given if isinstance(given, str) else yaml.safe_dump(given))
    file.chmod(mode)
    command = [sys.executable, "-m", "infra.k8s.secrets", str(file), "--namespace", "greenroom-production"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def refused(done: "subprocess.CompletedProcess[str]", says: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert STRONG not in done.stderr
    assert "Traceback" not in done.stderr


def test_services_that_share_an_s3_user_are_refused(tmp_path: Path) -> None:
    shared = copy.deepcopy(GOOD)
    shared["greenroom-flow-run"]["s3-access-key"] = shared["greenroom-mlflow"]["s3-access-key"]
    refused(made(shared, tmp_path), "Two Secrets have the same s3-access-key")


def test_good_ones_are_what_the_pods_ask_for(tmp_path: Path) -> None:
    done = made(GOOD, tmp_path)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    assert [lint.schema_problems(one, "1.37") for one in documents] == [[]] * len(SECRETS)
    keys = {one["metadata"]["name"]: set(one["stringData"]) for one in documents}
    assert keys == {name: secret_keys(name) for name in SECRETS}
    asked: dict[str, set[str]] = {}
    for pod in pods([*resources(ROOT / "base"), flow_run_job("x:1", "y")]).values():
        for container in pod["spec"]["containers"]:
            for one in container["env"]:
                if ref := one.get("valueFrom", {}).get("secretKeyRef"):
                    asked.setdefault(ref["name"], set()).add(ref["key"])
    # Mounted as files.
    asked["greenroom-mlflow"].add("basic-auth-ini")
    asked["greenroom-gate"].add("gate.pem")
    assert asked == keys


def test_basic_auth_reads_its_database_as_it_was_given(tmp_path: Path) -> None:
    documents = {one["metadata"]["name"]: one for one in yaml.safe_load_all(made(GOOD, tmp_path).stdout)}
    config = ConfigParser()  # which is what MLflow reads it with
    config.read_string(documents["greenroom-mlflow"]["stringData"]["basic-auth-ini"])
    assert config["mlflow"]["database_uri"] == GOOD["greenroom-mlflow"]["auth-database-url"]
    assert config["mlflow"]["default_permission"] == "READ"


def test_the_example_is_refused_key_by_key(tmp_path: Path) -> None:
    done = made(EXAMPLE.read_text(), tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    for name, keys in SECRETS.items():
        for key in keys:
            assert f"{name}.{key}: " in done.stderr


def test_the_example_has_a_place_for_every_key() -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    assert {name: set(keys) for name, keys in example.items()} == {
        name: set(SECRETS[name]) for name in SECRETS
    }


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("greenroom-mlflow", "admin-password", "", "it is empty or an example"),
        ("greenroom-mlflow", "admin-password", "CHANGE-ME-1234567890", "it is empty or an example"),
        ("greenroom-mlflow", "admin-password", "aaaaaaaaaaaaaaaaaaaa", "it is empty or an example"),
        ("greenroom-mlflow", "admin-password", "kj3h4k5", "it is shorter than 16 characters"),
        ("greenroom-mlflow", "admin-password", 12345678901234567890, "it is missing, or no text"),
        (
            "greenroom-mlflow",
            "database-url",
            f"postgresql://mlflow:{STRONG}@db/mlflow",
            "it must be postgresql+psyc",
        ),
        (
            "greenroom-mlflow",
            "database-url",
            "postgresql+psycopg2://mlflow@db/mlflow",
            "it must be postgresql+psyc",
        ),
        (
            "greenroom-mlflow",
            "database-url",
            "postgresql+psycopg2://mlflow:abc@db/mlflow",
            "it is shorter than 16",
        ),
        ("greenroom-prefect", "auth-string", STRONG, "it must be NAME:PASSWORD"),
        ("greenroom-prefect", "auth-string", "me:short", "it is shorter than 16"),
        ("greenroom-predictor", "api-keys", STRONG, "it must be NAME:SHA256HEX"),
        ("greenroom-predictor", "s3-access-key", "EXAMPLE", "it is empty or an example"),
        ("greenroom-gate", "gate.pem", STRONG, "it must be the gate's private key"),
        ("greenroom-gate", "gate_pem", STRONG, "greenroom-gate.gate_pem: there is no such key"),
        ("greenroom-gates", "gate.pem", STRONG, "greenroom-gates: there is no such Secret"),
        (
            "greenroom-mlflow-owner",
            "database-admin-url",
            GOOD["greenroom-mlflow"]["database-url"],
            "logs in as the role that MLflow's server runs as",
        ),
    ],
)
def test_what_protects_nothing_is_refused(tmp_path: Path, name: str, key: str, value: Any, says: str) -> None:
    given: dict[str, dict[str, Any]] = copy.deepcopy(GOOD)
    given.setdefault(name, {})[key] = value
    refused(made(given, tmp_path), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: given.pop("greenroom-prefect"), "greenroom-prefect.auth-string: it is missing"),
        (
            lambda given: given["greenroom-flow-run"].clear(),
            "greenroom-flow-run.s3-secret-key: it is missing",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, change: Callable[[Any], object], says: str) -> None:
    given = copy.deepcopy(GOOD)
    change(given)
    refused(made(given, tmp_path), says)


@pytest.mark.parametrize("content", ["", "[]", "- a", json.dumps(STRONG), f"a: [{STRONG}", f"a: b: {STRONG}"])
def test_what_is_no_such_file_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    done = made(content, tmp_path)
    refused(done, "")


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    refused(made(GOOD, tmp_path, mode=0o640), "Others may read")


def test_git_does_not_know_filled_in_ones() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "infra/k8s/secrets.production.yaml"], cwd=ROOT.parents[1], check=False
    )
    assert ignored.returncode == 0
    example = subprocess.run(
        ["git", "check-ignore", "-q", "infra/k8s/secrets.example.yaml"], cwd=ROOT.parents[1], check=False
    )
    assert example.returncode == 1
