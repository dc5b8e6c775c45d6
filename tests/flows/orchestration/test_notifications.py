"""Notifications reach real receivers, hold no secret, and never fail what they are about."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestration import notifications
from flows.training.outcome import TrainingOutcome, notify_outcome
from registry.notify.people import notify, redact
from tests.conftest import Stack, free_port
from tests.receivers import http_receiver, mail_receiver, silent_receiver
from tests.warm_commands import warm_python

TOKEN = "T0pS3cretT0ken"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))


def set_urls(monkeypatch: pytest.MonkeyPatch, *urls: str, between: str = ", ") -> None:
    monkeypatch.setenv("GREENROOM_NOTIFY_URLS", between.join(urls))


@pytest.mark.parametrize("between", [",", " ", ", "])
def test_every_address_gets_it(monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    with http_receiver() as one, http_receiver() as two, mail_receiver() as mail:
        set_urls(
            monkeypatch,
            f"json://127.0.0.1:{one.port}/",
            f"mailto://127.0.0.1:{mail.port}?from=room@example.org&to=ops@example.org&mode=insecure",
            f"json://127.0.0.1:{two.port}/",
            between=between,
        )
        notify("drift", "genre drifts", "loudness is 0.4 away, äöü")
        for receiver in (one, two):
            (body,) = receiver.bodies
            assert (body["title"], body["message"]) == ("genre drifts", "loudness is 0.4 away, äöü")
            assert body["type"] == "warning"
        (message,) = mail.mails
        assert message["subject"] == "genre drifts"
        assert message["to"] == "ops@example.org"
        part = message.get_body(("plain", "html"))
        assert part is not None
        assert "loudness is 0.4 away, äöü" in part.get_content()


def test_nothing_is_sent_without_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    notify("drift", "title", "text")
    assert not caplog.records


def test_only_what_is_wanted_is_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with http_receiver() as receiver:
        set_urls(monkeypatch, f"json://127.0.0.1:{receiver.port}")
        monkeypatch.setenv("GREENROOM_NOTIFY_EVENTS", "failed, drift")
        notify("completed", "a flow", "text")
        notify("drift", "genre drifts", "text")
        assert receiver.titles == ["genre drifts"]
        assert not caplog.records
        monkeypatch.setenv("GREENROOM_NOTIFY_EVENTS", "drifts")
        notify("drift", "genre drifts", "text")
        assert len(receiver.bodies) == 1
        assert "could not be sent" in caplog.text


def test_text_holds_no_secret_and_no_address_beyond_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as receiver:
        set_urls(monkeypatch, f"json://127.0.0.1:{receiver.port}/{TOKEN}")
        monkeypatch.setenv("GREENROOM_S3_SECRET_KEY", "a-key-of-the-bucket")
        notify(
            "failed",
            f"json://127.0.0.1:{receiver.port}/{TOKEN} failed",
            "S3 said a-key-of-the-bucket is wrong; https://hooks.example/services/T1/B2/zzz and "
            f"postgresql://mlflow:{TOKEN}@db/x; http://user:{TOKEN}@127.0.0.1:5000/api?key=1 does not "
            "answer\x1b[31m",
        )
        (body,) = receiver.bodies
    assert body["path"] == f"/{TOKEN}"
    for wrong in (TOKEN, "a-key-of-the-bucket", "zzz", "mlflow:", "key=1", "\x1b"):
        assert wrong not in body["title"] + body["message"]
    assert "http://127.0.0.1:5000/… does not answer" in body["message"]


def test_long_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as receiver:
        set_urls(monkeypatch, f"json://127.0.0.1:{receiver.port}")
        notify("failed", "t" * 1_000, "x" * 100_000)
        assert len(receiver.bodies[0]["message"]) < 2_000
        assert len(receiver.titles[0]) < 200


def test_addresses_without_a_secret_stay_readable() -> None:
    text = "The tracking server at http://127.0.0.1:5000 does not answer; s3://greenroom/mlflow is full"
    assert redact(text) == text.replace("s3://greenroom/mlflow", "s3://…")


def test_dead_receivers_are_logged_by_their_place_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(notifications, "TIMEOUT", 1.0)
    with silent_receiver() as silent, http_receiver(500) as broken, http_receiver() as well:
        set_urls(
            monkeypatch,
            f"json://user:{TOKEN}@127.0.0.1:{free_port()}/",
            f"json://127.0.0.1:{silent}/{TOKEN}?rto=30",
            f"json://127.0.0.1:{broken.port}/{TOKEN}",
            f"nosuch://{TOKEN}",
            f"json://127.0.0.1:{well.port}/{TOKEN}",
        )
        notify("drift", "title", "text")
        assert well.titles == ["title"]
        told_of = [r.getMessage() for r in caplog.records if r.name == "greenroom.notifications"]
    for place in (1, 2, 3, 4):
        assert sum(f"address {place} of GREENROOM_NOTIFY_URLS" in line for line in told_of) == 1
    assert not any("address 5" in line for line in told_of)
    assert any("within 1 s" in line for line in told_of)
    assert TOKEN not in caplog.text


def test_a_process_ends_though_a_receiver_never_answers() -> None:
    code = (
        "from flows.orchestration import notifications; notifications.TIMEOUT = 0.5; "
        "from registry.notify.people import notify; notify('drift', 'title', 'text'); print('on')"
    )
    with silent_receiver() as silent:
        urls = f"json://127.0.0.1:{silent}/{TOKEN}?rto=600&cto=600"
        variables = {
            "GREENROOM_NOTIFY_URLS": urls,
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert done.stdout == "on\n"
    assert "address 1 of GREENROOM_NOTIFY_URLS did not take" in done.stderr
    assert TOKEN not in done.stderr


def test_setting_that_is_wrong_does_not_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_urls(monkeypatch, f"json://{TOKEN}.example/")
    monkeypatch.setenv("GREENROOM_NOTIFY_EVENTS", "doomsday")
    notify("drift", "title", "text")
    assert "could not be sent" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.slow
def test_hooks_tell_how_a_flow_ended_and_do_not_change_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: Prefect takes its server's address when it is imported."""
    code = f"""
from prefect import flow

from flows.orchestration.notifications import HOOKS

@flow(name="small", flow_run_name="small-{{number}}", **HOOKS)
def small(number: int) -> int:
    if number < 0:
        raise ValueError("no such number: postgresql://u:{TOKEN}@host/db")
    return number

assert small(1) == 1
try:
    small(-1)
except ValueError:
    print("raised")
"""
    with http_receiver() as receiver:
        variables = {
            "GREENROOM_NOTIFY_URLS": f"json://127.0.0.1:{receiver.port}, json://127.0.0.1:{free_port()}/",
            "PREFECT_API_URL": f"{stack.prefect_url}/api",
            "PREFECT_API_AUTH_STRING": ":".join(stack.prefect_login),
            "PREFECT_HOME": str(stack.home / "prefect"),
        }
        done = subprocess.run(
            [str(warm_python()), "-c", code],
            env={**stack.environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert done.stdout == "raised\n"
        assert receiver.titles == ["Greenroom: small-1 completed", "Greenroom: small--1 failed"]
        assert "no such number" in receiver.bodies[1]["message"]
        assert TOKEN not in receiver.bodies[1]["message"]


def test_outcome_of_a_training_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(stage: str, *refusals: str) -> TrainingOutcome:
        return TrainingOutcome("genre", 3, "forest", "accuracy", 0.5, not refusals, stage, refusals)

    with http_receiver() as receiver:
        set_urls(monkeypatch, f"json://127.0.0.1:{receiver.port}")
        notify_outcome(outcome("None", "FeatureDrift failed: 0.4"))
        notify_outcome(outcome("None"))
        notify_outcome(outcome("Production"))
        titles = ["Greenroom: genre version 3 was refused", "Greenroom: genre version 3 is in Production"]
        assert receiver.titles == titles
        assert receiver.bodies[0]["message"] == "FeatureDrift failed: 0.4"
