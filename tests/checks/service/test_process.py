"""The process that judges may die, and may hang: the service answers, and judges the next version."""

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from checks.errors import GateInputError
from checks.service import process
from checks.service.process import JudgeProcess
from registry.errors import RegistryUnavailableError
from registry.settings import RegistrySettings


def serve(pipe: Connection) -> None:
    """Stand for the real process: the name of the model says what happens."""
    pipe.send("ready")
    while True:
        username, _, model, number = pipe.recv()
        if model == "crash":
            os.abort()
        if model == "hang":
            time.sleep(600)
        pipe.send(RegistryUnavailableError(f"{username} {model} {number}"))


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeProcess]:
    monkeypatch.setattr(process, "_serve", serve)
    judge = JudgeProcess(deadline=5)
    yield judge
    judge.stop()


def test_an_error_comes_back_as_it_was(judge: JudgeProcess) -> None:
    with pytest.raises(RegistryUnavailableError, match="wanda genre 3"):
        judge(RegistrySettings(tracking_username="wanda"), "genre", 3)


@pytest.mark.parametrize(
    ("model", "reason"), [("crash", "its file cannot be run"), ("hang", r"took longer than 5 s")]
)
def test_what_ends_or_holds_the_process_is_refused_and_the_next_one_is_judged(
    judge: JudgeProcess, model: str, reason: str
) -> None:
    with pytest.raises(GateInputError, match=reason):
        judge(RegistrySettings(), model, 1)
    with pytest.raises(RegistryUnavailableError, match="genre 2"):
        judge(RegistrySettings(), "genre", 2)
