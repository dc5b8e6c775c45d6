"""`make deploy-staging`, `make deploy-production`: promotes a version, and takes it back if it fails.

The promotion is `greenroom promote`: the server checks the evidence. A smoke test with the contract's own
examples follows. Exit code 0: the version is in its stage and answers. 1: it was refused, or taken back.
2: the command could not tell; the message says what to do.
"""

import json
import math
import sys
import time
from typing import Any

import click
import httpx
import numpy as np
from pydantic import BaseModel, Field, SecretStr

from catalog.contract import request_model, to_row
from catalog.spec import ModelSpec, Task
from infra.ci.shell import declared, greenroom
from registry.client.registry import Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import ModelFormatError, NotFoundError, RegistryError
from registry.model_format.onnx_model import OnnxModel
from registry.names import Stage
from registry.notify.predictors import PredictorSettings
from registry.settings import GreenroomSettings

_PAUSE = 0.5  # seconds between two questions to a predictor that has not loaded the version yet


class SmokeSettings(GreenroomSettings):
    """The smoke test of predictors after a promotion."""

    smoke_timeout: float = Field(
        default=60.0,
        gt=0,
        description="GREENROOM_SMOKE_TIMEOUT: seconds that each predictor has to answer "
        "with the new version.",
    )
    smoke_api_key: SecretStr = Field(
        default=SecretStr(""),
        description="GREENROOM_SMOKE_API_KEY: for predictors that ask for an API key.",
    )


class DeployError(click.ClickException):
    """Nobody can tell whether the deployment is good."""

    exit_code = 2


_MODEL = click.option("--model", envvar="MODEL", required=True)
_VERSION = click.option("--version", envvar="VERSION", required=True, type=click.IntRange(min=1))
_REASON = click.option("--reason", envvar="REASON", required=True, help="Why; the audit keeps it.")


@click.group()
def main() -> None:
    """Promote a version of a model, and take it back if it does not answer."""


# The field of an answer that holds the prediction.
_PREDICTION: dict[Task, str] = {
    "classification": "prediction",
    "regression": "prediction",
    "clustering": "label",
    "similarity": "neighbours",
}


@main.command()
@_MODEL
@_VERSION
@_REASON
def staging(model: str, version: int, reason: str) -> None:
    """Move VERSION to Staging and let its file answer the contract's examples; archive it if it does not.

    Predictors serve Production alone, so this command runs the registry's file itself.
    """
    spec = declared(model)
    requests = _examples(spec)
    with TrackingClient() as client:
        registry = Registry(client)
        candidate = _version(registry, model, version)
        if candidate.stage is Stage.PRODUCTION:
            raise click.ClickException(f"{candidate} is in Production; a move to Staging would take it out.")
        if code := greenroom("promote", model, str(version), "--to", "Staging", "--reason", reason):
            sys.exit(code)
        problem = _file_answers(registry, candidate, spec, requests)
    if not problem:
        click.secho(f"{candidate} is in Staging, and its file answers.", fg="green")
        return
    why = f"smoke test in Staging failed: {problem}"
    click.secho(why, fg="red", err=True)
    if greenroom("promote", model, str(version), "--to", "Archived", "--reason", why):
        raise DeployError(f"{candidate} failed its smoke test and is still in Staging. Archive it by hand.")
    sys.exit(1)


@main.command()
@_MODEL
@_VERSION
@_REASON
def production(model: str, version: int, reason: str) -> None:
    """Move VERSION to Production, and back if a predictor does not answer with it.

    Each predictor of GREENROOM_PREDICTORS must answer the contract's examples validly and with this version.
    If one does not, `greenroom rollback` restores the previous version; without a previous version,
    VERSION is archived.
    """
    spec, urls = declared(model), _predictors()
    requests = _examples(spec)
    with TrackingClient() as client:
        registry = Registry(client)
        candidate = _version(registry, model, version)
        before = registry.in_stage(model, Stage.PRODUCTION)
    if code := greenroom("promote", model, str(version), "--reason", reason):
        sys.exit(code)
    problem = _predictors_answer(urls, spec, version, requests)
    if not problem:
        click.secho(f"{candidate} is in Production, and every predictor answers with it.", fg="green")
        return
    _take_back(spec, candidate, before, problem=problem, urls=urls, requests=requests)
    sys.exit(1)


@main.command()
@_MODEL
def smoke(model: str) -> None:
    """Ask each predictor for the version in Production, and change nothing. Exit code 1: one fails."""
    spec, urls = declared(model), _predictors()
    with TrackingClient() as client:
        current = Registry(client).in_stage(model, Stage.PRODUCTION)
    if current is None:
        raise DeployError(f"{model} has no version in Production.")
    if problem := _predictors_answer(urls, spec, current.number, _examples(spec)):
        raise click.ClickException(problem)
    click.secho(f"Every predictor answers with {current}.", fg="green")


