"""`python -m infra.k8s.secrets FILE --namespace NAME | kubectl apply -f -`: the Secrets that pods ask for.

FILE is a copy of secrets.example.yaml that git does not know. What is missing, left empty, too short or an
example is refused, and then nothing is printed at all.
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

_KEYS = re.compile(r"[^:,\s]+:[0-9a-f]{64}(,[^:,\s]+:[0-9a-f]{64})*")

Check = Callable[[str], str | None]


def _present(value: str) -> str | None:
    return "it is empty or an example" if is_example(value) else None


def _strong(value: str) -> str | None:
    if is_example(value):
        return "it is empty or an example"
    return (
        f"it is shorter than {SHORTEST} characters, a common name, or has few different ones"
        if is_weak(value)
        else None
    )


def _api_keys(value: str) -> str | None:
    return (
        None if _KEYS.fullmatch(value) else "it must be NAME:SHA256HEX,…, as `greenroom api-key NAME` makes"
    )


def _login(value: str) -> str | None:
    name, _, password = value.partition(":")
    return _strong(password) if name and password else "it must be NAME:PASSWORD"


def _pem(value: str) -> str | None:
    wanted = "PRIVATE KEY-----"
    return None if wanted in value else "it must be the gate's private key in PEM form"


def _database(driver: str) -> Check:
    def check(value: str) -> str | None:
        form = f"it must be {driver}://ROLE:PASSWORD@HOST:PORT/DATABASE"
        try:
            parts = urlsplit(value)
            whole = parts.username and parts.password and parts.hostname and parts.path.strip("/")
        except ValueError:
            return form
        if parts.scheme != driver or not whole:
            return form
        return _strong(parts.password or "")

    return check


# What each Secret holds, and what is asked of it. The keys are those of FILE, except that basic-auth takes
# its database from a file of its own, which is made here.
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
    "greenroom-gate": {"gate.pem": _pem},
}


class SecretsError(click.ClickException):
    """The file is not fit; the message names keys and never values."""


def secrets(given: object, namespace: str) -> list[dict[str, Any]]:
    """Return the Secret objects of a file's content; raises `SecretsError` with every problem in it."""
    found: Mapping[str, Any] = given if isinstance(given, dict) else {}
    problems = [f"{name}: there is no such Secret" for name in found if name not in SECRETS]
    made = []
    for name, keys in SECRETS.items():
        values = found.get(name)
        values = values if isinstance(values, dict) else {}
        problems += [f"{name}.{key}: there is no such key" for key in values if key not in keys]
        for key, check in keys.items():
            value = values.get(key)
            if problem := check(value) if isinstance(value, str) else "it is missing, or no text":
                problems.append(f"{name}.{key}: {problem}")
        made.append((name, values))
    if problems:
        raise SecretsError("These are not fit to protect anything:\n  " + "\n  ".join(problems))
    _require_two_roles(dict(made))
    return [_secret(name, namespace, values) for name, values in made]


def _require_two_roles(made: Mapping[str, Mapping[str, str]]) -> None:
    server = urlsplit(made["greenroom-mlflow"]["database-url"]).username
    if urlsplit(made["greenroom-mlflow-owner"]["database-admin-url"]).username == server:
        raise SecretsError(
            "greenroom-mlflow-owner.database-admin-url logs in as the role that MLflow's server runs as. "
            "What that role owns it can also remove: name the database's owner (docs/promotion.md)."
        )


def _secret(name: str, namespace: str, values: Mapping[str, str]) -> dict[str, Any]:
    data = dict(values)
    if url := data.pop("auth-database-url", None):
        data["basic-auth-ini"] = basic_auth_ini(url)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "greenroom"},
        },
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
        given = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        # Its message would show the line.
        raise SecretsError(f"{file} is no YAML that can be read.") from None
    yaml.safe_dump_all(secrets(given, namespace), sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
