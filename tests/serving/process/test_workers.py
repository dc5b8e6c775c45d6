"""Several processes behind one port: each serves, each is seen, and one that dies is replaced."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.process.workers import FOLDER, Workers
from tests.serving.support.predictor_process import Published, Running, Start
from tests.serving.support.scraped import Scraped
from tests.waiting import until

MANY = 3


@pytest.fixture(scope="module")
def several(start: Start, published: Published) -> Running:
    running = start(
        published.url, GREENROOM_TRUSTED_KEYS=published.trusted, GREENROOM_SERVING_WORKERS=str(MANY)
    )
    running.loaded()
    return running


def workers(running: Running, model: str) -> dict[int, int | None]:
    told = running.get("/readyz").json()["workers"]
    return {one["pid"]: one["versions"].get(model) for one in told}


def test_every_process_serves_and_is_seen(
    several: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    model = names["genre"]
    until(lambda: list(workers(several, model).values()) == [1] * MANY)
    children = {child.pid for child in psutil.Process(several.process.pid).children()}
    assert set(workers(several, model)) <= children
    before = Scraped(several.get("/metrics").text)
    for _ in range(30):  # each a new connection, which any of them may take
        assert several.post(model, json=track).json()["version"] == 1
    after = Scraped(several.get("/metrics").text)
    rows = "greenroom_rows_predicted_total"
    assert after.get(rows, model=model) - before.get(rows, model=model) == 30
    served = after.having("greenroom_served_version", model=model)
    assert sorted(served.values()) == [1] * MANY, "each shows its own"
    memory = after.having("greenroom_worker_resident_memory_bytes")
    assert len(memory) == MANY
    assert min(memory.values()) > 10**7


def test_one_that_is_killed_is_replaced(
    several: Running, names: dict[str, str], track: dict[str, Any]
) -> None:
    model = names["genre"]
    before = set(workers(several, model))
    victim = before.pop()
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        try:
            now = workers(several, model)
        except Exception:  # noqa: BLE001 - a connection that the killed one had taken
            return False
        return len(now) == MANY and victim not in now and set(now.values()) == {1}

    until(replaced)
    assert several.post(model, json=track).status_code == 200
    pids = {
        dict(labels)["pid"]
        for labels in Scraped(several.get("/metrics").text).having("greenroom_served_version")
    }
    assert str(victim) not in pids


def test_a_stop_stops_all_of_them_and_leaves_nothing(start: Start, published: Published) -> None:
    running = start(published.url, GREENROOM_SERVING_WORKERS="2", GREENROOM_TRUSTED_KEYS=published.trusted)
    until(lambda: len(running.get("/readyz").json()["workers"]) == 2)
    parent = psutil.Process(running.process.pid)
    children = parent.children(recursive=True)
    # Among them are the processes that load models first, which know of no folder.
    folder = Path(next(found[FOLDER] for child in children if FOLDER in (found := child.environ())))
    assert folder.exists()
    assert running.stop() == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not folder.exists()


def test_they_end_with_the_process_that_runs_them(start: Start) -> None:
    running = start("http://127.0.0.1:9", GREENROOM_SERVING_WORKERS="2")
    until(lambda: len(running.get("/readyz").json()["workers"]) == 2)
    children = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_one_that_died_is_not_told_of(tmp_path: Path) -> None:
    gone = psutil.Popen(["true"])
    gone.wait()
    (tmp_path / f"{gone.pid}.json").write_text('{"genre": 7}')
    found = Workers(tmp_path)
    found.tell({"genre": 1})
    assert found.all() == {os.getpid(): {"genre": 1}}
    assert Workers(None).all() == {}
