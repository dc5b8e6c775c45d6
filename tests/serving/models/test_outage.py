"""Versions come and go and the house burns down, and no request is lost, or mixed up, or costs memory."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from catalog.models.energy import MODEL as ENERGY
from catalog.spotify_tracks import FEATURES
from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.model_format.onnx_model import OnnxModel
from registry.settings import RegistrySettings
from serving.inference.batching import MicroBatcher
from serving.inference.predictor import ParsedRequest, Predictor, Served
from serving.inference.response import PredictionResponse
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.registry.support.registered import Registrar
from tests.serving.support.load import STEP, Counted, Load, judge
from tests.serving.support.onnx_parts import regression
from tests.serving.support.predictor_process import Running, Start
from tests.stack_processes import kill
from tests.waiting import until

READS = tuple(name for name in FEATURES if name != "energy")
# Each version's file is so large, by text that says nothing: who keeps what was replaced grows by that.
PADDING = 2 << 20
_DECLARE = """
from catalog.models.energy import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


class Model:
    """A model of a catalogue of its own; version N answers STEP * N more than version 0 would."""

    def __init__(self, stack: Stack, client: TrackingClient, folder: Path) -> None:
        self._stack = stack
        self._registrar = Registrar(client, key_settings(stack))
        self.registry, self.name = self._registrar.registry, self._registrar.name
        self._catalog = folder / "declared.py"
        self._catalog.write_text(_DECLARE.format(name=self.name))
        self._number = 0

    def promote(self) -> Version:
        """Take a new version through the gate to Production."""
        self._number += 1
        proto = regression(READS, {"duration_ms": 0.001}, STEP * self._number)
        proto.metadata_props.add(key="padding", value="x" * PADDING)
        version = self._registrar.version(content=proto.SerializeToString())
        assert version.number == self._number
        return self._registrar.gate.to_production(version)

    def roll_back(self, number: int) -> None:
        self.registry.rollback(self.registry.version(self.name, number), "it hums")

    def settings(self, **more: str) -> dict[str, str]:
        """What a predictor of this model needs."""
        trusted = str(self._stack.home / "keys" / "trusted")
        return {"GREENROOM_TRUSTED_KEYS": trusted, "GREENROOM_CATALOG_PATH": str(self._catalog), **more}


@pytest.fixture
def model(stack: Stack, tmp_path: Path) -> Iterator[Model]:
    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        yield Model(stack, client, tmp_path)


@pytest.fixture
def bodies(track_without_energy: dict[str, Any], tmp_path: Path) -> Path:
    """What the load sends: single rows, which are answered together, and lists, which go to a thread."""

    def row(thousands: int) -> dict[str, Any]:
        return {**track_without_energy, "duration_ms": 1000 * thousands}

    pairs: list[tuple[str, list[float]]] = []
    for first in range(1, 200, 8):
        pairs += [(json.dumps(row(first + more)), [float(first + more)]) for more in range(7)]
        listed = range(first, first + (5 if first % 3 else 40))
        pairs.append((json.dumps([row(number) for number in listed]), [float(number) for number in listed]))
    file = tmp_path / "bodies.json"
    file.write_text(json.dumps(pairs))
    return file


def state(running: Running, model: Model) -> dict[str, Any]:
    """What /readyz says of the model."""
    found: dict[str, Any] = running.get("/readyz").json()["models"][model.name]
    return found


def served(running: Running, model: Model, version: int) -> None:
    until(lambda: state(running, model)["version"] == version, f"version {version} is not served")


def goes_on(load: Load, version: int, answers: int = 128) -> None:
    """Wait until a version has answered so many more requests of the load."""
    before = load.counted().answers.get(str(version), 0)
    until(
        lambda: load.counted().answers.get(str(version), 0) >= before + answers,
        f"version {version} does not answer: {load.counted()}",
    )


def lost_none(counted: Counted) -> None:
    assert (counted.failed, counted.failures) == (0, [])


class Held:
    """What a process holds now."""

    def __init__(self, running: Running) -> None:
        process = psutil.Process(running.process.pid)
        self.memory, self.threads = process.memory_info().rss, process.num_threads()
        self.files = process.num_fds()


def at_rest(running: Running) -> Held:
    """What a process holds between two looks at the registry: the least of some moments."""
    seen = [Held(running) for _ in range(20) if not time.sleep(0.05)]  # type: ignore[func-returns-value]
    return min(seen, key=lambda held: (held.files, held.threads))


