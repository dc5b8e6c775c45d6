"""Trains a model in processes that are killed: `python killing.py MODEL POINT…`.

A POINT is a name of `POINTS`, or a number: seconds after which the whole process tree is killed. Or it is
`end`: nobody is killed. What each came to is printed as one line of JSON. Everything is imported once, and
each training is a fork.
"""

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

from flows.commands import prepare_environment
from flows.settings import FlowSettings

prepare_environment(FlowSettings())

import psutil
from mlflow import MlflowClient

from flows.train import train
from registry.stage import Stage
from registry.stages import Registry


def _die(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is not survived")


def _dies(owner: type, name: str, *, when: Callable[..., bool] = lambda *_: True) -> None:
    """Let a method do its work, and the process die before anybody hears of it."""
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
    "before the evidence": lambda: setattr(Registry, "attest", _die),
    "evidence": lambda: _dies(Registry, "attest"),
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
            print(json.dumps({"version": done.version, "stage": done.stage}), file=sys.stderr, flush=True)
            code = 0
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
    return {"point": point, "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}


def rounds(model: str, kills: int, seed: str) -> None:
    """Kill at random moments of a whole training, each time followed by one that nobody kills."""
    random.seed(seed)
    whole = attempt(model, "end")
    print(json.dumps(whole), flush=True)
    for _ in range(kills):
        print(json.dumps(attempt(model, f"{random.uniform(0, whole['seconds']):.2f}")), flush=True)
        print(json.dumps(attempt(model, "end")), flush=True)


if __name__ == "__main__":
    name, *points = sys.argv[1:]
    if points[0] == "rounds":
        rounds(name, int(points[1]), points[2])
    else:
        for one in points:
            print(json.dumps(attempt(name, one)), flush=True)
