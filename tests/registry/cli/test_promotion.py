"""`greenroom rollback`, `history`, `verify`, `diff`, `keys` and the override, as a person meets them."""

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest

from registry.client.registry import MODEL_FILE
from registry.evidence import keys
from registry.evidence.approval import Approval, approval_tag, sign_approval
from registry.evidence.verdict import DataOrigin
from registry.names import Stage
from tests.conftest import Stack
from tests.evidence import key_settings
from tests.registry.support.registered import Registrar, verdict


@pytest.fixture
def greenroom(stack: Stack) -> Any:
    """Run a command against the stack; the operator's key is there."""
    key_settings(stack)
    return stack.greenroom


def said(done: "subprocess.CompletedProcess[str]", code: int, *texts: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for text in texts:
        assert text in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def in_production(registrar: Registrar) -> int | None:
    found = registrar.registry.in_stage(registrar.name, Stage.PRODUCTION)
    return found.number if found else None


def test_rollback(greenroom: Any, registrar: Registrar) -> None:
    for _ in range(2):
        registrar.in_production()
    done = greenroom("rollback", registrar.name, "--reason", "es brummt – and how")
    said(done, 0, f"{registrar.name} version 1 is in Production again; version 2 is archived.")
    assert in_production(registrar) == 1
    shown = greenroom("history", registrar.name, "--json")
    rows = json.loads(shown.stdout)
    assert [row["action"] for row in rows[-2:]] == ["archived", "rollback"]
    assert rows[-1]["reason"] == "es brummt – and how"
    assert "@" in rows[-1]["actor"]
    assert rows[-1]["proven"] is False
    said(greenroom("rollback", registrar.name, "--reason", "again"), 1, "no earlier version")
    shown = greenroom("history", registrar.name, COLUMNS="80")
    said(shown, 0, "rollback", "claimed", "es brummt")
    rows = json.loads(greenroom("history", registrar.name, "--json").stdout)
    assert len(shown.stdout.splitlines()) == len(rows), "one line an event"


def test_rollback_goes_past_a_damaged_version_and_says_so(greenroom: Any, registrar: Registrar) -> None:
    for _ in range(3):
        registrar.in_production()
    second = registrar.registry.version(registrar.name, 2)
    registrar.client.put_artifact(registrar.artifact_uri(second), MODEL_FILE, b"other bytes")
    said(greenroom("rollback", registrar.name, "--reason", "x", "--to", "2"), 1, "does not hold the bytes")
    said(
        greenroom("rollback", registrar.name, "--reason", "x"),
        0,
        "Version 2 cannot come back",
        "version 1 is in",
    )
    assert in_production(registrar) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--reason"),
        (("--reason", "  "), "say why"),
        (("--reason", "x", "--to", "0"), "--to"),
    ],
)
def test_rollback_used_wrongly_changes_nothing(
    greenroom: Any, registrar: Registrar, arguments: tuple[str, ...], says: str
) -> None:
    said(greenroom("rollback", registrar.name, *arguments), 2, says)


def test_rollback_of_what_is_not_there(greenroom: Any, registrar: Registrar) -> None:
    said(greenroom("rollback", "no-such-model", "--reason", "x"), 1, "no earlier version")
    registrar.in_production()
    said(greenroom("rollback", registrar.name, "--reason", "x", "--to", "7"), 1, "none to roll back to")


def test_override(greenroom: Any, registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name))
    number = str(version.number)
    said(greenroom("promote", registrar.name, number), 1, "has no evidence of the gate")
    said(greenroom("promote", registrar.name, number, "--override"), 2, "needs --reason")
    said(
        greenroom("promote", registrar.name, number, "--override", "--reason", "x", "--to", "Archived"),
        2,
        "nothing to override",
    )
    said(
        greenroom(
            "promote",
            registrar.name,
            number,
            "--override",
            "--reason",
            "x",
            GREENROOM_OPERATOR_KEY="/nowhere/key.pem",
        ),
        1,
        "keys create operator",
    )
    assert in_production(registrar) is None
    done = greenroom("promote", registrar.name, number, "--override", "--reason", "fire")
    said(done, 0, "is in Production, by override; the audit says so.")
    said(greenroom("history", registrar.name, COLUMNS="200"), 0, "override", "fire", "Overrode:")


