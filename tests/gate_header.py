"""Lets a Python process tell the session's gate (tests/gate_server.py) the variables that it has now.

What the system knows of a process are those of its start: a test that sets one, and a command that was
forked (tests/warm_python.py), have others.
"""

import json
import os
from typing import Any

import httpx

HEADER = "x-test-environment"


def send_variables() -> None:
    """Add the variables of Greenroom to every request for a verdict that this process sends from now on."""
    post = httpx.post

    def post_with_variables(url: str, **arguments: Any) -> httpx.Response:
        if str(url).endswith("/verdicts"):
            variables = {name: value for name, value in os.environ.items() if name.startswith("GREENROOM_")}
            arguments["headers"] = {**arguments.get("headers", {}), HEADER: json.dumps(variables)}
        return post(url, **arguments)

    httpx.post = post_with_variables
