"""The local stack's own gate: a process that judges what is trained, and alone can sign."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import ROOT, Stack
from tests.evidence import key_settings
from tests.flows.support.tumour_rows import tumours
from tests.ports import free_port
from tests.stack_processes import kill, processes_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that starts a gate, for a catalogue of one small model beside the shipped ones."""
    folder = tmp_path_factory.mktemp("declared")
    shutil.copy(ROOT / "tests" / "flows" / "support" / "groups.py", folder)
    tumours().to_parquet(folder / "tumours.parquet")
    stack = Stack(tmp_path_factory.mktemp("own") / "home")
    stack.ports["GATE"] = free_port()
    stack.variables["GREENROOM_CATALOG_PATH"] = str(folder)
    done = stack.greenroom("up", "--no-train")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield stack
    finally:
        stack.end()


def test_a_training_is_judged_and_signed_by_the_gate(own: Stack) -> None:
    done = own.greenroom("train", "groups", "--promote")
    assert done.returncode == 0, done.stdout + done.stderr
    with TrackingClient(RegistrySettings(tracking_uri=own.tracking_url)) as client:
        registry = Registry(client)
        version = registry.version("groups", 1)
        assert version.stage.value == "Production"
        evidence = registry.evidence(version, key_settings(own))
        assert evidence.report_digest == registry.report_digest(version, evidence.report_files)
        assert {"verdict.json", "checks.json"} <= set(evidence.report_files or ())
        assert evidence.data
        assert evidence.data.declared


def test_a_declaration_that_came_later_is_known(own: Stack) -> None:
    """The gate reads its catalogue for each verdict; a new file in its folder needs no restart."""
    folder = Path(own.variables["GREENROOM_CATALOG_PATH"])
    declared = (folder / "groups.py").read_text().replace('name="groups"', 'name="groups-later"')
    (folder / "later.py").write_text(declared)
    done = own.greenroom("train", "groups-later")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rows_and_verdict_that_somebody_planted_are_no_input(own: Stack) -> None:
    """Whoever may write a run's artifacts can write all of these, and none of them is signed."""
    with TrackingClient(RegistrySettings(tracking_uri=own.tracking_url)) as client:
        registry = Registry(client)
        version = registry.version("groups", 1)
        before = {
            name: registry.artifact(version, f"gate/{name}") for name in ("train.parquet", "test.parquet")
        }
        for name in before:
            registry.put_artifact(version, f"gate/{name}", b"planted")
        for name in ("verdict.json", "planted.html", "declaration.json", "deeper/report.html"):
            registry.put_artifact(version, f"gate/{name}", b"planted")
        done = own.greenroom("gate", "groups", "1", "--rerun")
        assert done.returncode == 0, done.stdout + done.stderr
        assert {name: registry.artifact(version, f"gate/{name}") for name in before} == before
        assert registry.verdict(version).passed
        evidence = registry.evidence(registry.version("groups", 1), key_settings(own))
        names = set(evidence.report_files or ())
        assert names >= {"verdict.json", "checks.json"}
        assert not names & {"planted.html", "declaration.json", "deeper/report.html"}


def test_the_key_is_read_by_no_other_process(own: Stack) -> None:
    """Without its key the gate signs nothing, and nothing else does in its place."""
    key = own.home / "keys" / "gate.pem"
    hidden = key.with_suffix(".away")
    key.rename(hidden)
    try:
        done = own.greenroom("gate", "groups", "1", "--rerun")
        assert done.returncode == 2
        assert "There is no gate key to sign with" in done.stderr
    finally:
        hidden.rename(key)


def test_a_gate_that_was_killed_is_missed_and_comes_back(own: Stack) -> None:
    kill(own, "gate", whole=False)
    done = own.greenroom("gate", "groups", "1", "--rerun")
    assert done.returncode == 2
    assert "does not answer" in done.stderr
    assert "make up" in done.stderr
    up = own.greenroom("up", "--no-train")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "gate" in processes_of(own)
    assert own.greenroom("gate", "groups", "1", "--rerun").returncode == 0


def test_it_takes_nothing_from_web_pages_and_other_hosts(own: Stack) -> None:
    url, order = f"http://127.0.0.1:{own.ports['GATE']}/verdicts", {"model": "groups", "version": 1}
    assert httpx.post(url, json=order, headers={"Origin": own.tracking_url}).status_code == 403
    assert httpx.post(url, json=order, headers={"Host": "greenroom.example"}).status_code == 400
    assert httpx.post(url, json={**order, "train": "rows"}).status_code == 422
