"""What is truly signed is refused all the same when it could be understood in two ways."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from registry.errors import EvidenceError, EvidenceForgedError, EvidenceUnreadableError, EvidenceWrongKeyError
from registry.evidence import keys
from registry.evidence.attestation import (
    Evidence,
    attest_override,
    attest_verdict,
    read_unverified,
    signing_keyids,
    verify,
)
from registry.evidence.statement import PAYLOAD_TYPE
from registry.evidence.verdict import CheckOutcome, Incumbent
from registry.settings import KeySettings
from tests.evidence import outcome
from tests.registry.support.registered import verdict

FILES = {"MLmodel": "1" * 64, "model.onnx": "a" * 64}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> KeySettings:
    folder = tmp_path_factory.mktemp("keys")
    settings = KeySettings(
        gate_key=str(folder / "gate.pem"),
        operator_key=str(folder / "operator.pem"),
        trusted_keys=str(folder / "trusted"),
    )
    for role in keys.ROLES:
        keys.create(role, settings)
    return settings


def gate_payload(settings: KeySettings, *outcomes: CheckOutcome) -> dict[str, Any]:
    about = verdict("genre", *outcomes).model_copy(
        update={"incumbent": Incumbent(version=2, digest="sha256:" + "b" * 64), "git_commit": "c" * 40}
    )
    text = attest_verdict(
        about,
        version=3,
        source="models:/m-1",
        files=FILES,
        report_digest="sha256:" + "d" * 64,
        signer=keys.signer("gate", settings),
    )
    return payload_of(text)


def override_payload(settings: KeySettings) -> dict[str, Any]:
    text = attest_override(
        model="genre",
        version=3,
        source="models:/m-1",
        files=FILES,
        incumbent=None,
        reason="the shop is on fire",
        operator="olga",
        signer=keys.signer("operator", settings),
    )
    return payload_of(text)


def payload_of(text: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.b64decode(json.loads(text)["payload"]))
    return payload


def signed(
    payload: dict[str, Any] | str | bytes,
    settings: KeySettings,
    role: keys.Role = "gate",
    kind: str = PAYLOAD_TYPE,
) -> str:
    """An envelope around any payload, with a trusted key's signature."""
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    envelope = Envelope(payload.encode() if isinstance(payload, str) else payload, kind, {})
    envelope.sign(keys.signer(role, settings))
    return json.dumps(envelope.to_dict())


def believed(text: str, settings: KeySettings) -> Evidence:
    return verify(text, keys.all_trusted(settings))


def refuse(text: str, settings: KeySettings, says: str) -> None:
    with pytest.raises(EvidenceUnreadableError, match=says):
        believed(text, settings)
    assert read_unverified(text) is None


def predicate(**changed: Any) -> Change:
    return lambda payload: payload["predicate"].update(changed)


def subject(name: str, digest: Any = "a" * 64) -> Change:
    digests = digest if isinstance(digest, dict) else {"sha256": digest}
    return lambda payload: payload["subject"].append({"name": name, "digest": digests})


def configuration(name: str, digest: Any, **more: Any) -> Change:
    return lambda payload: payload["predicate"]["configuration"].append(
        {"name": name, "digest": digest, **more}
    )


def incumbent(version: Any) -> Change:
    def change(payload: dict[str, Any]) -> None:
        for descriptor in payload["predicate"]["configuration"]:
            if descriptor["name"] == "incumbent":
                descriptor["annotations"] = None if version is None else {"version": version}

    return change


