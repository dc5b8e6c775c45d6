"""The command line as a person meets it: one message, an exit code, no traceback."""

import os
import subprocess
from importlib.metadata import EntryPoint
from typing import Protocol

import pytest
from click.testing import CliRunner

from registry.cli.main import cli
from registry.client import audit_log
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from tests.conftest import Stack
from tests.registry.support.registered import Registrar, verdict
from tests.warm_commands import warm_greenroom


class Promote(Protocol):
    def __call__(self, *arguments: str, uri: str = ...) -> subprocess.CompletedProcess[str]: ...


def greenroom(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm_greenroom(), *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def promote(stack: Stack, registrar: Registrar) -> Promote:
    """Run `greenroom promote`. The model is in no catalogue: the server alone decides."""

    def run(*arguments: str, uri: str = stack.tracking_url) -> subprocess.CompletedProcess[str]:
        return greenroom("promote", *arguments, GREENROOM_TRACKING_URI=uri)

    return run


def refused(ended: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert ended.returncode == code, ended
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_help_names_the_commands() -> None:
    ended = greenroom("--help")
    assert ended.returncode == 0, ended.stderr
    assert "promote" in ended.stdout
    assert "Exit codes" in ended.stdout


def test_a_command_of_an_absent_room_says_so_and_the_help_still_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("sing", "room_of_nobody.commands:sing", "greenroom.commands")
    monkeypatch.setattr("registry.cli.main.entry_points", lambda **_: [point])
    runner = CliRunner()
    listed = runner.invoke(cli, ["--help"])
    assert listed.exit_code == 0, listed.output
    assert "(not installed here)" in listed.output
    called = runner.invoke(cli, ["sing", "a-song", "--loud", "--help"])
    assert called.exit_code == 2
    assert "`greenroom sing` needs room_of_nobody, which is not installed here" in called.output


def test_promote_takes_a_good_version_to_production(registrar: Registrar, promote: Promote) -> None:
    version = registrar.good()
    ended = promote(registrar.name, str(version.number))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{registrar.name} version {version.number} is in Production.\n"
    found = registrar.registry.in_stage(registrar.name, Stage.PRODUCTION)
    assert found is not None
    assert found.number == version.number


def test_promote_to_staging_stops_there(registrar: Registrar, promote: Promote) -> None:
    version = registrar.good()
    ended = promote(registrar.name, str(version.number), "--to", "staging")
    assert ended.returncode == 0, ended.stderr
    assert registrar.registry.version(registrar.name, version.number).stage is Stage.STAGING


def test_promote_refuses_with_1_what_the_gate_did_not_pass(registrar: Registrar, promote: Promote) -> None:
    version = registrar.version(verdict(registrar.name))
    refused(promote(registrar.name, str(version.number)), 1, "has no evidence of the gate")
    failed = registrar.gate.attest(registrar.version(None), passed=False)
    refused(promote(registrar.name, str(failed.number)), 1, "Performance failed")
    assert registrar.registry.in_stage(registrar.name, Stage.PRODUCTION) is None


def test_promote_refuses_with_1_what_does_not_exist(registrar: Registrar, promote: Promote) -> None:
    refused(promote(registrar.name, "7"), 1, "has no version 7")
    refused(promote("gerne", "1"), 1, "gerne has no version 1")


def test_promote_brings_an_archived_version_back_through_staging(
    registrar: Registrar, promote: Promote, client: TrackingClient
) -> None:
    first, second = registrar.in_production(), registrar.in_production()
    registrar.gate.attest(first)
    ended = promote(registrar.name, str(first.number), "--reason", "  the audience wants it  ")
    assert ended.returncode == 0, ended.stderr
    assert registrar.registry.version(registrar.name, first.number).stage is Stage.PRODUCTION
    assert registrar.registry.version(registrar.name, second.number).stage is Stage.ARCHIVED
    rows = [row for row in audit_log.history(client, registrar.name) if row.reason]
    assert {(row.to_stage, row.reason) for row in rows} >= {
        ("Staging", "the audience wants it"),
        ("Production", "the audience wants it"),
    }


def test_promote_exits_with_2_when_it_cannot_tell_or_is_used_wrongly(
    registrar: Registrar, promote: Promote
) -> None:
    refused(promote(registrar.name, "1", uri="http://127.0.0.1:9"), 2, "does not answer")
    refused(promote(registrar.name, "0"), 2, "VERSION")
    refused(promote(registrar.name, "1", "--to", "Broadway"), 2, "Broadway")
    refused(promote(registrar.name, "1", "--reason", " "), 2, "say why")
    refused(promote(registrar.name, "1", "--override"), 2, "--override needs --reason")
    refused(promote(registrar.name, "1", "--override", "--reason", "x", "--to", "Archived"), 2, "Archived")
    refused(greenroom("sing"), 2, "sing")


def test_every_command_refuses_a_renamed_setting_and_says_its_new_name() -> None:
    for command in (["keys", "list"], ["promote", "energy", "1"], ["history", "energy"]):
        done = greenroom(*command, GREENROOM_SEARCH_SECONDS="15")
        assert done.returncode == 2
        assert "GREENROOM_SEARCH_SECONDS is GREENROOM_SEARCH_TRIALS now" in done.stderr
        assert "Traceback" not in done.stderr
