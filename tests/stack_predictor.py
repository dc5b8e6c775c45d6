"""A predictor beside a stack's own, for the catalogue of a test file; the stack goes on as it is."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import Stack
from tests.ports import free_port
from tests.waiting import answers, until


@contextmanager
def own_predictor(stack: Stack, home: Path, models: Iterable[str], **variables: str) -> Iterator[str]:
    """Run a predictor on the stack's registry and bucket, with a home of its own.

    Yields its address when it serves the models.
    """
    home.mkdir(mode=0o700)
    for name in ("keys", "stack.env"):
        (home / name).symlink_to(stack.home / name)
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", home / "log"
    own = {"GREENROOM_HOME": str(home), "GREENROOM_SERVING_PORT": str(port)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            env={**stack.environment, **variables, **own},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: process.poll() is not None or answers(f"{url}/healthz"), log.read_text)
        assert process.poll() is None, log.read_text()
        until(lambda: all(served(url).get(model) for model in models), log.read_text)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def served(url: str) -> dict[str, int | None]:
    """Return which version of each model a predictor has: a moment after a promotion it is the new one."""
    models = httpx.get(f"{url}/api/models", timeout=60).json()["models"]
    return {model["name"]: model["version"] for model in models}