GATE_CHANGES = {
    # Results that do not follow from the tests.
    "no test at all": (predicate(passedTests=[], greenroom_outcomes=None), "contradicts itself.*without one"),
    "no list of tests": (lambda p: p["predicate"].pop("passedTests"), "contradicts itself"),
    "only warned": (
        predicate(passedTests=[], warnedTests=["a"], greenroom_outcomes=None),
        "contradicts itself.*without one that passed",
    ),
    "passed and failed": (
        predicate(failedTests=["Drift"], passedTests=["Performance"], greenroom_outcomes=None),
        "says PASSED with a test that failed",
    ),
    "in two lists": (predicate(warnedTests=["Drift"], greenroom_outcomes=None), "names a test twice"),
    "twice in a list": (predicate(passedTests=["a", "a"], greenroom_outcomes=None), "names a test twice"),
    "a test in no outcome": (
        lambda p: p["predicate"]["passedTests"].append("Other"),
        "do not follow from its outcomes",
    ),
    "an outcome in no list": (
        lambda p: p["predicate"]["greenroom_outcomes"].append(
            {"check": "Other", "status": "passed", "required": True}
        ),
        "do not follow from its outcomes",
    ),
    "a required outcome that failed": (
        lambda p: p["predicate"]["greenroom_outcomes"][0].update(status="failed"),
        "do not follow from its outcomes",
    ),
    "nothing required": (
        lambda p: [o.update(required=False) for o in p["predicate"]["greenroom_outcomes"]],
        "do not follow from its outcomes",
    ),
    "no outcome": (predicate(greenroom_outcomes=[]), "do not follow from its outcomes"),
    "an outcome twice": (
        lambda p: p["predicate"]["greenroom_outcomes"].append(p["predicate"]["greenroom_outcomes"][0]),
        "two outcomes of one check",
    ),
    "an unknown status": (
        lambda p: p["predicate"]["greenroom_outcomes"][0].update(status="ok"),
        "greenroom_outcomes.0.status is wrong",
    ),
    "a result that no gate gives": (predicate(result="WARNED"), "result is wrong"),
    "a blank test": (predicate(passedTests=[" "]), "passedTests.0 is wrong, is blank"),
    # Files.
    "a file twice": (subject("model.onnx", "f" * 64), "names the file 'model.onnx' twice"),
    "a file twice with one digest": (subject("model.onnx"), "names the file 'model.onnx' twice"),
    "a file and its folder": (subject("model.onnx/child"), "as a file and as a folder"),
    **{
        f"the path {path!r}": (subject(path), "subject.2.name is wrong|is no text")
        for path in (
            *("", " ", "/etc/passwd", "..", "../x", "a/../b", ".", "./a", "a/.", "a//b", "a/", "a\\b"),
            *("C:\\a", "a\0b", "a\nb", "a\u202eb", "a ", " a", "a/ b", "\ud800", "a/\u200b"),
        )
    },
    **{
        f"the digest {digest!r}": (subject("x", digest), "subject.2.digest.*is wrong|subject.2 is wrong")
        for digest in (
            *("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 63 + "\n", "0x" + "a" * 62, "\uff11" * 64),
            *(
                {},
                {"md5": "a" * 32},
                {"sha256": "a" * 64, "md5": "b" * 32},
                {"sha256": None},
                {"SHA256": "a" * 64},
            ),
        )
    },
    "a subject without a name": (lambda p: p["subject"][0].pop("name"), "subject.0.name"),
    "a subject without a digest": (lambda p: p["subject"][0].pop("digest"), "subject.0.digest"),
    # What it is about.
    "a version that is text": (predicate(greenroom_version="3"), "greenroom_version"),
    "a version with a point": (lambda p: p["predicate"].update(greenroom_version=3.0), "greenroom_version"),
    "a version that is true": (predicate(greenroom_version=True), "greenroom_version"),
    "a blank model": (predicate(greenroom_model="\t"), "greenroom_model is wrong, is blank"),
    "a blank source": (predicate(greenroom_source=""), "greenroom_source is wrong, is blank"),
    "a time that is a number": (predicate(greenroom_createdAt=1_700_000_000), "greenroom_createdAt"),
    "a time without a zone": (predicate(greenroom_createdAt="2026-11-24T12:00:00"), "greenroom_createdAt"),
    "an unknown kind of files": (predicate(greenroom_artifact="jar"), "greenroom_artifact"),
    # What it was made with.
    "a setting twice": (
        configuration("policy", {"sha256": "0" * 64}),
        "names the configuration 'policy' twice",
    ),
    "two incumbents": (
        configuration("incumbent", {"sha256": "0" * 64}, annotations={"version": "9"}),
        "names the configuration 'incumbent' twice",
    ),
    "a setting without a name": (configuration(" ", {"sha256": "0" * 64}), "is blank"),
    "a setting without a digest": (configuration("x", {}), r"configuration\.[0-9]+\.digest"),
    "a short digest": (configuration("x", {"sha256": "0"}), "not lower-case hexadecimal"),
    "an empty digest": (configuration("x", {"sha256": ""}), "not lower-case hexadecimal"),
    "a short commit": (configuration("x", {"gitCommit": "abc"}), "not lower-case hexadecimal"),
    "a digest that is none": (configuration("x", {"sha512": "zz"}), "not lower-case hexadecimal"),
    **{
        f"the incumbent {version!r}": (incumbent(version), "which version the incumbent is")
        for version in (None, "", "0", "-1", "2.0", "1e3", " 2", "02", "\u0662", "9" * 30)
    },
    "no predicate": (lambda p: p.update(predicate=[]), "predicate is wrong"),
}


@pytest.mark.parametrize("what", GATE_CHANGES)
def test_a_verdict_that_can_be_understood_in_two_ways_is_refused(settings: KeySettings, what: str) -> None:
    change, says = GATE_CHANGES[what]
    payload = gate_payload(settings)
    change(payload)
    refuse(signed(payload, settings), settings, says)


@pytest.mark.parametrize("field", ["reason", "operator"])
@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u00a0", "\u200b", "\u2060", None, 7, ["x"]])
def test_an_override_says_who_and_why_in_words(settings: KeySettings, field: str, blank: Any) -> None:
    payload = override_payload(settings)
    payload["predicate"][field] = blank
    refuse(signed(payload, settings, "operator"), settings, f"{field} is wrong")


def doubled(text: str, key: str, value: str) -> str:
    """The same JSON, with a key once more in front of the first one."""
    position = text.index(f'"{key}"')
    return f'{text[:position]}"{key}": {value}, {text[position:]}'


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_type", '"https://in-toto.io/Statement/v1"'),
        ("predicateType", '"x"'),
        ("predicate", "{}"),
        ("subject", "[]"),
        ("name", '"other"'),
        ("sha256", f'"{"f" * 64}"'),
        ("result", '"FAILED"'),
        ("failedTests", '["Drift"]'),
        ("greenroom_version", "4"),
        ("greenroom_createdAt", '"2020-01-01T00:00:00Z"'),
        ("version", '"9"'),
    ],
)
def test_a_key_twice_in_the_statement_is_refused(settings: KeySettings, key: str, value: str) -> None:
    text = doubled(json.dumps(gate_payload(settings)), key, value)
    refuse(signed(text, settings), settings, f"names the key '{key}' twice")


