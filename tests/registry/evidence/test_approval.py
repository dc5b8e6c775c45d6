"""An approval counts by its signature: an operator's, for this model and this dataset."""

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from registry.evidence import keys
from registry.evidence.approval import (
    Approval,
    approval_tag,
    approved_datasets,
    read_approval,
    sign_approval,
)
from registry.evidence.statement import PAYLOAD_TYPE
from registry.settings import KeySettings

DATASET = "sha256:" + "1" * 64
NOW = datetime(2026, 1, 2, tzinfo=UTC)
APPROVAL = Approval("wine", DATASET, "olga", "I looked at the labels", NOW)


@pytest.fixture
def settings(tmp_path: Path) -> KeySettings:
    made = KeySettings(
        gate_key=str(tmp_path / "gate.pem"),
        operator_key=str(tmp_path / "operator.pem"),
        trusted_keys=str(tmp_path / "trusted"),
    )
    for role in keys.ROLES:
        keys.create(role, made)
    return made


def approved(settings: KeySettings, text: str, model: str = "wine", at: datetime = NOW) -> frozenset[str]:
    return approved_datasets(model, {approval_tag(DATASET): text}, keys.trusted("operator", settings), at=at)


def test_an_operators_approval_counts_for_its_model_from_its_time_on(settings: KeySettings) -> None:
    text = sign_approval(APPROVAL, keys.signer("operator", settings))
    assert read_approval(text, keys.trusted("operator", settings)) == APPROVAL
    assert approved(settings, text) == {DATASET}
    assert approved(settings, text, model="beer") == frozenset()
    assert approved(settings, text, at=NOW - timedelta(seconds=1)) == frozenset()
    assert approved_datasets("wine", {"other": text}, keys.trusted("operator", settings)) == frozenset()


def test_the_gates_key_approves_nothing(settings: KeySettings) -> None:
    assert approved(settings, sign_approval(APPROVAL, keys.signer("gate", settings))) == frozenset()


def test_a_key_that_is_not_trusted_any_more_approves_nothing(settings: KeySettings) -> None:
    text = sign_approval(APPROVAL, keys.signer("operator", settings))
    (key,) = keys.trusted("operator", settings)
    keys.retire(key.keyid, settings)
    assert approved(settings, text) == frozenset()


def changed(text: str, **values: Any) -> str:
    envelope = json.loads(text)
    statement = json.loads(b64decode(envelope["payload"]))
    statement["predicate"].update(values)
    envelope["payload"] = b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(envelope)


def test_a_changed_approval_counts_for_nothing(settings: KeySettings) -> None:
    text = sign_approval(APPROVAL, keys.signer("operator", settings))
    other = "sha256:" + "2" * 64
    for forged in (changed(text, dataset=other), changed(text, model="beer"), "{}", "nonsense", "[" * 9000):
        assert approved(settings, forged) == frozenset()


def test_an_approval_with_a_key_twice_counts_for_nothing(settings: KeySettings) -> None:
    """Two readers could take another of the two; a genuine signature does not help."""
    signer = keys.signer("operator", settings)
    payload = b64decode(json.loads(sign_approval(APPROVAL, signer))["payload"])
    for part in (b'"model"', b'"dataset"', b'"predicate"'):
        twice = payload.replace(part, part + b": null, " + part, 1)
        envelope = Envelope(twice, PAYLOAD_TYPE, {})
        envelope.sign(signer)
        assert approved(settings, json.dumps(envelope.to_dict())) == frozenset(), part
    text = sign_approval(APPROVAL, signer)
    assert approved(settings, text.replace('"payload":', '"payload":"", "payload":', 1)) == frozenset()
    assert approved(settings, text) == {APPROVAL.dataset}


@pytest.mark.parametrize(
    "change", [{"dataset": "rows.parquet"}, {"reason": " "}, {"operator": ""}, {"model": ""}]
)
def test_what_is_no_approval_is_not_signed(settings: KeySettings, change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        sign_approval(replace(APPROVAL, **change), keys.signer("operator", settings))
