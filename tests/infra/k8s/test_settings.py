"""Every variable and command that the manifests name exists where it is meant for."""

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import click
import mlflow.environment_variables
import pytest
from click.testing import CliRunner
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields
from prefect_kubernetes.settings import KubernetesObserverSettings, KubernetesWorkerSettings
from pydantic_settings import BaseSettings

import checks
import flows
import registry
import serving
from infra.k8s import policy
from infra.k8s.manifests import ROOT, Document, flow_run_job, pods, resources
from registry.settings import GreenroomSettings

# Read without a settings class: where all state is.
_ELSEWHERE = {"GREENROOM_HOME"}
# Of no program but the register Job's own prefect.yaml.
_OURS = {"FLOW_RUN_IMAGE", "FLOW_RUN_NAMESPACE"}
_LIBRARIES = {"DO_NOT_TRACK", "GIT_PYTHON_REFRESH"}
_AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}


def _mlflow_cli() -> click.Group:
    # Imported here: it imports MLflow's server, 4 seconds that only the worker with this file need pay.
    from mlflow.cli import cli  # noqa: PLC0415

    assert isinstance(cli, click.Group)
    return cli


def _all_modules(*packages: ModuleType) -> None:
    for package in packages:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "settings" in found.name or "storage" in found.name or "nudging" in found.name:
                importlib.import_module(found.name)


def _settings(base: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    yield base
    for one in base.__subclasses__():
        yield from _settings(one)


def _known() -> set[str]:
    _all_modules(registry, checks, flows, serving)
    ours = {f"GREENROOM_{name.upper()}" for one in _settings(GreenroomSettings) for name in one.model_fields}
    mlflows = {name for name in vars(mlflow.environment_variables) if name.startswith("MLFLOW_")}
    server = next(command for name, command in _mlflow_cli().commands.items() if name == "server")
    for option in server.params:
        given = option.envvar
        mlflows |= {given} if isinstance(given, str) else set(given or ())
    prefects = set(_get_settings_fields(Settings))
    for name, one in (("WORKER", KubernetesWorkerSettings), ("OBSERVER", KubernetesObserverSettings)):
        prefects |= {f"PREFECT_INTEGRATIONS_KUBERNETES_{name}_{field.upper()}" for field in one.model_fields}
    return ours | mlflows | prefects | _ELSEWHERE | _OURS | _AWS | _LIBRARIES


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [*resources(ROOT / "base"), flow_run_job("greenroom-flows:1", "greenroom")]


def _variables(documents: list[Document]) -> Iterator[tuple[str, Any]]:
    for name, pod in pods(documents).items():
        for container in pod["spec"]["containers"]:
            for one in container["env"]:
                yield name, one


def test_every_variable_is_one_that_somebody_reads(documents: list[Document]) -> None:
    known = _known()
    assert len(known) > 300
    assert [(pod, one["name"]) for pod, one in _variables(documents) if one["name"] not in known] == []
    assert "GREENROOM_SERVING_DRIAN" not in known


def test_no_pod_names_a_variable_twice(documents: list[Document]) -> None:
    for name in pods(documents):
        found = [one["name"] for pod, one in _variables(documents) if pod == name]
        assert len(found) == len(set(found)), name


def test_the_predictors_values_are_ones_that_it_takes(documents: list[Document]) -> None:

    from serving import limits  # noqa: PLC0415 - as a program does
    from serving.settings import ServingSettings  # noqa: PLC0415 - as a program does
    from serving.uploads.worker import MAX_MEMORY  # noqa: PLC0415

    given = {
        one["name"].removeprefix("GREENROOM_").lower(): one["value"]
        for pod, one in _variables(documents)
        if pod == "Deployment/predictor" and "value" in one and one["name"] not in _ELSEWHERE
    }
    settings = ServingSettings(**given)
    assert settings.serving_drain < settings.serving_shutdown_timeout
    pod = pods(documents)["Deployment/predictor"]["spec"]["containers"][0]
    assert pod["resources"]["limits"]["memory"] == "2Gi"
    # The pod's grace period counts the time that the predictor takes for its last rows.
    assert policy.SPOOL_TIMEOUT == limits.SPOOL_TIMEOUT
    # The process that checks an upload counts towards the container's memory.
    assert MAX_MEMORY < 2 * 2**30
    # Beyond loopback metrics need a key, and so there are keys: Prometheus has one of them.
    assert settings.metrics_shut
    assert pod["ports"] == [{"name": "http", "containerPort": settings.serving_port}]


def test_every_command_is_one_that_the_images_have(documents: list[Document]) -> None:
    commands = {
        name: pod["spec"]["containers"][0].get("command", []) for name, pod in pods(documents).items()
    }
    programs = {command[0] for command in commands.values() if command}
    assert programs == {"python", "mlflow", "greenroom", "prefect", "sh"}
    assert commands["Deployment/predictor"] == ["python", "-m", "serving"]
    assert commands["Job/mlflow-migrate"][1:] == ["migrate"]
    assert "migrate" in entry_points(group="greenroom.commands").names
    # Each option is known to MLflow's server; what it does not know it refuses.
    _, *arguments = commands["Deployment/mlflow"]
    said = CliRunner().invoke(_mlflow_cli(), [*arguments, "--help"])
    assert said.exit_code == 0
    server = _mlflow_cli().commands["server"]
    options = {option for one in server.params for option in one.opts}
    assert {one.partition("=")[0] for one in arguments[1:]} <= options