@pytest.mark.parametrize(
    ("key", "value"),
    [("payload", '"e30="'), ("payloadType", f'"{PAYLOAD_TYPE}"'), ("signatures", "[]"), ("sig", '"eA=="')],
)
def test_a_key_twice_in_the_envelope_is_refused(settings: KeySettings, key: str, value: str) -> None:
    text = doubled(signed(gate_payload(settings), settings), key, value)
    refuse(text, settings, f"names the key '{key}' twice")


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{}",
        b"[]",
        b"",
        b"NaN",
        b'{"a": 1} {}',
        b"[" * 60_000,
        b'"x"',
        b"1" * 5_000,
    ],
)
def test_a_payload_that_is_no_statement_is_refused(settings: KeySettings, payload: bytes) -> None:
    refuse(signed(payload, settings), settings, "The evidence")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_jsons_is_refused(settings: KeySettings, number: str) -> None:
    text = doubled(json.dumps(gate_payload(settings)), "result", '"x"').replace(
        '"result": "x"', f'"n": {number}'
    )
    refuse(signed(text, settings), settings, "is no number")


def test_base64_is_written_in_one_way(settings: KeySettings) -> None:
    raw = json.loads(signed(gate_payload(settings), settings))
    good = raw["signatures"][0]["sig"]
    for text in (
        good + "\n",
        " " + good,
        good[:10] + "!" + good[10:],
        good.rstrip("="),
        good + "=",
        "é" + good,
    ):
        changed = {**raw, "signatures": [{**raw["signatures"][0], "sig": text}]}
        refuse(json.dumps(changed), settings, "base64")
        refuse(json.dumps({**raw, "payload": raw["payload"] + text[-1:] + "\n"}), settings, "base64")
    # The last digit before the padding has bits that count for nothing.
    loose = good[:-3] + chr(ord(good[-3]) + 1) + "=="
    assert base64.b64decode(loose) == base64.b64decode(good)
    refuse(json.dumps({**raw, "signatures": [{**raw["signatures"][0], "sig": loose}]}), settings, "base64")


