"""What readers report, and what is refused about names that nobody has: written down, and bounded."""

import json
from typing import Any

import httpx
import pytest

from registry import audit
from registry.client import audit_log, verification
from registry.client.registry import MODEL_FILE
from registry.names import Stage
from tests.registry.support.registered import Registrar

pytestmark = pytest.mark.slow


def report(registrar: Registrar, number: int) -> httpx.Response:
    params = {"name": registrar.name, "alias": f"{audit.ALIAS_PREFIX}{audit.REPORT}-{number}"}
    url = f"{registrar.client.url}/api/2.0/mlflow/registered-models/alias"
    return httpx.get(url, params=params, timeout=60, trust_env=False)


def test_a_reader_reports_other_bytes_and_they_are_written_down_once(registrar: Registrar) -> None:
    version = registrar.in_production()
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    for _ in range(5):
        assert report(registrar, version.number).is_success
    rows = audit_log.history(registrar.client, registrar.name)
    assert [row.action for row in rows] == ["staged", "promoted", "mismatch"]
    assert f"{MODEL_FILE} (differs)" in (rows[-1].message or "")


def test_a_report_that_is_unfounded_leaves_nothing(registrar: Registrar) -> None:
    version, other = registrar.in_production(), registrar.version()
    before = audit_log.history(registrar.client, registrar.name)
    for number in (version.number, other.number):
        for _ in range(5):
            answer = report(registrar, number)
            assert answer.status_code == 403, answer.text
    assert "holds the bytes that its evidence is about" in report(registrar, version.number).text
    assert audit_log.history(registrar.client, registrar.name) == before
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    assert report(registrar, version.number).is_success
    assert audit_log.history(registrar.client, registrar.name)[-1].action == "mismatch"


@pytest.mark.parametrize("number", ["0", "99", "x", "-1", "1;2", ""])
def test_a_report_about_nothing_is_no_error_of_the_server(registrar: Registrar, number: str) -> None:
    registrar.version()
    params = {"name": registrar.name, "alias": f"{audit.ALIAS_PREFIX}{audit.REPORT}-{number}"}
    url = f"{registrar.client.url}/api/2.0/mlflow/registered-models/alias"
    assert httpx.get(url, params=params, timeout=60, trust_env=False).status_code in (400, 404)


def test_mismatches_of_two_versions_do_not_take_turns_for_ever(registrar: Registrar) -> None:
    first, second = registrar.in_production(), registrar.good()
    registrar.registry.promote(second, Stage.STAGING)
    for version in (first, second):
        registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    for _ in range(4):
        for version in (first, second):
            registrar.registry.tag(version, "greenroom.report", "bytes")
    actions = [row.action for row in audit_log.history(registrar.client, registrar.name)]
    assert actions.count("mismatch") == 2


# Names that nobody has


def refused_once(registrar: Registrar, name: str) -> None:
    body = {"name": name, "version": "1", "stage": "Production"}
    tag = {"name": name, "tags": [{"key": "greenroom.gate", "value": "passed"}]}
    url = f"{registrar.client.url}/api/2.0/mlflow"
    with httpx.Client(timeout=60, trust_env=False) as client:
        assert client.post(f"{url}/model-versions/transition-stage", json=body).status_code in (403, 404)
        assert client.post(f"{url}/registered-models/create", json=tag).status_code == 403


def test_made_up_names_are_counted_and_not_kept_each(registrar: Registrar, sql: Any) -> None:
    before = len(audit_log.chain(registrar.client, registrar.name))
    for number in range(60):
        refused_once(registrar, f"{registrar.name}-{number}")
    links = audit_log.chain(registrar.client, registrar.name)[before:]
    assert {link.model for link in links} <= {audit.UNKNOWN_NAMES}
    assert len(links) <= 4
    rows = audit_log.history(registrar.client, audit.UNKNOWN_NAMES)
    assert rows[-1].action == "refused"
    assert "refused today about names that no model has, such as" in (rows[-1].message or "")
    sql.execute("SELECT sum(count), max(last_name) FROM greenroom.unknown_names WHERE code = 'reserved'")
    count, _ = sql.fetchone()
    assert count >= 60
    report = verification.verify(registrar.client, registrar.gate.settings, [audit.UNKNOWN_NAMES])
    assert [problem for problem in report.problems if audit.UNKNOWN_NAMES in problem] == []


def test_groups_are_bounded_whatever_a_caller_says(registrar: Registrar, server_sql: Any, sql: Any) -> None:
    for number in range(200):
        entry = {
            "action": "refused",
            "model": f"{registrar.name}-{number}",
            "code": f"made-up-{number}",
            "actor": f"actor {number}",
            "proven": True,
            "address": f"10.0.0.{number}",
        }
        server_sql.execute("SELECT greenroom.record(%s)", (json.dumps(entry),))
    sql.execute("SELECT count(*) FROM greenroom.unknown_names WHERE day = (now() AT TIME ZONE 'UTC')::date")
    (groups,) = sql.fetchone()
    assert groups <= 51


def test_a_refusal_about_a_known_name_has_its_row(registrar: Registrar) -> None:
    version = registrar.version()
    body = {"name": registrar.name, "version": str(version.number), "stage": "Production"}
    url = f"{registrar.client.url}/api/2.0/mlflow/model-versions/transition-stage"
    for _ in range(3):
        assert httpx.post(url, json=body, timeout=60, trust_env=False).status_code == 403
    rows = audit_log.history(registrar.client, registrar.name)
    assert [(row.action, row.code) for row in rows] == [("refused", "missing")] * 3
