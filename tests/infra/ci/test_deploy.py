"""A deployment on the real stack: up with evidence, asked, and taken back when it does not answer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from catalog.spotify_tracks import FEATURES
from registry import audit
from registry.client import audit_log
from registry.client.registry import Version
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from registry.settings import RegistrySettings
from tests.conftest import ROOT, Stack, free_port
from tests.evidence import Gate, key_settings
from tests.serving.support.onnx_parts import WEIGHTS, divides_by_zero, register, regression
from tests.waiting import answers, until
from tests.warm_commands import warm_python

pytestmark = pytest.mark.slow

READS = tuple(name for name in FEATURES if name != "energy")
DECLARE = """
from catalog.models.energy import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""
# The command, with less time for predictors than it has.
DEPLOY = "from infra.ci import deploy; deploy.TIMEOUT = 6; deploy.main()"


@dataclass
class Place:
    """A model of its own, a predictor that serves it, and the command that deploys it."""

    stack: Stack
    client: TrackingClient
    gate: Gate
    name: str
    catalog: str
    url: str = ""

    def good(self, *, evidence: bool = True) -> Version:
        number = len(self.gate.registry.versions(self.name)) + 1
        return self.bad(regression(READS, WEIGHTS, float(number)), evidence=evidence)

    def bad(self, proto: object, *, evidence: bool = True) -> Version:
        made = register(self.gate, self.stack, self.name, proto)  # type: ignore[arg-type]
        return self.gate.attest(made) if evidence else made

    def deploy(self, stage: str, version: Version, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(warm_python()), "-c", DEPLOY, stage],
            cwd=ROOT,
            env={
                **self.stack.environment,
                "GREENROOM_CATALOG_PATH": self.catalog,
                "GREENROOM_PREDICTORS": self.url,
                "MODEL": self.name,
                "VERSION": str(version.number),
                "REASON": "the test says so",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def stage_of(self, version: Version) -> Stage:
        return self.gate.registry.version(self.name, version.number).stage

    def in_production(self) -> int | None:
        found = self.gate.registry.in_stage(self.name, Stage.PRODUCTION)
        return found.number if found else None

    def served(self) -> int:
        answer = httpx.get(f"{self.url}/readyz", timeout=5).json()
        return int(answer["models"][self.name]["version"])

    def history(self) -> list[audit.AuditEntry]:
        return audit_log.history(self.client, self.name)


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Iterator[Place]:
    name, port = f"deploy-{uuid4().hex[:8]}", free_port()
    declared = tmp_path / "declared.py"
    declared.write_text(DECLARE.format(name=name))
    predictor = subprocess.Popen(
        [sys.executable, "-m", "serving"],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("GREENROOM_")},
            "GREENROOM_HOME": str(tmp_path / "home"),
            "GREENROOM_TRACKING_URI": stack.tracking_url,
            "GREENROOM_TRUSTED_KEYS": str(stack.home / "keys" / "trusted"),
            "GREENROOM_CATALOG_PATH": str(declared),
            "GREENROOM_SERVING_PORT": str(port),
            "GREENROOM_SERVING_MAX_MODELS": "0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with TrackingClient(RegistrySettings(tracking_uri=stack.tracking_url)) as client:
            found = Place(stack, client, Gate(client, key_settings(stack)), name, str(declared))
            found.url = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{found.url}/healthz"), "the predictor did not start")
            yield found
    finally:
        predictor.kill()
        predictor.wait()


def test_good_version_goes_up_and_a_bad_one_is_rolled_back(place: Place) -> None:
    first = place.good()
    done = place.deploy("production", first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.in_production() == place.served() == 1
    second = place.good()
    done = place.deploy("production", second)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.in_production() == place.served() == 2

    # The gate's evidence lets it pass, and yet it answers nothing that is a number.
    third = place.bad(divides_by_zero(READS))
    done = place.deploy("production", third)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "smoke test of version 3 failed" in done.stderr
    assert "version 2 is in Production again, and every predictor answers with it" in done.stdout
    assert place.in_production() == place.served() == 2
    assert place.stage_of(third) is Stage.ARCHIVED
    rolled = [row for row in place.history() if row.action == "rollback"]
    assert [row.version for row in rolled] == [2]
    assert "smoke test of version 3 failed" in (rolled[0].reason or "")
    assert any(row.version == 3 and row.reason == "the test says so" for row in place.history())


def test_bad_version_with_none_before_it_is_archived(place: Place) -> None:
    only = place.bad(divides_by_zero(READS))
    done = place.deploy("production", only)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "has none in Production" in done.stdout
    assert place.in_production() is None
    assert place.stage_of(only) is Stage.ARCHIVED


def test_version_without_evidence_is_refused_and_nothing_changes(place: Place) -> None:
    assert place.deploy("production", place.good()).returncode == 0
    before = place.history()
    done = place.deploy("production", place.good(evidence=False))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "evidence" in done.stderr
    assert place.in_production() == 1
    assert not [row for row in place.history()[len(before) :] if row.action == "rollback"]


def test_without_a_predictor_to_ask_nothing_is_promoted(place: Place) -> None:
    version = place.good()
    done = place.deploy("production", version, GREENROOM_PREDICTORS="")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "GREENROOM_PREDICTORS" in done.stderr
    assert place.stage_of(version) is Stage.NONE


def test_staging_runs_the_file_and_archives_what_does_not_answer(place: Place) -> None:
    good = place.good()
    done = place.deploy("staging", good)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.stage_of(good) is Stage.STAGING
    for proto, said in (
        (divides_by_zero(READS), "predicts inf"),
        (regression(("danceability", "shoe_size"), {}, 0.0), "shoe_size"),
    ):
        bad = place.bad(proto)
        done = place.deploy("staging", bad)
        assert done.returncode == 1, done.stdout + done.stderr
        assert said in done.stderr
        assert place.stage_of(bad) is Stage.ARCHIVED


def test_staging_does_not_take_a_version_out_of_production(place: Place) -> None:
    version = place.good()
    assert place.deploy("production", version).returncode == 0
    done = place.deploy("staging", version)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "would take it out" in done.stderr
    assert place.in_production() == 1
