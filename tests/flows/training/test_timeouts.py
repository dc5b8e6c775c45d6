"""A step that hangs is ended, once, with a word about what to do."""

import subprocess
import sys

from flows.orchestration.retries import explained
from tests.conftest import Stack

HANGS = """
import socket, sys
from prefect import flow, task
from prefect.task_engine import TaskRunTimeoutError
from flows.orchestration.retries import BOUNDED, explained
tries = []

@task(**BOUNDED)
def hang():
    tries.append(1)
    here, there = socket.socketpair()
    here.recv(1)

@flow
def hanging():
    hang()

try:
    hanging()
except TaskRunTimeoutError as error:
    print(len(tries), explained(error))
"""


def test_a_step_that_hangs_is_ended_with_a_clear_word_and_not_tried_again(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        env={
            **stack.environment,
            "GREENROOM_STEP_TIMEOUT": "1",
            "PREFECT_API_URL": f"{stack.prefect_url}/api",
            "PREFECT_HOME": str(stack.home / "prefect"),
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.startswith("1 A step took too long and was ended"), done.stdout + done.stderr
    assert "GREENROOM_STEP_TIMEOUT is 1" in done.stdout


def test_other_errors_are_said_as_they_are() -> None:
    assert explained(ValueError("no")) == "ValueError: no"
