"""`greenroom verify` as a report: it always ends, walks nothing twice, and says what it cannot tell."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.audit import AuditLink
from registry.client import audit_log, verification, verification_state
from registry.client.audit_replay import ModelRecord
from registry.client.registry import MODEL_FILE
from registry.client.standing import without_standing
from registry.client.verification import VerificationReport
from registry.client.verification_state import RegistryState
from registry.errors import KeyFileError, RegistryRefusedError
from registry.evidence import keys
from registry.evidence.verdict import VERDICT_ARTIFACT
from registry.names import EVIDENCE, GATE, Stage
from registry.settings import KeySettings
from tests.conftest import Stack
from tests.registry.support.registered import Registrar, verdict
from tests.registry.support.superuser import superuser

_DECLARED = """
from catalog.models.energy import MODEL as BASE

MODEL = BASE.model_copy(update={{"name": "{name}"}})
"""


def run(registrar: Registrar, *models: str, **options: Any) -> VerificationReport:
    return verification.verify(
        registrar.client, options.pop("settings", registrar.gate.settings), models, **options
    )


def of(registrar: Registrar, sentences: list[str]) -> list[str]:
    """The sentences about this test's model, but for the reports, which tests make up."""
    return [s for s in sentences if registrar.name in s and "gate's reports" not in s]