def test_verify(greenroom: Any, stack: Stack) -> None:
    """All is well in what the guard did; what SQL did, a missing row and exchanged bytes are found."""
    from registry.client.tracking_client import TrackingClient  # noqa: PLC0415
    from registry.settings import RegistrySettings  # noqa: PLC0415

    with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
        registrar = Registrar(client, key_settings(stack))
        registrar.in_production()
        good = json.loads(greenroom("verify", "--json").stdout)
        mine = f"{registrar.name} version 1"
        assert f"{mine} in Production" in good["checked"]
        assert not [p for p in good["problems"] if registrar.name in p and "reports" not in p]
        assert len(good["head"]) == 64
        # Other tests leave their marks in the same registry: only ours are asked about.
        registrar.client.put_artifact(
            registrar.artifact_uri(registrar.registry.version(registrar.name, 1)), MODEL_FILE, b"other bytes"
        )
        problems = problems_of(greenroom, registrar.name)
        assert any("does not hold the bytes" in problem for problem in problems), problems
        with sql_session(stack, "postgres") as connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE model_versions SET current_stage = 'Staging' WHERE name = %s", (registrar.name,)
            )
        problems = problems_of(greenroom, registrar.name)
        assert any("was set to Staging by SQL, as postgres" in problem for problem in problems), problems
    said(greenroom("verify", registrar.name, "--expect-head", "f" * 64), 1, "its end was cut off")
    known = greenroom("verify", registrar.name, "--expect-head", good["head"])
    said(known, 1)
    assert "cut off" not in known.stdout


def test_verify_finds_what_was_done_to_the_audit(greenroom: Any, registrar: Registrar, stack: Stack) -> None:
    registrar.in_production()
    number = json.loads(greenroom("history", registrar.name, "--json").stdout)[0]["id"]
    with sql_session(stack, "postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM greenroom.audit WHERE id = %s", (number,))
        kept = cursor.fetchone()
        cursor.execute(
            "UPDATE greenroom.audit SET body = replace(body, 'staged', 'sneaky') WHERE id = %s", (number,)
        )
        connection.commit()
        said(
            greenroom("verify", registrar.name),
            1,
            f"row {number} of the audit ({registrar.name}) was changed",
        )
        cursor.execute("DELETE FROM greenroom.audit WHERE id = %s", (number,))
        connection.commit()
        said(greenroom("verify", registrar.name), 1, f"row {number} of the audit is missing")
        cursor.execute("INSERT INTO greenroom.audit VALUES (%s, %s, %s, %s, %s)", kept)
        connection.commit()
    assert f"row {number} " not in greenroom("verify", registrar.name).stdout


