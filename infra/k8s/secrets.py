"""`python -m infra.k8s.secrets FILE --namespace NAME | kubectl apply -f -`: the Secrets that pods ask for.

FILE is a copy of secrets.example.yaml that git ignores. A value that is missing, empty, too short or an
example is refused, and then nothing is printed.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from infra.mlflow_auth import basic_auth_ini
from infra.secrets import SHORTEST, is_example, is_weak

_KEY = r"[^:,\s]+:[0-9a-f]{64}"

_LABELS = {"app.kubernetes.io/part-of": "greenroom"}

Check = Callable[[str], str | None]


def _present(value: str) -> str | None:
    return "it is empty or an example" if is_example(value) else None


def _strong(value: str) -> str | None:
    weak = f"it is shorter than {SHORTEST} characters, a common name, or has few different ones"
    return _present(value) or (weak if is_weak(value) else None)


def _matching(pattern: str, form: str) -> Check:
    return lambda value: None if re.search(pattern, value) else f"it must be {form}"


def _login(value: str) -> str | None:
    name, _, password = value.partition(":")
    return _strong(password) if name and password else "it must be NAME:PASSWORD"


def _database(driver: str) -> Check:
    def check(value: str) -> str | None:
        try:
            url = urlsplit(value)
            complete = url.username and url.password and url.hostname and url.path.strip("/")
        except ValueError:
            complete = None
        if not complete or url.scheme != driver:
            return f"it must be {driver}://ROLE:PASSWORD@HOST:PORT/DATABASE"
        return _strong(url.password or "")

    return check


_api_keys = _matching(rf"\A{_KEY}(,{_KEY})*\Z", "NAME:SHA256HEX,…, as `greenroom api-key NAME` makes")
_pem = _matching("PRIVATE KEY-----", "the gate's private key in PEM form")
# What each Secret holds, and the check of each value. The keys are those of FILE, but for basic-auth, which
# takes its database from a file that is made here.
_MLFLOW = "postgresql+psycopg2"
SECRETS: Mapping[str, Mapping[str, Check]] = {
    "greenroom-predictor": {
        "tracking-password": _strong,
        "api-keys": _api_keys,
        "s3-access-key": _present,
        "s3-secret-key": _strong,
    },
    "greenroom-mlflow": {
        "database-url": _database(_MLFLOW),
        "auth-database-url": _database(_MLFLOW),
        "admin-password": _strong,
        "secret-key": _strong,
        "s3-access-key": _present,
        "s3-secret-key": _strong,
    },
    "greenroom-mlflow-owner": {"database-admin-url": _database(_MLFLOW)},
    "greenroom-prefect-server": {"database-url": _database("postgresql+asyncpg")},
    "greenroom-prefect": {"auth-string": _login},
    "greenroom-flow-run": {"tracking-password": _strong, "s3-access-key": _present, "s3-secret-key": _strong},
    "greenroom-gate": {"gate.pem": _pem, "s3-access-key": _present, "s3-secret-key": _strong},
}


class SecretsError(click.ClickException):
    """The file is not fit; the message names keys and never values."""


def secrets(content: object, namespace: str) -> list[dict[str, Any]]:
    """Return the Secret objects of a file's content; raises `SecretsError` with every problem in it."""
    by_name: Mapping[str, Any] = content if isinstance(content, dict) else {}
    values = {name: v if isinstance(v := by_name.get(name), dict) else {} for name in SECRETS}
    problems = [f"{name}: there is no such Secret" for name in by_name if name not in SECRETS]
    for name, checks in SECRETS.items():
        problems += [f"{name}.{key}: there is no such key" for key in values[name] if key not in checks]
        for key, check in checks.items():
            value = values[name].get(key)
            if problem := check(value) if isinstance(value, str) else "it is missing, or no text":
                problems.append(f"{name}.{key}: {problem}")
    if problems:
        raise SecretsError("These are not fit to protect anything:\n  " + "\n  ".join(problems))
    users = [values[name]["s3-access-key"] for name in SECRETS if "s3-access-key" in SECRETS[name]]
    if len(set(users)) < len(users):
        raise SecretsError(
            "Two Secrets have the same s3-access-key. Each needs an S3 user with its own rights: "
            "`python -m infra.containers s3-policies` prints them (docs/kubernetes.md)."
        )
    server = urlsplit(values["greenroom-mlflow"]["database-url"]).username
    if urlsplit(values["greenroom-mlflow-owner"]["database-admin-url"]).username == server:
        raise SecretsError(
            "greenroom-mlflow-owner.database-admin-url logs in as the role that MLflow's server runs as. "
            "What that role owns it can also remove: name the database's owner (docs/promotion.md)."
        )
    return [_secret(name, namespace, values[name]) for name in SECRETS]


def _secret(name: str, namespace: str, values: Mapping[str, str]) -> dict[str, Any]:
    data = dict(values)
    if url := data.pop("auth-database-url", None):
        data["basic-auth-ini"] = basic_auth_ini(url)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": _LABELS},
        "type": "Opaque",
        "stringData": data,
    }


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--namespace", required=True, help="Where the pods are: greenroom-staging, greenroom-production."
)
def main(file: Path, namespace: str) -> None:
    """Print the Secrets of FILE for `kubectl apply -f -`; exit code 1 and nothing printed if one is unfit."""
    if file.stat().st_mode & 0o077:
        raise SecretsError(f"Others may read {file}: chmod 600 {file}")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        # Its message would show the line.
        raise SecretsError(f"{file} is no YAML that can be read.") from None
    yaml.safe_dump_all(secrets(content, namespace), sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
