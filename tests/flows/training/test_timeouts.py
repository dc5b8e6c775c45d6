"""A step that hangs is ended, once, with a word about what to do."""

import subprocess

from flows.orchestration.retries import explain
from tests.conftest import Stack
from tests.warm_commands import warm_python

HANGS = """
import socket, sys
from prefect import flow, task
from prefect.task_engine import TaskRunTimeoutError
from flows.orchestration.retries import BOUNDED, explain
tries = []

@task(**{**BOUNDED, "timeout_seconds": 1})
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
    print(len(tries), explain(error))
"""


def test_a_step_that_hangs_is_ended_with_a_clear_word_and_not_tried_again(stack: Stack) -> None:
    done = subprocess.run(
        [str(warm_python()), "-c", HANGS],
        env={
            **stack.environment,
            "PREFECT_API_URL": f"{stack.prefect_url}/api",
            "PREFECT_API_AUTH_STRING": ":".join(stack.prefect_login),
            "PREFECT_HOME": str(stack.home / "prefect"),
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.startswith("1 A step took too long and was ended"), done.stdout + done.stderr
    assert "may take 900 seconds" in done.stdout


def test_other_errors_are_said_as_they_are() -> None:
    assert explain(ValueError("no")) == "ValueError: no"