def test_base64_for_urls_is_dsses_too(settings: KeySettings) -> None:
    raw = json.loads(signed(gate_payload(settings), settings))
    raw["payload"] = raw["payload"].translate(str.maketrans("+/", "-_"))
    raw["signatures"][0]["sig"] = raw["signatures"][0]["sig"].translate(str.maketrans("+/", "-_"))
    assert believed(json.dumps(raw), settings).passed


@pytest.mark.parametrize("keyid", [None, ""])
def test_a_signature_that_names_no_key_counts_if_it_is_a_trusted_ones(
    settings: KeySettings, keyid: str | None
) -> None:
    raw = json.loads(signed(gate_payload(settings), settings))
    raw["signatures"][0].pop("keyid")
    if keyid is not None:
        raw["signatures"][0]["keyid"] = keyid
    evidence = believed(json.dumps(raw), settings)
    assert evidence.keyid == keys.trusted("gate", settings)[0].keyid
    assert signing_keyids(json.dumps(raw)) == frozenset()


def test_a_signature_that_names_no_key_and_is_nobodys_is_refused(settings: KeySettings) -> None:
    for role in ("gate", "operator"):
        raw = json.loads(signed(gate_payload(settings), settings, role))  # type: ignore[arg-type]
        raw["signatures"][0].pop("keyid")
        if role == "gate":
            raw["payload"] = base64.b64encode(json.dumps(gate_payload(settings)).encode() + b" ").decode()
        with pytest.raises(EvidenceWrongKeyError, match="a key it does not name"):
            believed(json.dumps(raw), settings)


def test_other_signatures_beside_a_trusted_one_do_no_harm_unless_they_lie(settings: KeySettings) -> None:
    raw = json.loads(signed(gate_payload(settings), settings))
    stranger = {"keyid": "f" * 64, "sig": "eA=="}
    assert believed(json.dumps({**raw, "signatures": [stranger, *raw["signatures"]]}), settings).passed
    second = keys.create("gate", settings, replace=True)
    lie = {"keyid": second.keyid, "sig": raw["signatures"][0]["sig"]}
    for order in ([lie, *raw["signatures"]], [*raw["signatures"], lie]):
        with pytest.raises(EvidenceForgedError):
            believed(json.dumps({**raw, "signatures": order}), settings)
    many = [{"keyid": f"{number}", "sig": "eA=="} for number in range(17)]
    refuse(json.dumps({**raw, "signatures": many}), settings, "signatures is wrong")


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.in-toto+json",
        "application/vnd.in-toto.test-result+json",
        "application/vnd.in-toto.v1+json",
    ],
)
def test_in_totos_payload_types_are_accepted(settings: KeySettings, kind: str) -> None:
    assert believed(signed(gate_payload(settings), settings, kind=kind), settings).passed
    raw = json.loads(signed(gate_payload(settings), settings, kind=kind))
    with pytest.raises((EvidenceForgedError, EvidenceUnreadableError)):  # the type is signed, too
        believed(json.dumps({**raw, "payloadType": "application/vnd.in-toto.other+json"}), settings)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/json",
        "application/vnd.in-toto+dsse",
        "application/vnd.in-toto.+json",
        "application/vnd.in-toto.a b+json",
        "APPLICATION/VND.IN-TOTO+JSON",
        "application/vnd.in-toto+json\n",
        "xapplication/vnd.in-toto+json",
        "application/vnd.in-toto+json; charset=utf-8",
    ],
)
def test_other_payload_types_are_refused(settings: KeySettings, kind: str) -> None:
    refuse(signed(gate_payload(settings), settings, kind=kind), settings, "The evidence holds")