@pytest.fixture
def asked(registrar: Registrar, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose rows were read, as it happens."""
    names: list[str] = []
    texts = audit_log.history_texts

    def counted(client: Any, model: str) -> dict[int, str]:
        names.append(model)
        return texts(client, model)

    monkeypatch.setattr(audit_log, "history_texts", counted)
    return names


def test_reports_are_those_that_the_gate_wrote(registrar: Registrar) -> None:
    """What somebody puts beside them is a note; the gate's own, changed or gone, is a problem."""
    about = verdict(registrar.name)
    version = registrar.version(about)
    raw = registrar.registry.artifact(version, VERDICT_ARTIFACT)
    registrar.registry.attest(version, about, registrar.gate.settings, {"verdict.json": raw})
    registrar.registry.promote(version, Stage.STAGING)
    assert [p for p in run(registrar, registrar.name).problems if "reports" in p] == []
    registrar.registry.put_artifact(version, "gate/model_evaluation.html", b"all is well")
    report = run(registrar, registrar.name)
    assert [p for p in report.problems if "reports" in p] == []
    where = f"{version} in Staging: its run holds model_evaluation.html below gate/, which the gate did not"
    assert any(note.startswith(where) for note in report.notes), report.notes
    registrar.registry.put_artifact(version, VERDICT_ARTIFACT, raw + b" ")
    changed = f"{version} in Staging: the gate's reports are not those that were signed"
    assert changed in run(registrar, registrar.name).problems


def test_what_cannot_be_read_ends_nothing(registrar: Registrar, stack: Stack) -> None:
    """An object below a version's file, which S3 takes and MLflow cannot read."""
    registrar.in_production()
    other = Registrar(registrar.client, registrar.gate.settings)
    registrar.client.put_artifact(
        registrar.artifact_uri(registrar.in_production()), f"{MODEL_FILE}/child", b"x"
    )
    other.in_production()
    report = run(registrar, registrar.name, other.name)
    assert len(of(registrar, report.problems)) >= 1
    assert of(other, report.problems) == []
    assert f"{other.name} version 1 in Production" in report.checked
    assert f"{registrar.name} version 2 in Production" in report.checked


@pytest.mark.parametrize("error", [RegistryRefusedError("no"), ValueError("strange"), KeyError("x")])
def test_each_model_by_itself(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    other = Registrar(registrar.client, registrar.gate.settings)
    registrar.in_production()
    other.in_production()
    texts = audit_log.history_texts

    def broken(client: Any, model: str) -> dict[int, str]:
        if model == registrar.name:
            raise error
        return texts(client, model)

    monkeypatch.setattr(audit_log, "history_texts", broken)
    report = run(registrar)
    assert any("could not be checked" in problem for problem in of(registrar, report.problems))
    assert f"{other.name} version 1 in Production" in report.checked
    assert registrar.name in verification_state.load(registrar.client.url).unwalked
    monkeypatch.setattr(audit_log, "history_texts", texts)
    report = run(registrar)
    assert of(registrar, report.problems) == [], "what was not walked is walked the next time"
    assert f"{registrar.name} version 1 in Production" in report.checked


def test_what_was_walked_and_has_not_changed_is_not_walked_again(
    registrar: Registrar, asked: list[str]
) -> None:
    other = Registrar(registrar.client, registrar.gate.settings)
    registrar.in_production()
    other.in_production()
    first = run(registrar)
    assert {registrar.name, other.name} <= set(asked)
    assert first.walked == first.rows
    assert any("before this first run" in unknown for unknown in first.unknown)
    asked.clear()
    second = run(registrar)
    assert asked == []
    assert (second.walked, second.rows, second.head) == (0, first.rows, first.head)
    assert any("--full" in unknown for unknown in second.unknown)
    # Of these two alone: other tests leave broken versions in the store, and use it meanwhile.
    names = (registrar.name, other.name)
    for before, after in ((first.problems, second.problems), (first.notes, second.notes)):
        both = [[line for line in lines if any(name in line for name in names)] for lines in (before, after)]
        assert both[0] == both[1]
    registrar.in_production()
    third = run(registrar)
    assert asked == [registrar.name]
    assert third.walked == third.rows - first.rows > 0
    assert f"{registrar.name} version 2 in Production" in third.checked
    asked.clear()
    run(registrar, full=True)
    assert {registrar.name, other.name} <= set(asked)


def test_files_are_compared_every_time(registrar: Registrar) -> None:
    version = registrar.in_production()
    assert of(registrar, run(registrar).problems) == []
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    assert any("does not hold the bytes" in problem for problem in of(registrar, run(registrar).problems))


def test_naming_models_remembers_nothing(registrar: Registrar) -> None:
    registrar.in_production()
    run(registrar, registrar.name)
    assert verification_state.load(registrar.client.url) == RegistryState()


def test_other_keys_make_every_row_count_anew(
    registrar: Registrar, asked: list[str], trusted: "Trusted"
) -> None:
    registrar.in_production()
    run(registrar, settings=trusted.mine)
    asked.clear()
    keys.retire(trusted.first.keyid, trusted.mine)
    report = run(registrar, settings=trusted.mine)
    assert registrar.name in asked
    assert of(registrar, report.problems) != []


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"format": 99}', b'{"registries": {"x": 1}}'])
def test_a_file_of_another_form_is_as_none(registrar: Registrar, content: bytes) -> None:
    verification_state.state_path().write_bytes(content)
    assert verification_state.load("x") == RegistryState()
    registrar.in_production()
    assert run(registrar).walked > 0
    assert verification_state.state_path().stat().st_mode & 0o777 == 0o600


def test_a_chain_that_does_not_go_on_is_said_every_time(registrar: Registrar) -> None:
    """Its end was cut off and other rows were written: the last run's head is not in it any more."""
    registrar.in_production()
    run(registrar)
    state = verification_state.load(registrar.client.url)
    assert state.head is not None
    cut = AuditLink(id=state.head.id, model="m", body="0" * 64, hash="f" * 64)
    verification_state.save(registrar.client.url, state.model_copy(update={"head": cut}))
    for _ in range(2):
        report = run(registrar)
        assert any("does not hold the row" in p and "its end was cut off" in p for p in report.problems)
        assert report.walked == report.rows
    verification_state.state_path().unlink()
    assert not any("cut off" in problem for problem in run(registrar).problems)


def test_rows_of_before_that_say_something_else_now(registrar: Registrar, stack: Stack) -> None:
    """Changed without their hash: found with the model's next row, and by a full run at once."""
    registrar.in_production()
    run(registrar)
    number = audit_log.history(registrar.client, registrar.name)[0].id
    with superuser(stack) as cursor:
        cursor.execute("SELECT body FROM greenroom.audit WHERE id = %s", (number,))
        (body,) = cursor.fetchone()
        cursor.execute(
            "UPDATE greenroom.audit SET body = replace(body, 'staged', 'sneaky') WHERE id = %s", (number,)
        )
    try:
        assert not any(f"row {number} " in problem for problem in run(registrar).problems)
        assert any(f"row {number} of the audit" in p for p in run(registrar, full=True).problems)
        registrar.in_production()
        problems = of(registrar, run(registrar).problems)
        assert any("do not say what they said before" in problem for problem in problems), problems
    finally:
        with superuser(stack) as cursor:
            cursor.execute("UPDATE greenroom.audit SET body = %s WHERE id = %s", (body, number))
    assert not any("of the audit" in problem for problem in of(registrar, run(registrar).problems))


def test_refused_requests_about_nothing_are_one_note(registrar: Registrar, asked: list[str]) -> None:
    names = [f"{registrar.name}-made-up-{number}" for number in range(5)]
    for name in names:
        body = {"name": name, "tags": [{"key": GATE, "value": "passed"}]}
        with pytest.raises(RegistryRefusedError):
            registrar.client.post("registered-models/create", body)
    report = run(registrar)
    assert [note for note in report.notes if "requests about models that are not there" in note] != []
    assert sum(any(name in note for name in names) for note in report.notes) <= 1
    assert of(registrar, report.problems) == []
    asked.clear()
    assert run(registrar).notes == report.notes
    assert asked == []


def test_the_policy_is_asked(registrar: Registrar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registrar.in_production()
    report = run(registrar, registrar.name)
    assert of(registrar, report.problems) == []
    assert any("by the right policy" in unknown for unknown in of(registrar, report.unknown))
    declared = tmp_path / "declared.py"
    declared.write_text(_DECLARED.format(name=registrar.name))
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", str(declared))
    problems = of(registrar, run(registrar, registrar.name).problems)
    assert any("judged by another policy" in p and "--rerun" in p for p in problems), problems
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", str(tmp_path / "nowhere.py"))
    report = run(registrar, registrar.name)
    assert any("by which policies" in unknown for unknown in report.unknown)


def test_other_files_under_the_same_number(registrar: Registrar, sql: Any) -> None:
    """Evidence about other files than those that came into the stage, and those files: by SQL alone."""
    version = registrar.in_production()
    registrar.client.put_artifact(registrar.artifact_uri(version), MODEL_FILE, b"other bytes")
    envelope = registrar.gate.envelope(version)
    sql.execute(
        "UPDATE model_version_tags SET value = %s WHERE name = %s AND key = %s",
        (envelope, registrar.name, EVIDENCE),
    )
    problems = of(registrar, run(registrar, registrar.name).problems)
    assert any("about other files than it came there with" in problem for problem in problems), problems


# A key that is retired


class Trusted:
    """Two gate keys that the server trusts, and a verifier's own folder of them."""

    def __init__(self, registrar: Registrar, folder: Path) -> None:
        shared = registrar.gate.settings
        self.first = next(k for k in keys.trusted("gate", shared) if self._signs(k, shared))
        self.second = keys.create(
            "gate", KeySettings(gate_key=str(folder / "second.pem"), trusted_keys=shared.trusted_keys)
        )
        shutil.copytree(shared.trusted_keys_path, folder / "trusted")
        self.mine = KeySettings(
            gate_key=str(folder / "second.pem"),
            operator_key=shared.operator_key,
            trusted_keys=str(folder / "trusted"),
        )

    @staticmethod
    def _signs(key: keys.TrustedKey, settings: KeySettings) -> bool:
        return keys.signer("gate", settings).public_key.keyid == key.keyid


@pytest.fixture
def trusted(registrar: Registrar, tmp_path: Path) -> Iterator[Trusted]:
    made = Trusted(registrar, tmp_path)
    yield made
    made.second.path.unlink()


def test_a_retired_key_and_a_new_signature_in_place(registrar: Registrar, trusted: Trusted) -> None:
    mine, version = trusted.mine, registrar.in_production()
    gone = keys.retire(trusted.first.keyid[:12], mine)
    standings = without_standing(registrar.registry.staged_versions(), mine)
    said = [str(standing) for standing in standings if standing.version.model == registrar.name]
    assert len(said) == 1
    for text in (gone.keyid[:12], "retired on", "greenroom keys reissue", "stays in its stage"):
        assert text in said[0]
    assert of(registrar, run(registrar, registrar.name, settings=mine).problems) == said
    # What `greenroom gate --rerun` does: the same files, judged again, signed with the key of now.
    registrar.gate.attest(version, signer=keys.signer("gate", mine))
    report = run(registrar, registrar.name, settings=mine)
    assert of(registrar, report.problems) == []
    notes = of(registrar, report.notes)
    assert any("retired on" in note and "re-signed on" in note for note in notes), notes
    assert registrar.registry.version(registrar.name, version.number).stage is Stage.PRODUCTION
    assert not [
        s
        for s in without_standing(registrar.registry.staged_versions(), mine)
        if s.version.model == registrar.name
    ]


def test_what_a_retired_key_never_signed_is_no_note(registrar: Registrar, trusted: Trusted, sql: Any) -> None:
    version = registrar.in_production()
    keys.retire(trusted.first.keyid, trusted.mine)
    row = next(r for r in audit_log.history(registrar.client, registrar.name) if r.to_stage == "Production")
    assert row.envelope is not None
    forged = edited(row.envelope, lambda payload: payload["predicate"].update(greenroom_version=9))
    sql.execute(
        "UPDATE model_version_tags SET value = %s WHERE name = %s AND key = %s",
        (forged, registrar.name, EVIDENCE),
    )
    problems = of(registrar, run(registrar, registrar.name, settings=trusted.mine).problems)
    assert any(str(version) in problem for problem in problems)


def edited(envelope: str, change: Callable[[dict[str, Any]], Any]) -> str:
    raw = json.loads(envelope)
    payload = json.loads(base64.b64decode(raw["payload"]))
    change(payload)
    return json.dumps({**raw, "payload": base64.b64encode(json.dumps(payload).encode()).decode()})


def test_a_move_after_the_key_was_retired_is_a_problem_for_good(
    registrar: Registrar, trusted: Trusted
) -> None:
    """A server that was not told: its trusted keys must lose the key, too."""
    keys.retire(trusted.first.keyid, trusted.mine)
    retired = next(iter(keys.key_ring(trusted.mine).retired["gate"]))
    text = retired.path.read_text().split("\n", 1)[1]
    retired.path.write_text(f"Retired: 2020-01-01T00:00:00+00:00\n{text}")
    version = registrar.in_production()
    registrar.gate.attest(version, signer=keys.signer("gate", trusted.mine))
    problems = of(registrar, run(registrar, registrar.name, settings=trusted.mine).problems)
    assert any("retired on 2020-01-01, after that" in problem for problem in problems), problems


def test_retired_keys_are_kept_with_their_time(tmp_path: Path) -> None:
    settings = KeySettings(gate_key=str(tmp_path / "gate.pem"), trusted_keys=str(tmp_path / "trusted"))
    made = keys.create("gate", settings)
    before = keys.key_ring(settings).digest()
    keys.retire(made.keyid, settings)
    ring = keys.key_ring(settings)
    assert ring.trusted["gate"] == []
    assert ring.digest() != before
    assert ring.retired_key(made.keyid) is not None
    assert ring.retired_key("f" * 64) is None
    path = ring.retired["gate"][0].path
    path.write_text("Retired: once\n" + path.read_text().split("\n", 1)[1])
    with pytest.raises(KeyFileError, match="since when it is retired"):
        keys.key_ring(settings)


def test_a_record_of_refusals_alone() -> None:
    assert ModelRecord(rows=2, refusals=2).only_refusals
    assert not ModelRecord(rows=3, refusals=2).only_refusals
    assert not ModelRecord(broken=["x"]).only_refusals
