"""A real predictor process over models that were really registered.

Every model here is declared under a name of its own, so that these tests neither see nor disturb what
other tests put into the same tracking server.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from catalog.spotify_tracks import FEATURES
from registry.client.registry import MODEL_FILE
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.evidence import Gate, key_settings
from tests.ports import free_port
from tests.serving.support.onnx_parts import (
    BIAS,
    WEIGHTS,
    classifier,
    divides_by_zero,
    publish,
    register,
    regression,
    undescribed,
)
from tests.serving.support.predictor_process import Published, Running, Start
from tests.waiting import answers, until

STARTED: list[Running] = []
PREFIX = f"t{uuid4().hex[:8]}"

_DECLARE = """
from catalog.models.{base} import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


@pytest.fixture(scope="session")
def names() -> dict[str, str]:
    """Names of this run's models by what is the matter with them."""
    kinds = (
        *("genre", "energy", "orphan", "undescribed", "strange", "mapped", "infinite", "wrong-task"),
        *("exchanged", "overridden"),
    )
    return {kind: f"{PREFIX}-{kind}" for kind in kinds}


@pytest.fixture(scope="session")
def catalog_path(names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    for kind, name in names.items():
        base = "genre" if kind in ("genre", "mapped") else "energy"
        (folder / f"{kind.replace('-', '_')}.py").write_text(_DECLARE.format(base=base, name=name))
    return folder


@pytest.fixture(scope="session")
def start(catalog_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a predictor process: `start(tracking_uri, limits={NAME: value}, SETTING=value)`.

    `limits` are those of serving/limits.py, or constants of other modules by their whole names. `program` is
    the text of a program that runs in the place of the usual one.
    """

    def launch(
        tracking_uri: str, limits: Mapping[str, float | str] | None = None, program: str = "", **env: str
    ) -> Running:
        changed = [f"{name}={value!r}" for name, value in (limits or {}).items()]
        home, port = tmp_path_factory.mktemp("home"), free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("GREENROOM_")}
        log, usual = home / "log", Path(__file__).parent / "support" / "predictor_with.py"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *(("-c", program) if program else (str(usual), *changed))],
                env={
                    **clean,
                    "GREENROOM_HOME": str(home),
                    "GREENROOM_TRACKING_URI": tracking_uri,
                    "GREENROOM_CATALOG_PATH": str(catalog_path),
                    "GREENROOM_SERVING_PORT": str(port),
                    # Not what other tests put into the registry.
                    "GREENROOM_SERVING_MAX_MODELS": "0",
                    **env,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        running = Running(process, f"http://127.0.0.1:{port}", log)
        STARTED.append(running)
        until(lambda: answers(f"{running.url}/healthz") or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        return running

    yield launch
    for running in STARTED:
        running.kill()


@pytest.fixture(scope="module", autouse=True)
def stopped() -> Iterator[None]:
    """End what a file's tests have started with them: each predictor asks the registry every second."""
    yield
    for running in STARTED:
        if not running.shared:
            running.kill()
    STARTED[:] = [running for running in STARTED if running.shared]


@pytest.fixture(scope="session")
def published(stack: Stack, names: dict[str, str]) -> Published:
    """Put models into Production, good and bad ones; return how a predictor gets at them."""
    without_energy = tuple(name for name in FEATURES if name != "energy")
    good = regression(without_energy, WEIGHTS, BIAS)
    versions = publish(
        stack,
        {
            # Backwards, so that only a predictor that goes by the model's own order gets it right.
            names["genre"]: classifier(FEATURES[::-1]),
            names["energy"]: regression(without_energy[::-1], WEIGHTS, BIAS),
            names["undescribed"]: undescribed(without_energy),
            names["strange"]: regression(("danceability", "shoe_size"), {}, 0.0),
            names["mapped"]: classifier(FEATURES, zipmap=True),
            names["infinite"]: divides_by_zero(without_energy),
            names["wrong-task"]: classifier(without_energy),
            names["exchanged"]: good,
        },
    )
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        gate = Gate(client, key_settings(stack))
        # Another model that would do just as well, by whoever can write artifacts.
        answer = client.get("model-versions/get-download-uri", {"name": names["exchanged"], "version": 1})
        other = regression(without_energy, WEIGHTS, BIAS + 1).SerializeToString()
        client.put_artifact(answer["artifact_uri"], MODEL_FILE, other)
        assert gate.registry.model_bytes(versions[names["exchanged"]]) == other
        gate.registry.override(
            register(gate, stack, names["overridden"], good),
            Stage.PRODUCTION,
            reason="the gate's machine is down",
            operator="ann",
            settings=gate.settings,
        )
    return Published(stack.tracking_url, str(stack.home / "keys" / "trusted"))


@pytest.fixture(scope="session")
def predictor(start: Start, published: Published) -> Running:
    """A predictor that has loaded all it can."""
    # What it serves never changes, and it is there to the end: it need not ask every second.
    running = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted, limits={"POLL": 20})
    running.shared = True
    running.loaded()
    return running


@pytest.fixture
def track() -> dict[str, Any]:
    """A valid track, of whole and of broken numbers."""
    return {
        "danceability": 0.5,
        "energy": 1,
        "valence": 0.0,
        "acousticness": 0.153,
        "instrumentalness": 0,
        "liveness": 0.111,
        "speechiness": 0.0259,
        "key": 10,
        "mode": 1,
        "loudness": -4.644,
        "tempo": 89.991,
        "duration_ms": 200_000,
        "time_signature": 4,
        "explicit": True,
    }


@pytest.fixture
def track_without_energy(track: dict[str, Any]) -> dict[str, Any]:
    """What the energy model reads."""
    return {name: value for name, value in track.items() if name != "energy"}