def test_fields_that_nobody_knows_are_ignored(settings: KeySettings) -> None:
    """As in-toto asks of consumers: a producer may say more."""
    payload = gate_payload(settings)
    payload["more"] = payload["predicate"]["url"] = "https://example.org"
    payload["subject"][0]["mediaType"] = "text/plain"
    assert believed(signed(payload, settings), settings).passed


def test_evidence_of_the_old_form_is_read(settings: KeySettings) -> None:
    """From before outcomes were written down and each digest had the name of its algorithm."""
    payload = gate_payload(settings, outcome("Performance"), outcome("Segments", "error", required=False))
    old = payload["predicate"]
    del old["greenroom_outcomes"], old["greenroom_artifact"]
    old["warnedTests"] = ["Segments"]
    for descriptor in old["configuration"]:
        if "gitCommit" not in descriptor["digest"]:
            descriptor["digest"] = {"sha256": next(iter(descriptor["digest"].values()))}
    evidence = believed(signed(payload, settings), settings)
    assert (evidence.passed, evidence.artifact, evidence.outcomes) == (True, None, None)
    assert evidence.policy_digest == verdict("genre").policy_digest
    assert evidence.report_digest == "sha256:" + "d" * 64
    assert evidence.incumbent == Incumbent(version=2, digest="sha256:" + "b" * 64)


def test_every_outcome_is_in_what_is_signed(settings: KeySettings) -> None:
    statuses = ("passed", "failed", "error", "not_run", "missing")
    outcomes = [outcome(f"Must{status}", status) for status in statuses]  # type: ignore[arg-type]
    outcomes += [outcome(f"May{status}", status, required=False) for status in statuses]  # type: ignore[arg-type]
    payload = gate_payload(settings, *outcomes)["predicate"]
    assert payload["greenroom_outcomes"] == [
        {"check": o.check, "status": o.status, "required": o.required} for o in outcomes
    ]
    assert payload["passedTests"] == ["Mustpassed", "Maypassed"]
    assert payload["warnedTests"] == ["Mayfailed"]
    assert payload["failedTests"] == ["Mustfailed", "Musterror", "Mustnot_run", "Mustmissing"]
    evidence = believed(signed({**gate_payload(settings, *outcomes)}, settings), settings)
    assert not evidence.passed
    assert [(o.check, o.status) for o in evidence.outcomes or ()] == [(o.check, o.status) for o in outcomes]


def test_nothing_is_signed_that_would_not_be_read(settings: KeySettings) -> None:
    signer = keys.signer("gate", settings)
    about: dict[str, Any] = {"version": 3, "source": "models:/m-1", "files": FILES}
    about |= {"report_digest": "sha256:" + "d" * 64}
    for wrong in (
        {"report_digest": "sha256:1"},
        {"files": {}},
        {"files": {"../x": "a" * 64}},
        {"files": {"model.onnx": "A" * 64}},
        {"version": 0},
        {"source": ""},
    ):
        with pytest.raises(EvidenceUnreadableError):
            attest_verdict(verdict("genre"), **{**about, **wrong}, signer=signer)
    nobody = verdict("genre").model_copy(update={"incumbent": Incumbent(version=2, digest=None)})
    with pytest.raises(EvidenceUnreadableError):
        attest_verdict(nobody, **about, signer=signer)


def test_a_future_time_is_no_question_of_form(settings: KeySettings) -> None:
    payload = gate_payload(settings)
    payload["predicate"]["greenroom_createdAt"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert believed(signed(payload, settings), settings).passed


def test_no_text_makes_the_reader_fail_in_another_way(settings: KeySettings) -> None:
    """Every cut and every changed character is an `EvidenceError`, or means the same."""
    text = signed(gate_payload(settings), settings)
    whole = believed(text, settings)
    for position in range(0, len(text), 7):
        for changed in (
            text[:position],
            text[:position] + "\x00" + text[position + 1 :],
            text[:position] + "{" + text[position:],
        ):
            try:
                assert believed(changed, settings) == whole
            except EvidenceError:
                continue
