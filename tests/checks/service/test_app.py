"""The gate's HTTP service: it takes a name and a number from a program, and nothing else."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from checks.errors import DataError, GateInputError, GateUnavailableError
from checks.service import app as service
from checks.service.app import create_app
from registry.errors import (
    EvidenceBytesError,
    KeyFileError,
    NotFoundError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
from registry.evidence.verdict import CheckOutcome, Verdict
from registry.settings import RegistrySettings

VERDICT = Verdict(
    model="genre",
    task="classification",
    model_digest="sha256:" + "a" * 64,
    policy_digest="sha256:" + "b" * 64,
    dataset_digests={},
    outcomes=(
        CheckOutcome(check="First", suite="model_evaluation", required=True, status="passed", reason="fine"),
    ),
)
ORDER = {"model": "genre", "version": 3}
Judge = Callable[[RegistrySettings, str, int], Verdict]


def ask(judge: Judge, *, url: str = "http://127.0.0.1", **arguments: Any) -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(judge))
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            return await client.post("/verdicts", **arguments)

    return asyncio.run(post())


def never(*_: object) -> Verdict:
    raise AssertionError("nothing is to be judged")


def test_it_judges_with_the_login_of_the_caller() -> None:
    calls = []

    def judge(settings: RegistrySettings, model: str, number: int) -> Verdict:
        calls.append(
            (settings.tracking_username, settings.tracking_password.get_secret_value(), model, number)
        )
        return VERDICT

    answer = ask(judge, json=ORDER, auth=("wanda", "säcret"))
    assert answer.status_code == 200
    assert Verdict.model_validate_json(answer.content) == VERDICT
    assert ask(judge, json=ORDER).status_code == 200
    assert calls == [("wanda", "säcret", "genre", 3), ("", "", "genre", 3)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"model": "genre"}',
        b'{"model": "genre", "version": 0}',
        b'{"model": "genre", "version": "3"}',
        b'{"model": "genre", "version": 3.5}',
        b'{"model": "", "version": 3}',
        b'{"model": "gen\\u0000re", "version": 3}',
        b'{"model": "genre\\n", "version": 3}',
        b'{"model": "genre", "version": 99999999999999999999}',
        b'{"model": "genre", "version": 3, "train": "rows.parquet"}',
        b'{"model": "genre", "version": 3, "policy": {"checks": []}}',
        b'{"model": "genre", "version": 3, "key": "gate.pem"}',
    ],
)
def test_anything_but_a_name_and_a_number_is_refused(body: bytes) -> None:
    answer = ask(never, content=body)
    assert answer.status_code == 422
    assert '{"model": "genre", "version": 1}' in answer.json()["detail"]


def test_long_body_is_refused() -> None:
    assert ask(never, content=b" " * 5000).status_code == 413


def test_other_hosts_and_web_pages_are_refused() -> None:
    assert ask(never, json=ORDER, url="http://evil.example").status_code == 400
    answer = ask(never, json=ORDER, headers={"Origin": "http://127.0.0.1:5000"})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("header", ["Bearer abc", "Basic !!!", "Basic", "Basic " + b64encode(b":x").decode()])
def test_other_logins_are_refused(header: str) -> None:
    assert ask(never, json=ORDER, headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotFoundError("none"), 404, "not-found"),
        (GateInputError("other rows"), 409, "input"),
        (DataError("no table"), 409, "input"),
        (EvidenceBytesError("exchanged"), 409, "bytes"),
        (RegistryRefusedError("not yours"), 403, "refused"),
        (KeyFileError("no key"), 503, "unavailable"),
        (RegistryUnavailableError("no answer"), 503, "unavailable"),
        (GateUnavailableError("no DeepChecks"), 503, "unavailable"),
    ],
)
def test_errors_have_a_status_and_their_sentence(error: Exception, status: int, kind: str) -> None:
    def judge(*_: object) -> Verdict:
        raise error

    answer = ask(judge, json=ORDER)
    assert (answer.status_code, answer.json()) == (status, {"detail": str(error), "kind": kind})


def test_more_requests_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_WAITING", 2)

    async def many() -> list[int]:
        transport = httpx.ASGITransport(create_app(lambda *_: VERDICT))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = await asyncio.gather(*(client.post("/verdicts", json=ORDER) for _ in range(5)))
        assert {answer.headers.get("retry-after") for answer in answers} == {None, "60"}
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(many()) == [200, 200, 503, 503, 503]