def problems_of(greenroom: Any, name: str) -> list[str]:
    done = greenroom("verify", name, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    return [problem for problem in json.loads(done.stdout)["problems"] if name in problem]


def sql_session(stack: Stack, user: str) -> Any:
    lines = (stack.home / "stack.env").read_text().splitlines()
    password = dict(line.split("=", 1) for line in lines)["GREENROOM_POSTGRES_PASSWORD"]
    port = stack.ports["POSTGRES"]
    return psycopg2.connect(host="127.0.0.1", port=port, user=user, password=password, dbname="mlflow")


def test_diff(greenroom: Any, registrar: Registrar) -> None:
    registrar.in_production()
    said(greenroom("diff", registrar.name), 1, "no other version")
    challenger = registrar.version()
    for version, score in ((registrar.registry.version(registrar.name, 1), 0.5), (challenger, 0.75)):
        run = {"run_id": version.run_id}
        registrar.client.post("runs/log-metric", {**run, "key": "test_r2", "value": score, "timestamp": 1})
        registrar.client.post("runs/set-tag", {**run, "key": "check.Drift", "value": "passed"})
        registrar.client.post("runs/log-parameter", {**run, "key": "winner", "value": f"forest-{score}"})
    done = greenroom("diff", registrar.name, "--json")
    lines = {(line["section"], line["name"]): line for line in json.loads(done.stdout)}
    assert (lines["metrics", "test_r2"]["a"], lines["metrics", "test_r2"]["b"]) == ("0.5", "0.75")
    assert lines["checks", "Drift"]["differs"] is False
    assert lines["parameters", "winner"]["differs"] is True
    said(greenroom("diff", registrar.name, "1", "2", COLUMNS="120"), 0, "test_r2", "0.75", "same in both")
    said(greenroom("diff", registrar.name, "1", "9"), 1, "no version 9")


def test_history_of_nothing(greenroom: Any) -> None:
    said(greenroom("history", "no-such-model"), 1, "no model 'no-such-model'")


def test_keys(greenroom: Any, tmp_path: Any) -> None:
    own = {"GREENROOM_HOME": str(tmp_path)}
    said(greenroom("keys", "list", **own), 1, "keys create gate")
    said(greenroom("keys", "rotate", "gate", **own), 1, "no gate key")
    said(greenroom("keys", "create", "gate", **own), 0, "Created gate key")
    said(greenroom("keys", "create", "gate", **own), 1, "keys rotate gate")
    said(greenroom("keys", "rotate", "gate", **own), 0, "Rotated")
    listed = greenroom("keys", "list", **own)
    assert listed.stdout.count("signs here") == 1
    old = next(line for line in listed.stdout.splitlines() if "signs here" not in line).split()[1]
    said(greenroom("keys", "retire", old, **own), 0, "not trusted any more", "greenroom verify")
    assert old not in greenroom("keys", "list", **own).stdout
    said(greenroom("keys", "create", "singer", **own), 2, "singer")


def test_a_server_without_a_guard_is_not_trusted_with_a_promotion(greenroom: Any) -> None:
    done = greenroom("promote", "genre", "1", GREENROOM_TRACKING_URI="http://127.0.0.1:9")
    said(done, 2, "does not answer")


BROUGHT = "sha256:" + "7" * 64


def judged_on_brought_rows(registrar: Registrar, stack: Stack) -> int:
    """Register a version that the gate let pass on rows that no declaration names."""
    made = verdict(registrar.name).model_copy(
        update={"data": DataOrigin(source=BROUGHT, declared=False, brought_by="mallory")}
    )
    version = registrar.version(made)
    reports = {"verdict.json": made.model_dump_json().encode()}
    registrar.registry.attest(version, made, key_settings(stack), reports)
    return version.number


def test_rows_that_somebody_brought_need_an_operators_approval(
    greenroom: Any, registrar: Registrar, stack: Stack
) -> None:
    number = judged_on_brought_rows(registrar, stack)
    refused = greenroom("promote", registrar.name, str(number))
    said(refused, 1, "rows that somebody brought, as it says by mallory", BROUGHT, "greenroom approve")
    assert registrar.registry.version(registrar.name, number).stage is Stage.STAGING
    # Another dataset, another model, and another key approve nothing.
    said(greenroom("approve", registrar.name, "sha256:" + "8" * 64, "--reason", "x"), 0)
    own = sign_approval(
        Approval(registrar.name, BROUGHT, "mallory", "mine", datetime.now(UTC)),
        keys.signer("gate", key_settings(stack)),
    )
    tag = {"name": registrar.name, "key": approval_tag(BROUGHT)}
    registrar.client.post("registered-models/set-tag", {**tag, "value": own})
    said(greenroom("promote", registrar.name, str(number)), 1, "no operator approved them")
    said(greenroom("approve", registrar.name, BROUGHT, "--reason", "I looked at 50 labels"), 0, "is approved")
    said(greenroom("promote", registrar.name, str(number)), 0, "is in Production")
    found = json.loads(greenroom("verify", registrar.name, "--json").stdout)
    assert [problem for problem in found["problems"] if registrar.name in problem] == []
    # It holds for later versions, and what takes it away is noticed.
    said(
        greenroom("promote", registrar.name, str(judged_on_brought_rows(registrar, stack))),
        1,
        "compared with",
    )
    registrar.client.post("registered-models/set-tag", {**tag, "value": own})
    found = json.loads(greenroom("verify", registrar.name, "--json").stdout)
    assert any("no operator approved them" in problem for problem in found["problems"])


@pytest.mark.parametrize(
    "arguments", [(BROUGHT,), (BROUGHT, "--reason", " "), ("rows.parquet", "--reason", "x"), ()]
)
def test_an_approval_used_wrongly_signs_nothing(
    greenroom: Any, registrar: Registrar, stack: Stack, arguments: tuple[str, ...]
) -> None:
    said(greenroom("approve", registrar.name, *arguments), 2)
    assert registrar.registry.approved_datasets(registrar.name, key_settings(stack)) == frozenset()
