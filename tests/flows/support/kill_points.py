"""Trains a model in processes that are killed: `kill_points.py MODEL POINT…`, or `… rounds N KILLS SEED`.

A POINT is a name of `POINTS`, or a number: seconds after which the whole process tree is killed. Or it is
`end`: nobody is killed. What each came to is printed as one line of JSON. Everything is imported once, and
each training is a fork.
"""
# ruff: noqa: E402 - the environment has to be made before Prefect and numpy are imported

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

# Threads that a library starts as it is imported would not be there after a fork.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OBJC_DISABLE_INITIALIZE_FORK_SAFETY="YES")

from flows.environment import prepare_environment
from flows.settings import FlowSettings

prepare_environment(FlowSettings())

import click
import httpx
import psutil
from mlflow import MlflowClient

from flows.training import steps
from flows.training.flow import train
from registry.client.registry import Registry
from registry.names import Stage
from registry.settings import RegistrySettings


def _die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is not survived")


def _dies(owner: Any, name: str, *, when: Callable[..., bool] = lambda *_: True) -> None:
    """Let a method or a function do its work, and the process die before anybody hears of it."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        done = original(*arguments, **named)
        return _die() if when(*arguments) else done

    setattr(owner, name, wrapped)


def _promoted_to(stage: Stage) -> Callable[[], None]:
    return lambda: _dies(Registry, "promote", when=lambda _self, _version, to, *_: to is stage)


POINTS: dict[str, Callable[[], None]] = {
    "half a model": lambda: setattr(MlflowClient, "finalize_logged_model", _die),
    "a name without versions": lambda: _dies(MlflowClient, "create_registered_model"),
    "registered": lambda: _dies(MlflowClient, "create_model_version"),
    "before the evidence": lambda: setattr(steps, "request_verdict", _die),
    "evidence": lambda: _dies(steps, "request_verdict"),
    "staged": _promoted_to(Stage.STAGING),
    "promoted": _promoted_to(Stage.PRODUCTION),
    "end": lambda: None,
}


def attempt(model: str, point: str) -> dict[str, Any]:
    """Train once, in a fork, and return how that ended."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if point in POINTS:
                POINTS[point]()
            done = train(model, promote_passed=True)
            code = 0 if done.stage == "Production" else 3
        finally:
            os._exit(code)
    if point not in POINTS:
        time.sleep(float(point))
        tree = [psutil.Process(child), *psutil.Process(child).children(recursive=True)]
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    _, status = os.waitpid(child, 0)
    asked = {"flow_runs": {"name": {"any_": [f"train-{model}"]}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    settings, tracking = FlowSettings(), MlflowClient(RegistrySettings().tracking_url)
    user, _, password = settings.prefect_login.partition(":")
    count = httpx.post(
        f"{settings.prefect_url}/flow_runs/count", json=asked, auth=(user, password), timeout=60
    )
    return {
        "point": point,
        "code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - began, 1),
        "versions": len(tracking.search_model_versions(f"name = '{model}'")),
        "completed": count.json(),
    }


def rounds(model: str, count: int, kills: int, seed: str) -> None:
    """A whole training; then in each round so many that are killed at random moments, and one that is not."""
    random.seed(seed)
    whole = attempt(model, "end")
    click.echo(json.dumps(whole))
    for _ in range(count):
        for _ in range(kills):
            click.echo(json.dumps(attempt(model, f"{random.uniform(0, whole['seconds']):.2f}")))
        click.echo(json.dumps(attempt(model, "end")))


if __name__ == "__main__":
    name, *points = sys.argv[1:]
    if points[0] == "rounds":
        rounds(name, int(points[1]), int(points[2]), points[3])
    else:
        for one in points:
            click.echo(json.dumps(attempt(name, one)))
