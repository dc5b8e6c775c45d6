"""`make settings-docs`: writes docs/settings.md from the classes. `make lint` refuses a stale page."""

import importlib
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from infra.ci.shell import ROOT

PAGE = ROOT / "docs" / "settings.md"
ROOMS = {
    "catalog": "the models",
    "registry": "the registry",
    "checks": "the gate",
    "flows": "training, monitoring, batch scoring",
    "serving": "the predictor",
    "infra": "the local stack, containers, CI",
}
_HEAD = """# Settings

Made by `make settings-docs` from the settings classes: do not edit it by hand.

Each setting is an environment variable. The local stack writes its ports and its secrets to
`GREENROOM_HOME/stack.env` (mode 0600); the environment comes before that file.
[.env.example](../.env.example) explains the settings of Compose. `make` hands no empty variable on.
There are {count} settings, and {others} variables that are read elsewhere.
"""
# Variables that no settings class reads.
_OTHERS = """
## Read elsewhere

| variable | read by | |
|---|---|---|
| `GREENROOM_HOME` | every command | the local stack's state. Default: `.greenroom/` in the checkout |
| `GREENROOM_HEALTH_URL` | the images | address that a container's health check asks |
| `GREENROOM_ENV_FILE` | `make compose-env compose-up` | file of Compose's settings. Default: `.env` |
| `GREENROOM_WAIT` | `make compose-up` | seconds in which every service must become healthy. Default: 180 |
| `GREENROOM_BIND` | docker-compose.yml | address of this machine on which the ports are published |
| `GREENROOM_GRAFANA_PORT` | docker-compose.yml | Grafana's port. Default: 3000 |
| `GREENROOM_PREFECT_PUBLIC_URL` | docker-compose.yml | Prefect's API as the browser sees it |
| `GREENROOM_MLFLOW_ALLOWED_HOSTS` | docker-compose.yml | hosts that MLflow accepts |
| `GREENROOM_MLFLOW_ORIGINS` | docker-compose.yml | origins whose pages may call MLflow |
| `GREENROOM_S3_MLFLOW_ACCESS_KEY` | docker-compose.yml | access key ID of MLflow's server |
| `GREENROOM_S3_MLFLOW_SECRET_KEY` | docker-compose.yml | secret access key of MLflow's server |
| `GREENROOM_S3_WORKER_ACCESS_KEY` | docker-compose.yml | access key ID of the worker |
| `GREENROOM_S3_WORKER_SECRET_KEY` | docker-compose.yml | secret access key of the worker |
| `GREENROOM_S3_PREDICTOR_ACCESS_KEY` | docker-compose.yml | access key ID of the predictor |
| `GREENROOM_S3_PREDICTOR_SECRET_KEY` | docker-compose.yml | secret access key of the predictor |
| `GREENROOM_S3_GATE_ACCESS_KEY` | docker-compose.yml | access key ID of the gate |
| `GREENROOM_S3_GATE_SECRET_KEY` | docker-compose.yml | secret access key of the gate |
| `GREENROOM_FLOWS_IMAGE` | docker-compose.yml | the image of the flows and of MLflow's server |
| `GREENROOM_SERVING_IMAGE` | docker-compose.yml | the predictor's image |
| `GREENROOM_APP_API_KEY` | docker-compose.yml | an API key for a first app and the demo |
| `GREENROOM_METRICS_API_KEY` | docker-compose.yml | the API key with which Prometheus reads `/metrics` |
| `GREENROOM_BENCH_CACHE` | `make bench-serving` | folder of its cache. Default: `~/.cache/greenroom-bench` |
| `GREENROOM_SERVICE` | the local stack | mark of its own processes; do not set it |
| `GREENROOM_SERVING_WORKERS_FOLDER` | the predictor | folder that its workers share; do not set it |
"""
OTHERS = frozenset(re.findall(r"^\| `(\w+)`", _OTHERS, re.MULTILINE))
_CLASS = re.compile(r"^class (\w+)\([^)]*Settings[,\s]*\)", re.MULTILINE)
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_KINDS = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    SecretStr: "secret",  # pragma: allowlist secret
}


def classes() -> list[type[BaseSettings]]:
    """Return every settings class, room by room; in a room `settings.py` comes first."""
    return [
        getattr(importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts)), name)
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"), key=lambda path: (len(path.parts), path))
        for name in _CLASS.findall(file.read_text("utf-8"))
    ]


def declared() -> dict[str, tuple[type[BaseSettings], FieldInfo]]:
    """Return each setting by its variable's name, with the class that declares it first."""
    settings: dict[str, tuple[type[BaseSettings], FieldInfo]] = {}
    for kind in classes():
        for name, field in kind.model_fields.items():
            if name in kind.__annotations__:
                settings.setdefault(_variable(kind, name, field), (kind, field))
    return settings


def _variable(kind: type[BaseSettings], name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, str):
        return field.validation_alias.upper()
    return f"{kind.model_config.get('env_prefix', '')}{name}".upper()


def page() -> str:
    """Return docs/settings.md: a table for each class, and one of what no class reads."""
    settings = declared()
    parts = [_HEAD.format(count=len(settings), others=len(OTHERS))]
    for room, subject in ROOMS.items():
        parts.append(f"\n## `{room}/`: {subject}\n")
        for kind in dict.fromkeys(kind for kind, _ in settings.values()):
            if kind.__module__.split(".")[0] == room:
                rows = "".join(
                    _row(name, field) for name, (owner, field) in settings.items() if owner is kind
                )
                parts.append(
                    f"\n{_purpose(kind)}\n\n| variable | type | default | |\n|---|---|---|---|\n{rows}"
                )
    parts.append(_OTHERS)
    return "".join(parts)


def _purpose(kind: type[BaseSettings]) -> str:
    return " ".join((kind.__doc__ or kind.__name__).split("\n\n")[0].split())


def _row(name: str, field: FieldInfo) -> str:
    text = re.sub(rf"^{name}:\s*", "", field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_type(field)} | {_default(field)} | {text} |\n"


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):  # `int | None`: None stands for a default that is computed
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    bounds = [
        f"{sign} {limit:g}" if limit < 1e6 else f"{sign} {limit}"
        for item in field.metadata
        for bound, sign in _BOUNDS.items()
        if (limit := getattr(item, bound, None)) is not None
    ]
    return " ".join(
        [_KINDS.get(kind, "text") if isinstance(kind, type) else "text", ", ".join(bounds)]
    ).strip()


def _default(field: FieldInfo) -> str:
    """Return a default as a person would type it; never a secret's."""
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        return "not shown" if value.get_secret_value() else ""
    if value in (None, ""):
        return ""
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)
    if isinstance(value, int) and value and value % 2**20 == 0:
        return f"`{value}` ({value // 2**20} MiB)"
    return (
        f"`{value:g}`"
        if isinstance(value, float)
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if the page is stale.")
def main(check: bool) -> None:
    """Write docs/settings.md."""
    text = page()
    if not check:
        PAGE.write_text(text, "utf-8")
        click.echo(f"{PAGE.relative_to(ROOT)}: {len(declared())} settings")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != text:
        raise click.ClickException("docs/settings.md is stale. `make settings-docs` writes it anew.")


if __name__ == "__main__":
    main()
