"""The demo of a stack of containers: trains, promotes, waits for the predictor; without special rights."""

import sys
import time

import click
from prefect.client.orchestration import get_client

from catalog.loader import get_model, load_catalog
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryRefusedError
from registry.names import GATE
from registry.notify.predictors import PredictorSettings, served_versions

# A training takes about half a minute on two cores; two run at once and share them with everything else.
_TRAINING = 1800.0
_LOADING = 60.0


def run(names: tuple[str, ...]) -> None:
    """Train what has no version, promote what the gate let pass; exit code 1 if one is not served then."""
    models = [get_model(name).name for name in names] or list(load_catalog())
    with TrackingClient() as client:
        registry = Registry(client)
        missing = [name for name in models if not registry.versions(name)]
        _train(missing)
        for name in models:
            _promote(registry, name)
        production = {v.model: v.number for v in registry.production_versions().values() if v.model in models}
    served = _served(production)
    for name in models:
        number = production.get(name)
        state = f"version {number} in Production" if number else "not in Production"
        click.echo(f"{name:<11} {state}; served: {served.get(name) or 'no'}")
    sys.exit(0 if production.keys() == set(models) and served == production else 1)


def _train(names: list[str]) -> None:
    """Start the deployments and wait for them; the worker's limit says how many run at once."""
    click.echo(f"Training: {', '.join(names) or 'nothing, every model has a version'}")
    with get_client(sync_client=True) as prefect:
        started = []
        for name in names:
            deployment = prefect.read_deployment_by_name(f"train/{name}")
            started.append(prefect.create_flow_run_from_deployment(deployment.id))
        deadline = time.monotonic() + _TRAINING
        for run in started:
            while not (state := prefect.read_flow_run(run.id).state) or not state.is_final():
                if time.monotonic() > deadline:
                    raise click.ClickException(
                        f"{run.name} has not ended after {_TRAINING:.0f} s; look at Prefect."
                    )
                time.sleep(2)
            click.echo(f"{run.name} ({run.parameters.get('model')}): {state.name}")


def _promote(registry: Registry, name: str) -> None:
    """Promote the newest version through Staging, if none is in Production; the server asks for evidence."""
    newest = registry.newest(name)
    if newest is None or name in registry.production_versions():
        return
    if newest.tags.get(GATE) != "passed":
        click.echo(f"{newest} was refused by the gate; `greenroom gate {name} {newest.number}` says why")
        return
    try:
        registry.promote_to_production(newest, "The demo's first version")
    except RegistryRefusedError as error:
        click.echo(f"{newest} was not promoted. {error}")


def _served(production: dict[str, int]) -> dict[str, int]:
    """Return what every predictor serves of `production`, once that is all of it or a minute has passed."""
    deadline = time.monotonic() + _LOADING
    while True:
        replicas = [v for url in PredictorSettings().predictor_urls for v in served_versions(url).values()]
        served = {
            name: number
            for name, number in production.items()
            if replicas and all(versions.get(name) == number for versions in replicas)
        }
        if served == production or time.monotonic() > deadline:
            return served
        time.sleep(0.5)
