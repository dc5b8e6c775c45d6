"""Nothing reaches Production that the gate did not pass; asked of a real tracking server."""

import json

import pytest
from registered import CONTENT, POLICY, Registrar, outcome, verdict

from catalog.spec import Check, GatePolicy
from registry.client import TrackingClient
from registry.errors import (
    BadTransitionError,
    GateNotPassedError,
    NotFoundError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
from registry.evidence import VERDICT_ARTIFACT, digest
from registry.stages import MODEL_FILE, Registry, Stage, Version


def in_stages(registrar: Registrar) -> dict[int, Stage]:
    return {version.number: version.stage for version in registrar.registry.versions(registrar.name)}


def to_production(registrar: Registrar, version: Version) -> Version:
    staged = registrar.registry.promote(version, Stage.STAGING, POLICY)
    return registrar.registry.promote(staged, Stage.PRODUCTION, POLICY)


def refuse(registrar: Registrar, version: Version, says: str, policy: GatePolicy = POLICY) -> None:
    """Check that neither gated stage takes the version, and that it stays where it is."""
    with pytest.raises(GateNotPassedError, match=says):
        registrar.registry.promote(version, Stage.STAGING, policy)
    assert registrar.registry.version(version.model, version.number).stage is Stage.NONE


def test_a_good_version_reaches_production(registrar: Registrar) -> None:
    version = registrar.good()
    assert version.stage is Stage.NONE
    moved = to_production(registrar, version)
    assert (moved.number, moved.stage) == (version.number, Stage.PRODUCTION)
    found = registrar.registry.in_stage(registrar.name, Stage.PRODUCTION)
    assert found == registrar.registry.version(registrar.name, version.number)
    assert found is not None
    assert registrar.registry.model_bytes(found) == CONTENT


def test_without_a_verdict_it_is_refused(registrar: Registrar) -> None:
    refuse(registrar, registrar.version(None), "has no verdict of the gate")


def test_without_a_run_it_is_refused(registrar: Registrar) -> None:
    version = registrar.version_without_run()
    refuse(registrar, version, "has no verdict of the gate")
    with pytest.raises(NotFoundError, match="was not made by a run"):
        registrar.registry.artifact(version, VERDICT_ARTIFACT)


@pytest.mark.parametrize("status", ["failed", "error", "not_run", "missing"])
def test_with_a_required_check_that_did_not_pass_it_is_refused(registrar: Registrar, status: str) -> None:
    bad = verdict(registrar.name, outcome("Performance"), outcome("Drift", status))  # type: ignore[arg-type]
    refuse(registrar, registrar.version(bad), f"Drift {status}: Drift: 1 < 2")


def test_a_verdict_that_only_says_it_passed_is_refused(registrar: Registrar) -> None:
    failed = verdict(registrar.name, outcome("Performance", "failed"), outcome("Drift"))
    forged = json.dumps({**json.loads(failed.model_dump_json()), "passed": True}).encode()
    refuse(registrar, registrar.version(forged), "Performance failed")


def test_with_a_verdict_about_other_bytes_it_is_refused(registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name, content=b"other bytes"))
    refuse(registrar, version, f"does not hold the bytes that were checked.*{digest(CONTENT)}")


def test_when_the_bytes_changed_after_staging_it_is_refused(registrar: Registrar) -> None:
    # MLflow lets anyone overwrite an artifact.
    staged = registrar.registry.promote(registrar.good(), Stage.STAGING, POLICY)
    registrar.client.put_artifact(staged.source, MODEL_FILE, b"other bytes")
    with pytest.raises(GateNotPassedError, match="does not hold the bytes"):
        registrar.registry.promote(staged, Stage.PRODUCTION, POLICY)
    assert in_stages(registrar) == {staged.number: Stage.STAGING}


def test_with_a_verdict_of_an_older_policy_it_is_refused(registrar: Registrar) -> None:
    added = Check(check="Leakage", suite="train_test_validation", condition="c", why="w")
    newer = GatePolicy(checks=(*POLICY.checks, added))
    refuse(registrar, registrar.good(), "lacks checks that the policy requires now: Leakage", newer)


def test_when_a_check_became_required_it_is_refused(registrar: Registrar) -> None:
    stricter = GatePolicy(checks=tuple(c.model_copy(update={"required": True}) for c in POLICY.checks))
    refuse(registrar, registrar.good(), "requires now: Segments", stricter)


def test_with_a_verdict_about_another_model_it_is_refused(registrar: Registrar) -> None:
    refuse(registrar, registrar.version(verdict("another")), "is about the model another")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model": "x"}', b"\xff"])
def test_with_a_verdict_that_cannot_be_read_it_is_refused(registrar: Registrar, raw: bytes) -> None:
    refuse(registrar, registrar.version(raw), "has a verdict that cannot be read")


def test_without_the_model_file_it_is_refused(registrar: Registrar) -> None:
    version = registrar.version(verdict(registrar.name), content=None)
    with pytest.raises(NotFoundError, match=r"has no model\.onnx: only ONNX models are served"):
        registrar.registry.promote(version, Stage.STAGING, POLICY)
    assert in_stages(registrar) == {version.number: Stage.NONE}


def test_there_is_one_production_and_the_one_before_is_archived(registrar: Registrar) -> None:
    first = to_production(registrar, registrar.good())
    second = to_production(registrar, registrar.good())
    assert in_stages(registrar) == {first.number: Stage.ARCHIVED, second.number: Stage.PRODUCTION}
    back = to_production(registrar, first)
    assert back.number == first.number
    assert in_stages(registrar) == {first.number: Stage.PRODUCTION, second.number: Stage.ARCHIVED}


def test_staging_is_not_skipped(registrar: Registrar) -> None:
    with pytest.raises(BadTransitionError, match="Promote it to Staging first"):
        registrar.registry.promote(registrar.good(), Stage.PRODUCTION, POLICY)
    assert set(in_stages(registrar).values()) == {Stage.NONE}


def test_production_does_not_go_back_to_none(registrar: Registrar) -> None:
    version = to_production(registrar, registrar.good())
    with pytest.raises(BadTransitionError):
        registrar.registry.promote(version, Stage.NONE, POLICY)


def test_archiving_needs_no_verdict(registrar: Registrar) -> None:
    version = registrar.version(None)
    assert registrar.registry.promote(version, Stage.ARCHIVED, POLICY).stage is Stage.ARCHIVED


def test_a_version_that_is_there_already_is_left_alone(registrar: Registrar) -> None:
    version = to_production(registrar, registrar.good())
    assert registrar.registry.promote(version, Stage.PRODUCTION, POLICY) == version


def test_a_stale_view_of_a_version_is_not_believed(registrar: Registrar) -> None:
    version = registrar.good()
    registrar.registry.promote(version, Stage.ARCHIVED, POLICY)
    # `version` still says None.
    with pytest.raises(BadTransitionError, match="is in Archived"):
        registrar.registry.promote(version, Stage.PRODUCTION, POLICY)


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
    with pytest.raises(RegistryRefusedError, match="quote"):
        registry.versions("x' OR name != '")


def test_artifacts_are_written_and_read(registrar: Registrar) -> None:
    version = registrar.version()
    registrar.registry.put_artifact(version, "gate/a report & more.html", b"<html>")
    assert registrar.registry.artifact(version, "gate/a report & more.html") == b"<html>"
    registrar.registry.put_artifact(
        version, VERDICT_ARTIFACT, verdict(registrar.name).model_dump_json().encode()
    )
    assert registrar.registry.verdict(version).passed


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
        Registry(registrar.client).require_passed(version, POLICY)
