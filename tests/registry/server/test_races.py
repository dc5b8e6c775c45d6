"""Many at once, and killed in the middle: always one version in Production, and each change with its row."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any

import psutil
import psycopg2
import pytest

from registry import audit
from registry.client import audit_log
from registry.settings import KeySettings
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.ports import free_port
from tests.registry.support.promoting import Promoter
from tests.registry.support.registered import Registrar
from tests.waiting import answers, until

PROCESSES, ATTEMPTS = 4, 50
KILLS = 50


@contextmanager
def sql_session(stack: Stack) -> Iterator[Any]:
    lines = (stack.home / "stack.env").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines)
    options = {"host": "127.0.0.1", "port": stack.ports["POSTGRES"], "user": "mlflow", "dbname": "mlflow"}
    connection = psycopg2.connect(**options, password=known["GREENROOM_MLFLOW_DB_PASSWORD"])
    # One snapshot for each look: stages and rows of the same moment.
    connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    try:
        yield connection
    finally:
        connection.close()


class Watcher:
    """Looks at the database again and again, beside whatever goes on."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack, self._name = stack, name
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks, self.problems = 0, list[str]()

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with sql_session(self._stack) as connection:
            while not self._done.is_set():
                self.problems += disagreements(connection, self._name)
                self.looks += 1
                self._done.wait(0.02)  # the processor is for those who promote


def disagreements(connection: Any, name: str) -> list[str]:
    """Return where stages and audit do not agree, and whether Production has one version, at one moment."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT version, current_stage FROM model_versions WHERE name = %s", (name,))
        stages = dict(cursor.fetchall())
        cursor.execute("SELECT body FROM greenroom.audit WHERE model = %s ORDER BY id", (name,))
        rows = [audit.AuditEntry.model_validate_json(body) for (body,) in cursor]
    connection.rollback()
    said = {row.version: row.to_stage for row in rows if row.to_stage}
    problems = []
    if list(stages.values()).count("Production") != 1:
        problems.append(f"in Production: {stages}")
    if said != stages:
        problems.append(f"stages {stages}, audit {said}")
    problems += [f"row {row.id} by SQL" for row in rows if row.action == "sql"]
    return problems


@pytest.fixture
def pair(registrar: Registrar) -> Registrar:
    """A model with two versions that have both been in Production."""
    registrar.in_production()
    registrar.in_production()
    return registrar


def promote_many(url: str, name: str, settings: KeySettings) -> Counter[str]:
    return Promoter(url, name, settings).run(lambda attempts: attempts >= ATTEMPTS)


def test_two_hundred_promotions_at_once(stack: Stack, pair: Registrar) -> None:
    settings = key_settings(stack)
    before = len(audit_log.history(pair.client, pair.name))
    with Watcher(stack, pair.name) as watcher, ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        jobs = [pool.submit(promote_many, stack.tracking_url, pair.name, settings) for _ in range(PROCESSES)]
        outcomes = sum((job.result() for job in jobs), Counter[str]())
    assert outcomes.total() == PROCESSES * ATTEMPTS
    assert watcher.problems == []
    assert watcher.looks > 50
    # Who met another's promotion is refused for the incumbent (403) or told to try again (409), never a 500.
    # How many do is the scheduler's affair: hundreds on one machine, a handful on another.
    assert set(outcomes) <= {"promoted", "403", "409"}, outcomes
    rows = audit_log.history(pair.client, pair.name)[before:]
    actions = Counter(row.action for row in rows)
    # Whoever asks for what somebody else did a moment before is told that it is so, and no row is written.
    assert 10 < actions["promoted"] <= outcomes["promoted"]
    assert actions["archived"] == actions["promoted"]
    assert actions["refused"] == outcomes["403"]
    assert len({row.evidence for row in rows if row.action == "promoted"}) == actions["promoted"]
    assert list(audit.broken_links(audit_log.chain(pair.client, pair.name))) == []


@contextmanager
def second_server(stack: Stack, log: Path) -> Iterator[tuple[str, Any]]:
    """`mlflow server` on the stack's stores with several workers, each of which can be killed.

    The master loads the application before it forks, so that a killed worker is back in no time. Yields the
    address and a function that returns the workers.
    """
    known = dict(line.split("=", 1) for line in (stack.home / "stack.env").read_text().splitlines())
    port = free_port()
    database = f"127.0.0.1:{stack.ports['POSTGRES']}/mlflow"
    env = {
        **os.environ,
        "GREENROOM_HOME": str(stack.home),
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{known['GREENROOM_MLFLOW_DB_PASSWORD']}@{database}",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://greenroom/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{stack.ports['S3']}",
        "AWS_ACCESS_KEY_ID": known["GREENROOM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": known["GREENROOM_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--serve-artifacts", "--registry-store-uri", "greenroom://", "--workers", "3"]
    command += ["--gunicorn-opts", "--preload --log-level error"]
    with log.open("w") as output:
        process = Popen(command, env=env, stdout=output, stderr=STDOUT)
    url = f"http://127.0.0.1:{port}"

    def workers() -> list[psutil.Process]:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # killed a moment ago
                if found := child.children():
                    return found
        return []

    try:
        until(lambda: answers(f"{url}/health") or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        yield url, workers
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def test_killed_fifty_times_in_the_middle(stack: Stack, pair: Registrar, tmp_path: Path) -> None:
    """No stage without its row, no row without its change, whenever the server dies."""
    settings, done = key_settings(stack), threading.Event()
    with (
        second_server(stack, tmp_path / "log") as (url, workers),
        sql_session(stack) as connection,
        ThreadPoolExecutor() as pool,
    ):
        promoters = [Promoter(url, pair.name, settings) for _ in range(3)]
        jobs = [pool.submit(one.run, lambda _: done.is_set()) for one in promoters]
        killed = seen = 0
        deadline = time.monotonic() + 240
        try:
            while killed < KILLS:
                assert time.monotonic() < deadline, f"{killed} kills"
                # Only once something has happened since the last time, and then at any point of the next.
                if (count := sum(one.outcomes["promoted"] for one in promoters)) == seen:
                    time.sleep(0.002)
                    continue
                seen = count
                time.sleep(random.uniform(0, 0.05))
                for worker in random.sample(found := workers(), min(len(found), random.choice([1, 3]))):
                    with suppress(psutil.NoSuchProcess):
                        worker.send_signal(signal.SIGKILL)
                        killed += 1
                assert disagreements(connection, pair.name) == []
        finally:
            done.set()
        outcomes = sum((job.result() for job in jobs), Counter[str]())
        assert disagreements(connection, pair.name) == []
    assert outcomes["no answer"] > 0, outcomes
    assert outcomes["promoted"] > 5, outcomes
    assert list(audit.broken_links(audit_log.chain(pair.client, pair.name))) == []
    actions = Counter(row.action for row in audit_log.history(pair.client, pair.name))
    assert actions["promoted"] > 7  # the first two came before
    assert actions["archived"] == actions["promoted"] - 1
