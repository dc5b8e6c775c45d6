"""The predictor believes signatures and bytes, not what the registry says is in Production."""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from catalog.spotify_tracks import FEATURES
from registry.client import audit_log
from registry.client.tracking_client import TrackingClient
from registry.evidence import keys
from registry.settings import KeySettings, RegistrySettings
from serving.http_errors import ErrorBody
from tests.serving.support.onnx_parts import BIAS, WEIGHTS, json_of, regression
from tests.serving.support.predictor_process import Published, Running, Start


def refusal(running: Running, name: str, track: dict[str, Any]) -> str:
    """What a predictor says of a model that it does not serve."""
    answer = running.post(name, json=track)
    assert answer.status_code == 503
    error = ErrorBody.model_validate(json_of(answer.text)).error
    assert error.code == "model_unavailable"
    ready = running.get("/readyz").json()["models"][name]
    assert (ready["status"], ready["version"], ready["reason"]) == ("unavailable", None, error.message)
    return error.message


def test_exchanged_bytes_are_not_served_and_written_down_once(
    start: Start,
    predictor: Running,
    published: Published,
    names: dict[str, str],
    track_without_energy: dict[str, Any],
) -> None:
    name = names["exchanged"]
    again = start(published.url, GREENROOM_TRUSTED_KEYS=published.trusted)
    again.loaded()
    for running in (predictor, again):
        said = refusal(running, name, track_without_energy)
        assert f"{name} version 1 in Production does not hold the bytes that were checked" in said
        assert f"`greenroom rollback {name}" in said
        assert running.post(names["energy"], json=track_without_energy).status_code == 200
    again.stop()
    without_energy = tuple(feature for feature in FEATURES if feature != "energy")
    checked, found = (
        sha256(regression(without_energy, WEIGHTS, bias).SerializeToString()).hexdigest()
        for bias in (BIAS, BIAS + 1)
    )
    log = again.log.read_text()
    assert f"its bytes are sha256:{found}, its evidence is about sha256:{checked}" in log
    assert "Traceback" not in log
    with TrackingClient(RegistrySettings(tracking_uri=published.url)) as client:
        rows = [row for row in audit_log.history(client, name) if row.action == "mismatch"]
    assert [(row.version, row.code) for row in rows] == [(1, "bytes")]
    assert "model.onnx (differs)" in (rows[0].message or "")


def test_no_version_is_served_when_no_key_is_trusted(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any]
) -> None:
    running = start(published.url)
    models = running.loaded()
    assert {model["status"] for model in models.values()} == {"unavailable"}
    assert running.get("/readyz").status_code == 503
    said = refusal(running, names["genre"], track)
    assert "signed with a key that is not" in said
    assert "`greenroom keys list`" in said
    running.stop()


def test_another_key_than_the_one_that_signed_is_not_enough(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any], tmp_path: Path
) -> None:
    keys.create("gate", KeySettings(gate_key=str(tmp_path / "gate.pem"), trusted_keys=str(tmp_path)))
    running = start(published.url, GREENROOM_TRUSTED_KEYS=str(tmp_path))
    running.loaded()
    assert "signed with a key that is not" in refusal(running, names["genre"], track)
    running.stop()


def test_a_key_speaks_in_its_own_role_alone(
    start: Start, published: Published, names: dict[str, str], track: dict[str, Any], tmp_path: Path
) -> None:
    trusted = Path(published.trusted)
    shutil.copytree(trusted / "gate", tmp_path / "operator")
    shutil.copytree(trusted / "operator", tmp_path / "gate")
    running = start(published.url, GREENROOM_TRUSTED_KEYS=str(tmp_path))
    running.loaded()
    for kind in ("genre", "overridden"):
        assert "signed with a key that is not" in refusal(running, names[kind], track)
    running.stop()


def test_version_that_an_operator_answers_for_is_served(
    predictor: Running, names: dict[str, str], track_without_energy: dict[str, Any]
) -> None:
    answer = predictor.post(names["overridden"], json=track_without_energy)
    assert answer.status_code == 200, answer.text
    expected = BIAS + sum(weight * track_without_energy[name] for name, weight in WEIGHTS.items())
    assert answer.json()["prediction"] == pytest.approx(expected, rel=1e-6)


def test_trusted_key_that_is_no_key_is_named(start: Start, published: Published, tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "broken.pem").write_text("no key")
    running = start(published.url, GREENROOM_TRUSTED_KEYS=str(tmp_path))
    models = running.loaded()
    assert all(model["status"] == "unavailable" for model in models.values())
    assert any("broken.pem among the trusted keys" in str(model["reason"]) for model in models.values())
    running.stop()
