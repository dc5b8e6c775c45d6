"""What asks the gate: every way in which it cannot judge has an error of its own."""

import threading
from collections.abc import Iterator

import pytest
import uvicorn

from checks.errors import GateInputError, GateUnavailableError
from checks.service.app import create_app
from checks.service.client import request_verdict
from registry.errors import EvidenceBytesError, KeyFileError, NotFoundError, RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.settings import RegistrySettings
from tests.checks.service.test_app import VERDICT
from tests.ports import free_port
from tests.receivers import http_receiver
from tests.waiting import until

ERRORS = {
    "missing": NotFoundError("none"),
    "other": GateInputError("other rows"),
    "exchanged": EvidenceBytesError("exchanged"),
    "foreign": RegistryRefusedError("not yours"),
    "keyless": KeyFileError("no key"),
}


def judge(settings: RegistrySettings, model: str, _: int) -> Verdict:
    if model in ERRORS:
        raise ERRORS[model]
    return VERDICT.model_copy(update={"git_commit": settings.tracking_username})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(judge), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def _asks(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_GATE_URL", address + "/")


@pytest.mark.usefixtures("_asks")
def test_it_returns_the_verdict_and_sends_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request_verdict("genre", 1).git_commit == ""
    monkeypatch.setenv("GREENROOM_TRACKING_USERNAME", "wanda")
    assert request_verdict("genre", 1).git_commit == "wanda"


@pytest.mark.usefixtures("_asks")
@pytest.mark.parametrize("model", ["missing", "other", "exchanged", "foreign"])
def test_errors_are_those_of_the_gate(model: str) -> None:
    with pytest.raises(type(ERRORS[model]), match=str(ERRORS[model])):
        request_verdict(model, 1)


@pytest.mark.usefixtures("_asks")
def test_a_gate_without_its_key_cannot_judge() -> None:
    with pytest.raises(GateUnavailableError, match="no key"):
        request_verdict("keyless", 1)


def test_no_gate_and_something_else_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_GATE_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(GateUnavailableError, match=r"does not answer.*make up.*GREENROOM_GATE_URL"):
        request_verdict("genre", 1)
    with http_receiver() as receiver:
        monkeypatch.setenv("GREENROOM_GATE_URL", f"http://127.0.0.1:{receiver.port}")
        with pytest.raises(GateUnavailableError, match="does not answer like a gate"):
            request_verdict("genre", 1)
