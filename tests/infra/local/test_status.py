"""What `greenroom status` says of a version whose evidence counts no more."""

from pathlib import Path

import pytest

from infra.local import stack
from registry.client.registry import Version
from registry.evidence import keys
from registry.evidence.attestation import attest_verdict
from registry.names import EVIDENCE, Stage
from registry.settings import KeySettings
from tests.evidence import NO_DIGEST
from tests.registry.support.registered import verdict


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Version:
    """A version in Production, with evidence that this home's gate signed."""
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    keys.create("gate", KeySettings())
    envelope = attest_verdict(
        verdict("genre"),
        version=3,
        source="models:/m-1",
        files={"MLmodel": "1" * 64, "model.onnx": "a" * 64},
        report_digest=NO_DIGEST,
        signer=keys.signer("gate", KeySettings()),
    )
    return Version("genre", 3, Stage.PRODUCTION, "r", "models:/m-1", {EVIDENCE: envelope})


def test_evidence_that_counts_is_not_mentioned(production: Version) -> None:
    assert stack._model_status("genre", [production], {}).evidence is None


def test_a_retired_key_is(production: Version) -> None:
    keys.retire(keys.trusted("gate", KeySettings())[0].keyid, KeySettings())
    said = stack._model_status("genre", [production], {}).evidence or ""
    assert "genre version 3 in Production stands on the gate key" in said
    assert "greenroom keys reissue" in said