def _predictors() -> list[str]:
    urls = PredictorSettings().predictor_urls
    if not urls:
        raise DeployError("No predictor to ask. Name them in GREENROOM_PREDICTORS, separated by commas.")
    return urls


def _take_back(
    spec: ModelSpec,
    failed: Version,
    before: Version | None,
    *,
    problem: str,
    urls: list[str],
    requests: list[BaseModel],
) -> None:
    why = f"smoke test of version {failed.number} failed: {problem}"
    click.secho(why, fg="red", err=True)
    if before is None:
        code = greenroom("promote", failed.model, str(failed.number), "--to", "Archived", "--reason", why)
    else:
        code = greenroom("rollback", failed.model, "--reason", why)
    if code:
        raise DeployError(
            f"{failed} failed its smoke test, and taking it back failed too: see above. It is still in "
            f"Production. `greenroom history {failed.model}` shows what there is to go back to."
        )
    if before is None:
        click.echo(f"There was no version before, so {failed.model} has none in Production.")
        return
    with TrackingClient() as client:
        back = Registry(client).in_stage(failed.model, Stage.PRODUCTION)
    if back is None:
        raise DeployError(f"After the rollback {failed.model} has no version in Production.")
    if trouble := _predictors_answer(urls, spec, back.number, requests):
        raise DeployError(f"{back} is in Production again, but {trouble}")
    click.echo(f"{back} is in Production again, and every predictor answers with it.")


def _version(registry: Registry, model: str, number: int) -> Version:
    try:
        return registry.version(model, number)
    except RegistryError as error:
        raise DeployError(str(error)) from error


def _examples(spec: ModelSpec) -> list[BaseModel]:
    """Return the contract's examples as the typed requests that an app would send."""
    kind = request_model(spec)
    examples: list[dict[str, Any]] = kind.model_json_schema().get("examples", [])
    if not examples:
        raise DeployError(
            f"The contract {spec.dataset.features.__name__} has no example, so there is nothing to ask "
            f"{spec.name} with. Give it one: json_schema_extra of its model_config."
        )
    return [kind.model_validate(example) for example in examples]


def _file_answers(
    registry: Registry, version: Version, spec: ModelSpec, requests: list[BaseModel]
) -> str | None:
    """Return the problem of a version's file, or None."""
    try:
        model = OnnxModel(registry.model_bytes(version), threads=1)
    except (ModelFormatError, NotFoundError) as error:
        return str(error)
    if stray := sorted(set(model.description.features) - set(spec.features)):
        return f"it reads {', '.join(stray)}, which the declaration of {spec.name} does not name"
    rows = [to_row(request, model.description.features) for request in requests]
    predictions, _ = model.predict(np.array(rows, dtype=np.float32))
    wrong = next((value for value in predictions.tolist() if not _sound(value)), None)
    return None if wrong is None else f"it predicts {wrong!r}"


def _predictors_answer(
    urls: list[str], spec: ModelSpec, version: int, requests: list[BaseModel]
) -> str | None:
    """Return the problem of the first predictor that fails until its time is over, or None."""
    settings = SmokeSettings()
    key = settings.smoke_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(headers=headers, timeout=10, trust_env=False) as client:
        for url in urls:
            deadline = time.monotonic() + settings.smoke_timeout
            while problem := _ask(client, url, spec, version, requests):
                if time.monotonic() > deadline:
                    return f"the predictor at {url} {problem}"
                time.sleep(_PAUSE)
    return None


def _ask(
    client: httpx.Client, url: str, spec: ModelSpec, version: int, requests: list[BaseModel]
) -> str | None:
    for request in requests:
        try:
            answer = client.post(f"{url}/api/predict/{spec.name}", json=request.model_dump(mode="json"))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"does not answer ({type(error).__name__})"
        if answer.status_code != httpx.codes.OK:
            return f"answers with {answer.status_code}: {answer.text[:300]}"
        try:
            body = answer.json()
        except json.JSONDecodeError:
            return "answers with something that is no JSON"
        if body.get("version") != version:
            return f"answers with version {body.get('version')}, not {version}"
        prediction = body.get(_PREDICTION[spec.task])
        if not _sound(prediction):
            return f"predicts {prediction!r}"
    return None


def _sound(prediction: Any) -> bool:
    """Whether an answer is valid: a finite number, a text, or a list or object of these."""
    if isinstance(prediction, list | dict):
        parts = prediction.values() if isinstance(prediction, dict) else prediction
        return bool(prediction) and all(map(_sound, parts))
    if isinstance(prediction, bool | int | float):
        return math.isfinite(prediction)
    return bool(prediction)


if __name__ == "__main__":
    main()
