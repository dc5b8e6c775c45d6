"""Prefect's API asks for its login, and a person's browser gets it from a link."""

import base64
import json
import re
import stat
from uuid import UUID

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from tests.conftest import Stack

pytestmark = pytest.mark.slow

SOME = str(UUID(int=1))
# What would run a command, or show one: a deployment, a work pool's template, a flow run; and their kin.
CALLS = [
    ("POST", "deployments/", {"name": "planted", "flow_id": SOME, "job_variables": {"command": "id"}}),
    ("PATCH", f"deployments/{SOME}", {"job_variables": {"command": "id"}}),
    ("POST", f"deployments/{SOME}/create_flow_run", {"job_variables": {"command": "id"}}),
    ("POST", "deployments/filter", {}),
    ("POST", "work_pools/", {"name": "planted", "type": "process"}),
    ("PATCH", "work_pools/greenroom", {"base_job_template": {}}),
    ("DELETE", "work_pools/greenroom", None),
    ("POST", "work_pools/greenroom/get_scheduled_flow_runs", {}),
    ("POST", "flow_runs/", {"name": "planted", "flow_id": SOME}),
    ("PATCH", f"flow_runs/{SOME}", {"job_variables": {"command": "id"}}),
    ("POST", "flow_runs/filter", {}),
    ("POST", f"flow_runs/{SOME}/set_state", {"state": {"type": "CANCELLING"}}),
    ("POST", "flows/", {"name": "planted"}),
    ("POST", "events", []),
    ("POST", "events/filter", {}),
    ("POST", "automations/", {}),
    ("POST", "block_documents/filter", {"include_secrets": True}),
    ("POST", "variables/", {"name": "planted", "value": "1"}),
    ("POST", "logs/filter", {}),
    ("GET", "admin/settings", None),
    ("POST", "admin/database/clear", {"confirm": False}),
    ("GET", "csrf-token?client=planted", None),
]


@pytest.mark.parametrize(("verb", "path", "body"), CALLS)
def test_call_without_the_login_is_refused(
    stack: Stack, verb: str, path: str, body: dict[str, object] | None
) -> None:
    url = f"{stack.prefect_url}/api/{path}"
    wrong = [None, ("greenroom", "wrong"), ("greenroom", ""), ("admin", stack.prefect_login[1])]
    for login in wrong:
        assert httpx.request(verb, url, json=body, auth=login).status_code == 401
    bearer = {"Authorization": f"Bearer {stack.prefect_login[1]}"}
    assert httpx.request(verb, url, json=body, headers=bearer).status_code == 401


def test_call_with_the_login_is_answered(stack: Stack) -> None:
    url = f"{stack.prefect_url}/api/flow_runs/filter"
    assert httpx.post(url, json={"limit": 1}, auth=stack.prefect_login).is_success


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
@pytest.mark.parametrize("subprotocols", [None, ["prefect"]])
def test_websocket_without_the_login_is_refused(
    stack: Stack, path: str, subprotocols: list[str] | None
) -> None:
    url = f"{stack.prefect_url}/api/{path}".replace("http:", "ws:")

    def subscribe() -> None:
        with connect(url, subprotocols=subprotocols, proxy=None) as socket:  # type: ignore[arg-type]
            socket.send(json.dumps({"type": "auth", "token": "greenroom:wrong"}))
            socket.recv(timeout=10)

    with pytest.raises((InvalidStatus, ConnectionClosedError)):
        subscribe()


@pytest.mark.parametrize(
    "path", ["/api/health", "/api/flow_runs/filter", "/ui-settings", "/greenroom-login.html"]
)
def test_page_of_another_origin_gets_nothing(stack: Stack, path: str) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        headers = {"Origin": origin}
        answer = httpx.get(f"{stack.prefect_url}{path}", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        headers |= {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        asked = httpx.options(f"{stack.prefect_url}{path}", headers=headers)
        assert asked.status_code == 400
        assert "access-control-allow-origin" not in asked.headers


def test_link_holds_no_secret_and_leads_to_the_login(stack: Stack) -> None:
    """The browser's part is in tests/flows/training/test_flow.py."""
    printed = stack.greenroom("status").stdout
    link = stack.home / "prefect-login.html"
    assert link.as_uri() in printed
    assert stat.S_IMODE(link.stat().st_mode) == 0o600
    login = base64.b64encode(":".join(stack.prefect_login).encode()).decode()
    assert login not in printed
    (url,) = re.findall(r"url=([^\"]+)", link.read_text())
    assert url == f"{stack.prefect_url}/greenroom-login.html#{login}"
    page = httpx.get(url)
    assert page.is_success
    assert "prefect-password" in page.text
    assert login not in page.text
    assert "BASIC" in httpx.get(f"{stack.prefect_url}/ui-settings").text