def test_twenty_swaps_under_load_lose_and_mix_up_nothing_and_keep_nothing(
    start: Start, stack: Stack, model: Model, bodies: Path
) -> None:
    """20 promotions and rollbacks at 64 connections.

    Memory: a loaded version takes its file's size and more. The first six swaps give the allocator what it
    needs (two versions are there at once for a moment, and the bytes of a download). A process that kept what
    it replaced, or its bytes, would have grown by 14 * 2 = 28 MiB after the other fourteen; less than half of
    that is what the allocator may not have given back yet, and what counting the new versions takes.
    """
    model.promote()
    running = start(stack.tracking_url, **model.settings(), limits={"POLL": 0.2})
    served(running, model, 1)
    with Load(running.url, model.name, bodies, connections=8) as warm:
        goes_on(warm, 1)
        lost_none(warm.finish())
    before = at_rest(running)

    with Load(running.url, model.name, bodies) as load:
        goes_on(load, 1)
        # 2 1 3 1 4 1 ..: what was rolled back from may not come back, and each time there is one to load.
        for _ in range(3):
            _up_and_down(running, model, load)
        early = Held(running)
        for _ in range(7):
            _up_and_down(running, model, load)
        late = Held(running)
        counted = load.finish()

    lost_none(counted)
    assert set(counted.answers) == {str(number) for number in range(1, 12)}
    assert late.memory - early.memory < 12 << 20, f"{early.memory >> 20} MiB, then {late.memory >> 20} MiB"
    until(lambda: at_rest(running).files <= before.files, "connections or files are left open")
    # The threads for lists come as they are needed, four at most; a thread for each swap would be 20.
    assert at_rest(running).threads <= before.threads + 4
    assert "Traceback" not in running.log.read_text()
    running.stop()


def _up_and_down(running: Running, model: Model, load: Load) -> None:
    new = model.promote().number
    served(running, model, new)
    goes_on(load, new)
    model.roll_back(1)
    served(running, model, 1)
    goes_on(load, 1)


def test_rows_of_one_moment_are_answered_by_the_version_that_each_was_read_for(
    track_without_energy: dict[str, Any],
) -> None:
    """A swap between two requests that are answered together: rare under load, so it is made here."""
    predictor = Predictor({"energy": ENERGY})
    together = MicroBatcher(predictor)
    asked: list[ParsedRequest] = []
    for number in range(12):
        version = number // 2 % 3 + 1  # 1 1 2 2 3 3 1 1 ..
        if number % 2 == 0:
            content = regression(READS, {"duration_ms": 0.001}, STEP * version).SerializeToString()
            predictor.swap("energy", Served(version, OnnxModel(content), datetime.now(UTC)))
        row = {**track_without_energy, "duration_ms": 1000 * (number + 1)}
        asked.append(predictor.read("energy", json.dumps([row] * (number % 3 + 1)).encode()))

    async def ask() -> list[PredictionResponse]:
        return await asyncio.gather(*map(together.answer, asked))

    counted = Counted()
    answers = asyncio.run(ask())
    assert len(answers) == len(asked)
    for number, answer in enumerate(answers):
        judge(json.loads(answer.json()), [number + 1.0] * (number % 3 + 1), counted)
    lost_none(counted)
    assert counted.answers == {"1": 4, "2": 4, "3": 4}


@pytest.fixture
def mend(stack: Stack) -> Iterator[Callable[[], None]]:
    """Start again what was killed, as `make up` does; at the latest at the end, for the tests that follow."""

    def up() -> None:
        done = stack.greenroom("up", "--no-train")
        assert done.returncode == 0, done.stdout + done.stderr

    yield up
    up()


def registry_is(running: Running, status: str) -> None:
    until(lambda: running.get("/readyz").json()["registry"]["status"] == status, f"it is not {status}")


def test_kills_of_everything_around_it_lose_nothing_and_it_catches_up(
    start: Start, stack: Stack, model: Model, bodies: Path, mend: Callable[[], None]
) -> None:
    """kill -9 of S3, of PostgreSQL, of MLflow, of all; a start among the ruins; and back."""
    model.promote()
    running = start(stack.tracking_url, **model.settings())
    served(running, model, 1)
    # Version 2 is in Production and not loaded yet when the storage dies: it does not run meanwhile.
    running.process.send_signal(signal.SIGSTOP)
    model.promote()
    kill(stack, "s3", whole=True)
    running.process.send_signal(signal.SIGCONT)
    registry_is(running, "unreachable")
    with Load(running.url, model.name, bodies) as load:
        goes_on(load, 1)
        mend()
        served(running, model, 2)
        _dies("postgres", stack, running)
        goes_on(load, 2)
        mend()
        registry_is(running, "reachable")
        # Each once more, and then none is left.
        for service in ("mlflow", "postgres", "s3"):
            _dies(service, stack, running)
        goes_on(load, 2)
        lost_none(load.finish())
    assert running.stop() == 0

    cache = str(running.log.parent / "serving-cache")
    again = start(stack.tracking_url, **model.settings(GREENROOM_SERVING_CACHE=cache), limits={"POLL": 0.5})
    served(again, model, 2)
    assert state(again, model)["source"] == "cache"
    with Load(again.url, model.name, bodies) as load:
        goes_on(load, 2)
        registry_is(again, "unreachable")
        mend()
        until(lambda: state(again, model)["source"] == "registry", "it did not catch up")
        model.promote()
        served(again, model, 3)
        goes_on(load, 3)
        lost_none(load.finish())
    for one in (running, again):
        assert "Traceback" not in one.log.read_text()
    again.stop()


def _dies(service: str, stack: Stack, running: Running) -> None:
    """Kill a service, and wait until the predictor has looked and seen that something is wrong."""
    kill(stack, service, whole=True)
    registry_is(running, "unreachable")
