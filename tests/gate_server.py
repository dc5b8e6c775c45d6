"""One gate for all stacks of a test session: the real service, which judges with the settings of who asks.

A stack's own gate is a process with the settings of its start. Tests train with catalogues and homes of
their own by the hundred. So this gate reads the `GREENROOM_` variables of the process at the other end of the
connection, and judges as a gate that was started with them; a process whose variables changed since its
start sends them in a header. The tests of checks/service and infra/local have gates that Greenroom starts
itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.gate_header import HEADER
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent


class SessionGate:
    """Starts with the first question for its address, and ends with the session."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The address of the gate."""
        if self._process is None:
            self._port = free_port()
            command = [sys.executable, "-m", "tests.gate_server", str(self._port)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
            until(self._answers)
        return f"http://127.0.0.1:{self._port}"

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self._port}/health").is_success
        return False

    def end(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


SESSION_GATE = SessionGate()


class _RememberCaller:
    """Keeps the variables of the caller for the one verdict that is under way."""

    def __init__(self) -> None:
        self.app: ASGIApp
        self.environment: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/verdicts":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            sent = headers.get(HEADER)
            self.environment = json.loads(sent) if sent else _variables_at_start(tuple(scope["client"]))
        await self.app(scope, receive, send)


def _variables_at_start(caller: tuple[str, int]) -> dict[str, str]:
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and tuple(connection.laddr) == caller and connection.pid:
            return ours(psutil.Process(connection.pid).environ())
    raise RuntimeError(f"The caller {caller} has gone.")


def ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Greenroom reads."""
    return {name: value for name, value in environment.items() if name.startswith("GREENROOM_")}


def serve(port: int) -> None:
    """Run the service in this process."""
    from catalog.loader import reload_catalog  # noqa: PLC0415
    from checks.service.app import create_app  # noqa: PLC0415
    from checks.service.judgement import judge_version, judging  # noqa: PLC0415
    from registry.client.registry import Registry  # noqa: PLC0415
    from registry.client.tracking_client import TrackingClient  # noqa: PLC0415
    from registry.evidence.verdict import Verdict  # noqa: PLC0415
    from registry.settings import RegistrySettings  # noqa: PLC0415

    caller, checks_python = _RememberCaller(), os.environ["GREENROOM_CHECKS_PYTHON"]

    def judge(settings: RegistrySettings, model: str, number: int) -> Verdict:
        for name in ours(os.environ):
            del os.environ[name]
        os.environ.update({"GREENROOM_CHECKS_PYTHON": checks_python, **caller.environment})
        reload_catalog()
        login = {
            "tracking_username": settings.tracking_username,
            "tracking_password": SecretStr(settings.tracking_password.get_secret_value()),
        }
        with TrackingClient(RegistrySettings().model_copy(update=login)) as client:
            return judge_version(Registry(client), model, number)

    with judging():
        caller.app = create_app(judge)
        uvicorn.run(caller, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
