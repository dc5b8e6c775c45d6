"""The registry as its client speaks of it: stages, searches, files, evidence; on a real tracking server."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from registry.client import audit_log
from registry.client.registry import MODEL_FILE, Registry, Version, genuine_evidence
from registry.client.tracking_client import TrackingClient
from registry.digests import digest, tree_digest
from registry.errors import (
    BadTransitionError,
    EvidenceBytesError,
    EvidenceFailedError,
    EvidenceFilesError,
    EvidenceForeignError,
    EvidenceMissingError,
    EvidenceWrongKeyError,
    KeyFileError,
    ModelFormatError,
    NotFoundError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
from registry.evidence import keys
from registry.evidence.attestation import read_unverified
from registry.evidence.verdict import VERDICT_ARTIFACT, Incumbent, Verdict
from registry.names import EVIDENCE, GATE, OVERRIDE, Stage
from registry.settings import KeySettings
from tests.evidence import MLMODEL
from tests.registry.support.registered import CONTENT, Registrar, outcome, verdict

FILES = {"MLmodel": sha256(MLMODEL).hexdigest(), MODEL_FILE: sha256(CONTENT).hexdigest()}


def in_stages(registrar: Registrar) -> dict[int, Stage]:
    return {version.number: version.stage for version in registrar.registry.versions(registrar.name)}


def refuse(registrar: Registrar, version: Version, says: str) -> None:
    """Check that the server does not let the version to Staging, and that it stays where it is."""
    with pytest.raises(RegistryRefusedError, match=says) as refusal:
        registrar.registry.promote(version, Stage.STAGING)
    assert str(refusal.value).startswith("Greenroom refused: "), "a sentence for people, as it is"
    assert registrar.registry.version(version.model, version.number).stage is Stage.NONE


def attested(registrar: Registrar, said: Verdict) -> Version:
    """Register a version and sign a verdict on it, as a training does."""
    version = registrar.version(said)
    registrar.registry.attest(version, said, registrar.gate.settings, {})
    return registrar.registry.version(version.model, version.number)


# Moves


def test_a_good_version_reaches_production(registrar: Registrar) -> None:
    version = attested(registrar, verdict(registrar.name))
    assert version.stage is Stage.NONE
    staged = registrar.registry.promote(version, Stage.STAGING)
    assert (staged.number, staged.stage) == (version.number, Stage.STAGING)
    moved = registrar.registry.promote(staged, Stage.PRODUCTION)
    assert (moved.number, moved.stage) == (version.number, Stage.PRODUCTION)
    found = registrar.registry.in_stage(registrar.name, Stage.PRODUCTION)
    assert found == registrar.registry.version(registrar.name, version.number)
    assert found is not None
    assert registrar.registry.model_bytes(found) == CONTENT


def test_a_verdict_that_nobody_signed_moves_nothing(registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name))
    assert registrar.registry.verdict(version).passed
    refuse(
        registrar, version, f"has no evidence of the gate.*greenroom gate {version.model} {version.number}"
    )


def test_without_a_run_it_is_refused(registrar: Registrar) -> None:
    version = registrar.version_without_run()
    refuse(registrar, version, "has no evidence of the gate")
    with pytest.raises(NotFoundError, match="was not made by a run"):
        registrar.registry.artifact(version, VERDICT_ARTIFACT)
    with pytest.raises(NotFoundError, match="has no verdict of the gate"):
        registrar.registry.verdict(version)


@pytest.mark.parametrize("status", ["failed", "error", "not_run", "missing"])
def test_with_a_required_check_that_did_not_pass_it_is_refused(registrar: Registrar, status: str) -> None:
    bad = verdict(registrar.name, outcome("Performance"), outcome("Drift", status))  # type: ignore[arg-type]
    version = attested(registrar, bad)
    assert version.tags[GATE] == "refused"
    refuse(registrar, version, f"The gate refused {version}: Drift failed")


def test_a_verdict_that_only_says_it_passed_is_signed_as_refused(registrar: Registrar) -> None:
    failed = verdict(registrar.name, outcome("Performance", "failed"), outcome("Drift"))
    forged = json.dumps({**json.loads(failed.model_dump_json()), "passed": True}).encode()
    version = registrar.version(forged)
    registrar.registry.attest(version, registrar.registry.verdict(version), registrar.gate.settings, {})
    refuse(registrar, version, "Performance failed")


def test_when_the_bytes_changed_after_staging_it_is_refused(registrar: Registrar) -> None:
    # MLflow lets anyone overwrite an artifact.
    staged = registrar.registry.promote(registrar.good(), Stage.STAGING)
    registrar.client.put_artifact(registrar.artifact_uri(staged), MODEL_FILE, b"other bytes")
    with pytest.raises(RegistryRefusedError, match=r"does not hold the bytes.*: model\.onnx \(differs\)"):
        registrar.registry.promote(staged, Stage.PRODUCTION)
    assert in_stages(registrar) == {staged.number: Stage.STAGING}


def test_there_is_one_production_and_the_one_before_is_archived(registrar: Registrar) -> None:
    first = registrar.in_production()
    second = registrar.in_production()
    assert in_stages(registrar) == {first.number: Stage.ARCHIVED, second.number: Stage.PRODUCTION}
    back = registrar.gate.to_production(first)
    assert back.number == first.number
    assert in_stages(registrar) == {first.number: Stage.PRODUCTION, second.number: Stage.ARCHIVED}


def test_staging_is_not_skipped(registrar: Registrar) -> None:
    with pytest.raises(BadTransitionError, match="Promote it to Staging first"):
        registrar.registry.promote(registrar.good(), Stage.PRODUCTION)
    assert set(in_stages(registrar).values()) == {Stage.NONE}


def test_production_does_not_go_back_to_none(registrar: Registrar) -> None:
    version = registrar.in_production()
    with pytest.raises(BadTransitionError):
        registrar.registry.promote(version, Stage.NONE)


def test_production_goes_back_to_staging_and_up_again_on_new_evidence(registrar: Registrar) -> None:
    version = registrar.in_production()
    # Evidence takes a version to Production once, whichever way it would come there again.
    with pytest.raises(RegistryRefusedError, match="took it to Production before and counts once"):
        registrar.registry.promote(version, Stage.STAGING)
    registrar.gate.attest(version)
    assert registrar.registry.promote(version, Stage.STAGING).stage is Stage.STAGING
    assert registrar.registry.in_stage(registrar.name, Stage.PRODUCTION) is None
    with pytest.raises(RegistryRefusedError, match="What is in Production changed since"):
        registrar.registry.promote(version, Stage.PRODUCTION)
    registrar.gate.attest(version)
    assert registrar.registry.promote(version, Stage.PRODUCTION).stage is Stage.PRODUCTION


def test_archiving_needs_no_evidence(registrar: Registrar) -> None:
    version = registrar.version(None)
    assert registrar.registry.promote(version, Stage.ARCHIVED).stage is Stage.ARCHIVED
    assert registrar.registry.promote(version, Stage.NONE).stage is Stage.NONE


def test_a_version_that_is_there_already_is_left_alone(registrar: Registrar) -> None:
    version = registrar.in_production()
    assert registrar.registry.promote(version, Stage.PRODUCTION) == registrar.registry.version(
        version.model, version.number
    )


def test_a_stale_view_of_a_version_is_not_believed(registrar: Registrar) -> None:
    version = registrar.good()
    registrar.registry.promote(version, Stage.ARCHIVED)
    # `version` still says None.
    with pytest.raises(BadTransitionError, match="is in Archived"):
        registrar.registry.promote(version, Stage.PRODUCTION)


def test_a_reason_is_written_down_as_it_was_given(registrar: Registrar, client: TrackingClient) -> None:
    reason = "Für die Tournée: 50 % mehr 🎸"
    version = registrar.registry.promote(registrar.good(), Stage.STAGING, reason)
    row = audit_log.history(client, registrar.name)[-1]
    assert (row.action, row.version, row.to_stage) == ("staged", version.number, "Staging")
    assert row.reason == reason


def test_an_operator_can_override_and_a_rollback_brings_the_one_before_back(registrar: Registrar) -> None:
    first, unproven = registrar.in_production(), registrar.version(None)
    moved = registrar.registry.override(
        unproven, Stage.PRODUCTION, reason="the gate is ill", operator="ann", settings=registrar.gate.settings
    )
    assert moved.stage is Stage.PRODUCTION
    with pytest.raises(RegistryRefusedError, match="needs a reason"):
        registrar.registry.rollback(first, "")
    back = registrar.registry.rollback(first, "it was wrong")
    assert (back.number, back.stage) == (first.number, Stage.PRODUCTION)
    assert in_stages(registrar) == {first.number: Stage.PRODUCTION, unproven.number: Stage.ARCHIVED}


def test_an_override_without_the_operators_key_is_not_tried(registrar: Registrar) -> None:
    version = registrar.version(None)
    with pytest.raises(KeyFileError, match="There is no operator key to sign with"):
        registrar.registry.override(
            version, Stage.STAGING, reason="in a hurry", operator="ann", settings=KeySettings()
        )
    assert OVERRIDE not in registrar.registry.version(version.model, version.number).tags


# Evidence


def test_attest_signs_the_verdict_on_the_files_that_there_are_and_the_reports_of_the_gate(
    registrar: Registrar,
) -> None:
    said = verdict(registrar.name)
    version = registrar.version(said)
    registrar.registry.put_artifact(version, "gate/model_evaluation.html", b"<html>")
    registrar.registry.put_artifact(version, "gate/planted.html", b"<html>")
    registrar.registry.put_artifact(version, "gate/train.parquet", b"rows, which are no report")
    raw = registrar.registry.artifact(version, VERDICT_ARTIFACT)
    reports = {"model_evaluation.html": b"<html>", "verdict.json": raw}
    made = registrar.registry.attest(version, said, registrar.gate.settings, reports)
    found = registrar.registry.version(version.model, version.number)
    assert found.tags[GATE] == "passed"
    assert registrar.registry.evidence(found, registrar.gate.settings) == replace(
        made, keyid=key_of(registrar)
    )
    assert (made.model, made.version, made.source) == (version.model, version.number, version.source)
    assert (made.kind, made.passed, made.incumbent) == ("gate", True, None)
    assert made.files == FILES == registrar.registry.files(version)
    assert made.policy_digest == said.policy_digest
    assert made.created_at == said.created_at
    assert made.report_files == ("model_evaluation.html", "verdict.json")
    digests = {name: sha256(content).hexdigest() for name, content in reports.items()}
    assert made.report_digest == tree_digest(digests)
    assert made.report_digest == registrar.registry.report_digest(version, made.report_files)
    assert made.report_digest != registrar.registry.report_digest(version), "what was planted is not signed"


def key_of(registrar: Registrar) -> str:
    return str(keys.signer("gate", registrar.gate.settings).public_key.keyid)


def test_attest_names_the_version_that_was_compared_with(registrar: Registrar) -> None:
    current = registrar.in_production()
    incumbent = registrar.registry.identity(current)
    assert incumbent == Incumbent(version=current.number, digest=tree_digest(FILES))
    version = attested(registrar, verdict(registrar.name).model_copy(update={"incumbent": incumbent}))
    assert registrar.registry.evidence(version, registrar.gate.settings).incumbent == incumbent
    alone = attested(registrar, verdict(registrar.name))
    refuse(registrar, alone, f"was compared with no version in Production, and now version {current.number}")
    assert registrar.registry.promote(version, Stage.STAGING).stage is Stage.STAGING


def test_a_verdict_about_other_bytes_is_not_signed(registrar: Registrar) -> None:
    other = verdict(registrar.name, content=b"other bytes")
    version = registrar.version(other)
    with pytest.raises(
        EvidenceBytesError, match=f"does not hold the model that was checked.*{digest(CONTENT)}"
    ):
        registrar.registry.attest(version, other, registrar.gate.settings, {})
    without = registrar.version(other, content=None)
    with pytest.raises(EvidenceBytesError, match="does not hold the model that was checked"):
        registrar.registry.attest(without, other, registrar.gate.settings, {})
    assert all(EVIDENCE not in found.tags for found in registrar.registry.versions(registrar.name))


def test_a_version_with_other_files_than_a_served_one_is_not_signed(registrar: Registrar) -> None:
    """The gate looks at the ONNX file; what loads the others must find nothing that runs."""
    about = verdict(registrar.name)
    version = registrar.version(about)
    uri = registrar.artifact_uri(version)
    registrar.client.put_artifact(uri, "code/evil.py", b"import os")
    with pytest.raises(EvidenceFilesError, match=r"code/evil\.py may not be there"):
        registrar.registry.attest(version, about, registrar.gate.settings, {})
    version = registrar.version(about)
    uri = registrar.artifact_uri(version)
    evil = MLMODEL.replace(b"loader_module: mlflow.onnx", b"loader_module: evil")
    registrar.client.put_artifact(uri, "MLmodel", evil)
    with pytest.raises(ModelFormatError, match="loader_module of python_function is 'evil'"):
        registrar.registry.attest(version, about, registrar.gate.settings, {})
    registrar.client.put_artifact(uri, "MLmodel", MLMODEL)
    registrar.client.put_artifact(uri, "requirements.txt", b"evil")
    with pytest.raises(ModelFormatError, match="it asks for 'evil'"):
        registrar.registry.attest(version, about, registrar.gate.settings, {})
    assert all(EVIDENCE not in version.tags for version in registrar.registry.versions(registrar.name))
    registrar.client.put_artifact(uri, "requirements.txt", b"onnxruntime\n")
    made = registrar.registry.attest(version, about, registrar.gate.settings, {})
    assert (made.artifact, set(made.files)) == ("onnx", {"MLmodel", MODEL_FILE, "requirements.txt"})


def test_evidence_about_other_files_is_not_believed_at_load(registrar: Registrar) -> None:
    version = registrar.version(None)
    registrar.client.put_artifact(registrar.artifact_uri(version), "code/evil.py", b"import os")
    version = registrar.gate.attest(version)
    with pytest.raises(EvidenceFilesError, match=r"code/evil\.py may not be there"):
        genuine_evidence(version, registrar.gate.settings)
    with pytest.raises(EvidenceFilesError):
        registrar.registry.verified_model_bytes(version, registrar.gate.settings)


def test_a_verdict_about_another_model_is_not_taken(registrar: Registrar) -> None:
    other = verdict("another")
    version = registrar.version(other)
    with pytest.raises(RegistryRefusedError, match=f"on {version} is about another version {version.number}"):
        registrar.registry.attest(version, other, registrar.gate.settings, {})
    assert EVIDENCE not in registrar.registry.version(version.model, version.number).tags


def test_without_the_gates_key_nothing_is_signed(registrar: Registrar, tmp_path: Path) -> None:
    version = registrar.version(verdict(registrar.name))
    with pytest.raises(KeyFileError, match=r"There is no gate key to sign with.*greenroom keys create gate"):
        registrar.registry.attest(version, verdict(registrar.name), KeySettings(), {})
    (tmp_path / "broken.pem").write_text("no key")
    with pytest.raises(KeyFileError, match=r"broken\.pem is not an unencrypted private key"):
        registrar.registry.attest(
            version, verdict(registrar.name), KeySettings(gate_key=str(tmp_path / "broken.pem")), {}
        )
    assert EVIDENCE not in registrar.registry.version(version.model, version.number).tags


def test_a_key_that_the_server_does_not_trust_signs_in_vain(registrar: Registrar) -> None:
    keys.create("gate", KeySettings())
    version = registrar.version(verdict(registrar.name))
    with pytest.raises(RegistryRefusedError, match=r"key that is not .*trusted.* gate key"):
        registrar.registry.attest(version, verdict(registrar.name), KeySettings(), {})


def test_evidence_that_does_not_speak_for_a_version_is_not_returned(registrar: Registrar) -> None:
    registry, trusted = registrar.registry, registrar.gate.settings
    with pytest.raises(EvidenceMissingError, match="has no evidence of the gate"):
        registry.evidence(registrar.version(None), trusted)
    failed = registrar.gate.attest(registrar.version(None), passed=False)
    with pytest.raises(EvidenceFailedError, match="Performance failed"):
        registry.evidence(failed, trusted)
    good = registrar.good()
    # Whoever asks believes the keys of its own machine, not the server.
    with pytest.raises(EvidenceWrongKeyError, match=r"key that is not .*trusted.* gate key"):
        registry.evidence(good, KeySettings())
    moved = replace(good, number=failed.number)
    with pytest.raises(EvidenceForeignError, match=f"on {moved} is about {good}"):
        registry.evidence(moved, trusted)


def test_an_override_speaks_where_the_gate_does_not(registrar: Registrar) -> None:
    version = registrar.gate.attest(registrar.version(None), passed=False)
    moved = registrar.registry.override(
        version, Stage.STAGING, reason="a strike", operator="ann", settings=registrar.gate.settings
    )
    found = registrar.registry.evidence(moved, registrar.gate.settings)
    assert (found.kind, found.operator, found.reason) == ("override", "ann", "a strike")
    assert found == replace(read_unverified(moved.tags[OVERRIDE]), keyid=found.keyid)  # type: ignore[type-var]


def test_bytes_that_changed_are_reported_and_written_down_once(
    registrar: Registrar, client: TrackingClient
) -> None:
    version = registrar.in_production()
    with pytest.raises(RegistryRefusedError, match="holds the bytes that its evidence is about"):
        registrar.registry.report_mismatch(version)
    client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    for _ in range(2):
        registrar.registry.report_mismatch(version)
    rows = [row for row in audit_log.history(client, registrar.name) if row.action == "mismatch"]
    assert [(row.version, row.code) for row in rows] == [(version.number, "bytes")]


# Verdicts and artifacts


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model": "x"}', b"\xff"])
def test_a_verdict_that_cannot_be_read_is_none(registrar: Registrar, raw: bytes) -> None:
    version = registrar.version(raw)
    with pytest.raises(NotFoundError, match="has a verdict that cannot be read"):
        registrar.registry.verdict(version)


def test_without_a_verdict_it_is_said(registrar: Registrar) -> None:
    with pytest.raises(NotFoundError, match="has no verdict of the gate"):
        registrar.registry.verdict(registrar.version(None))


def test_without_the_model_file_it_is_said(registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name), content=None)
    with pytest.raises(NotFoundError, match=r"has no model\.onnx: only ONNX models are served"):
        registrar.registry.model_bytes(version)
    assert registrar.registry.files(version) == {"MLmodel": FILES["MLmodel"]}


def test_versions_are_listed_newest_first(registrar: Registrar) -> None:
    numbers = [registrar.version().number for _ in range(3)]
    assert [v.number for v in registrar.registry.versions(registrar.name)] == numbers[::-1]
    assert registrar.registry.versions("nobody-registered-this") == []


def test_what_does_not_exist_is_said(registrar: Registrar) -> None:
    registry = registrar.registry
    with pytest.raises(NotFoundError, match=f"{registrar.name} has no version 99"):
        registry.version(registrar.name, 99)
    with pytest.raises(NotFoundError, match="has no version 1"):
        registry.version("nobody-registered-this", 1)
    assert registry.in_stage(registrar.name, Stage.PRODUCTION) is None
    assert registry.in_stage("nobody-registered-this", Stage.PRODUCTION) is None
    with pytest.raises(NotFoundError, match="no artifact plots/none"):
        registry.artifact(registrar.version(), "plots/none")
    assert registry.versions("x' OR name != '") == []
    with pytest.raises(RegistryRefusedError, match="both kinds of quotes"):
        registry.versions("x' OR name != \"")


def test_artifacts_are_written_and_read(registrar: Registrar) -> None:
    version = registrar.version()
    registrar.registry.put_artifact(version, "gate/a report & more.html", b"<html>")
    assert registrar.registry.artifact(version, "gate/a report & more.html") == b"<html>"
    registrar.registry.put_artifact(
        version, VERDICT_ARTIFACT, verdict(registrar.name).model_dump_json().encode()
    )
    assert registrar.registry.verdict(version).passed


def test_the_paths_of_all_files_are_found_in_their_folders(registrar: Registrar) -> None:
    run = registrar.run()
    written = {"verdict.json", "gate/report & more.html", "gate/deep/er/one.json", "gate/deep.txt"}
    for path in written:
        registrar.client.put_artifact(run["artifact_uri"], path, b"x")
    assert registrar.client.artifact_paths(run["artifact_uri"]) == sorted(written)
    assert registrar.client.artifact_paths(f"{run['artifact_uri']}/gate") == [
        "deep.txt",
        "deep/er/one.json",
        "report & more.html",
    ]
    assert registrar.client.artifact_paths(f"{run['artifact_uri']}/nothing") == []
    assert registrar.client.artifact_paths(registrar.run()["artifact_uri"]) == []


def test_models_are_listed(registrar: Registrar) -> None:
    assert registrar.name in registrar.registry.models()


def test_searches_go_through_all_pages(registrar: Registrar, client: TrackingClient) -> None:
    numbers = {str(registrar.version().number) for _ in range(3)}
    query: dict[str, str | int] = {"filter": f"name = '{registrar.name}'", "max_results": 1}
    found = client.pages("model-versions/search", query, "model_versions")
    assert {item["version"] for item in found} == numbers


def test_a_refusal_of_the_server_is_told_in_its_words(client: TrackingClient) -> None:
    with pytest.raises(RegistryRefusedError, match=r"\(400\).*version"):
        client.get("model-versions/get", {"name": "x", "version": "abc"})


def test_a_failing_artifact_that_exists_is_not_called_missing(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registrar.version(verdict(registrar.name))
    send = registrar.client._send

    def fail_downloads(method: str, path: str, **options: object) -> object:
        if path.endswith("verdict.json"):
            raise RegistryUnavailableError("S3 is down")
        return send(method, path, **options)

    monkeypatch.setattr(registrar.client, "_send", fail_downloads)
    with pytest.raises(RegistryUnavailableError, match="S3 is down"):
        Registry(registrar.client).verdict(version)
