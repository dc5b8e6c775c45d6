"""Ways by forged evidence: envelopes that the gate's key did not sign, or signed about something else."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from bench.attack import honest
from bench.attack.target import LOCAL, LOGINS, Answer, Target
from bench.attack.ways import Kind, Way
from registry.client.registry import Registry
from registry.names import EVIDENCE, OVERRIDE

API = "/api/2.0/mlflow/model-versions/set-tag"
Envelope = dict[str, Any]
# Makes an envelope from a genuine one (about version 2, PASSED) and one of the attacker's own about version 3.
Forge = Callable[[Envelope, Envelope], Any]


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _payload(envelope: Envelope) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return payload


def _with(envelope: Envelope, **changed: Any) -> Envelope:
    return {**envelope, **changed}


def _signature(envelope: Envelope, **changed: Any) -> Envelope:
    return _with(envelope, signatures=[{**envelope["signatures"][0], **changed}])


def _changed(change: Callable[[dict[str, Any]], Any]) -> Forge:
    """Change what a genuine envelope says, and leave its signature."""

    def forge(genuine: Envelope, _: Envelope) -> Envelope:
        payload = _payload(genuine)
        change(payload)
        return _with(genuine, payload=_b64(json.dumps(payload, separators=(",", ":")).encode()))

    return forge


def _flipped(place: int) -> Forge:
    def forge(genuine: Envelope, _: Envelope) -> Envelope:
        raw = bytearray(base64.b64decode(genuine["signatures"][0]["sig"]))
        raw[place] ^= 1
        return _signature(genuine, sig=_b64(bytes(raw)))

    return forge


def _flipped_payload(share: float) -> Forge:
    def forge(genuine: Envelope, _: Envelope) -> Envelope:
        raw = bytearray(base64.b64decode(genuine["payload"]))
        raw[int(share * (len(raw) - 1))] ^= 1
        return _with(genuine, payload=_b64(bytes(raw)))

    return forge


def _predicate(**changed: Any) -> Forge:
    return _changed(lambda payload: payload["predicate"].update(changed))


def _about_three(payload: dict[str, Any]) -> None:
    payload["predicate"]["greenroom_version"] = 3


def _text(forge: Callable[[str], str]) -> Forge:
    """Write a genuine envelope in another way."""
    return lambda genuine, _: forge(json.dumps(genuine))


def _genuine_sig(genuine: Envelope) -> str:
    return str(genuine["signatures"][0]["sig"])


def _genuine_id(genuine: Envelope) -> str:
    return str(genuine["signatures"][0]["keyid"])


_TYPES = (
    "",
    "text/plain",
    "application/json",
    "application/vnd.in-toto+xml",
    "application/vnd.in-toto+json ",
    "APPLICATION/VND.IN-TOTO+JSON",
    "application/vnd.in-toto.provenance+json",
    None,
    7,
)
FORGERIES: dict[str, Forge] = {
    "of another version, as it is": lambda g, _: g,
    "signed with the attacker's key": lambda _, o: o,
    "the attacker's key under the gate's id": lambda g, o: _signature(o, keyid=_genuine_id(g)),
    "the attacker's key under no id": lambda _, o: _signature(o, keyid=""),
    "the attacker's key without an id": lambda _, o: _with(o, signatures=[{"sig": _genuine_sig(o)}]),
    "a genuine signature under the attacker's payload": lambda g, o: _with(o, signatures=g["signatures"]),
    "a genuine signature without an id under it": lambda g, o: _with(
        o, signatures=[{"sig": _genuine_sig(g)}]
    ),
    "a genuine payload under the attacker's signature": lambda g, o: _with(g, signatures=o["signatures"]),
    "both signatures": lambda g, o: _with(o, signatures=[*g["signatures"], *o["signatures"]]),
    "both signatures, the other way": lambda g, o: _with(o, signatures=[*o["signatures"], *g["signatures"]]),
    "a thousand signatures": lambda _, o: _with(o, signatures=o["signatures"] * 1000),
    "no signature": lambda _, o: _with(o, signatures=[]),
    "no signatures at all": lambda _, o: {k: v for k, v in o.items() if k != "signatures"},
    "signatures that are an object": lambda g, o: _with(o, signatures=g["signatures"][0]),
    "signatures that are null": lambda _, o: _with(o, signatures=None),
    "an empty signature": lambda g, _: _signature(g, sig=""),
    "a signature of zeros": lambda g, o: _signature(o, keyid=_genuine_id(g), sig=_b64(bytes(64))),
    "a short signature": lambda g, o: _signature(o, keyid=_genuine_id(g), sig=_b64(bytes(63))),
    "a long signature": lambda g, _: _signature(g, sig=_b64(base64.b64decode(_genuine_sig(g)) + b"x")),
    "the identity for a key": lambda _, o: _signature(o, keyid="0" * 64, sig=_b64(b"\1" + bytes(63))),
    "a signature in hexadecimal": lambda g, _: _signature(g, sig=base64.b64decode(_genuine_sig(g)).hex()),
    "a signature that is null": lambda g, _: _signature(g, sig=None),
    "a signature that is a list": lambda g, _: _signature(g, sig=[_genuine_sig(g)]),
    "a signature in another base64": lambda g, _: _signature(g, sig=_genuine_sig(g) + "\n"),
    **{f"a bit of the signature, {place}": _flipped(place) for place in (0, 7, 31, 32, 33, 48, 63)},
    **{
        f"a bit of the payload, at {share}": _flipped_payload(share)
        for share in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    },
    "the version": _changed(_about_three),
    "the version as text": _predicate(greenroom_version="3"),
    "the version as a list": _predicate(greenroom_version=[3]),
    "the model": _predicate(greenroom_model="genre"),
    "the source": _predicate(greenroom_source="models:/m-0"),
    "the result": _predicate(result="PASSED", failedTests=[]),
    "no failed test": _predicate(failedTests=[]),
    "the time, ahead": _predicate(greenroom_createdAt=(datetime.now(UTC) + timedelta(days=1)).isoformat()),
    "the time, long ago": _predicate(greenroom_createdAt="1970-01-01T00:00:00+00:00"),
    "the time as a number": _predicate(greenroom_createdAt=0),
    "the kind of files": _predicate(greenroom_artifact="pyfunc"),
    "no outcomes": _predicate(greenroom_outcomes=None),
    "a file's digest": _changed(lambda p: p["subject"][0]["digest"].update(sha256="0" * 64)),
    "a file's name": _changed(lambda p: p["subject"][0].update(name="x")),
    "a file more": _changed(lambda p: p["subject"].append({"name": "x", "digest": {"sha256": "0" * 64}})),
    "a file less": _changed(lambda p: p["subject"].pop()),
    "no file": _changed(lambda p: p.update(subject=[])),
    "files in another order": _changed(lambda p: p["subject"].reverse()),
    "the incumbent away": _changed(lambda p: p["predicate"]["configuration"].clear()),
    "the policy": _changed(
        lambda p: p["predicate"]["configuration"][0]["digest"].update(greenroomPolicy1="1" * 64)
    ),
    "the predicate's type": _changed(
        lambda p: p.update(predicateType="urn:greenroom:attestation:override:v0.1")
    ),
    "the statement's type": _changed(lambda p: p.update(_type="https://in-toto.io/Statement/v0.1")),
    "a field of no meaning": _predicate(note="x"),
    **{f"the payload's type {kind!r}": (lambda g, _, k=kind: _with(g, payloadType=k)) for kind in _TYPES},  # type: ignore[misc]
    "no payload's type": lambda g, _: {k: v for k, v in g.items() if k != "payloadType"},
    "a payload twice": _text(lambda t: '{"payload": "e30=", ' + t[1:]),
    "a payload twice, the other way": _text(lambda t: t[:-1] + ', "payload": "e30="}'),
    "signatures twice": _text(lambda t: t[:-1] + ', "signatures": []}'),
    "a type twice": _text(lambda t: '{"payloadType": "x", ' + t[1:]),
    "a payload that is no base64": lambda g, _: _with(g, payload="!"),
    "a payload that is an object": lambda g, _: _with(g, payload=_payload(g)),
    "a payload that is empty": lambda g, _: _with(g, payload=""),
    "a payload with a line feed": lambda g, _: _with(g, payload=g["payload"] + "\n"),
    "a payload without padding": lambda g, _: _with(g, payload=g["payload"].rstrip("=") + "A"),
    "a payload of nonsense": lambda g, _: _with(g, payload=_b64(b"\xff\xfe")),
    "a payload of brackets": lambda g, _: _with(g, payload=_b64(b"[" * 20_000)),
    "another envelope in it": lambda g, _: _with(g, payload=_b64(json.dumps(g).encode())),
    "a JWS": _text(lambda _: "eyJhbGciOiJub25lIn0.e30."),
    "a list of envelopes": lambda g, o: [g, o],
    "JSON twice": _text(lambda t: t + t),
    "a byte order mark": _text(lambda t: "\ufeff" + t),
    "no JSON": _text(lambda _: "PASSED"),
    "a comment": _text(lambda t: "/**/" + t),
    "NaN": _text(lambda t: t[:-1] + ', "x": NaN}'),
}


def _envelope_ways() -> Iterator[Way]:
    for what in FORGERIES:
        for key in (EVIDENCE, OVERRIDE):
            yield Way("envelopes", LOCAL, f"{what}, {key}", _putting(what, key))
    for account in LOGINS:
        for what in ("of another version, as it is", "signed with the attacker's key", "the version"):
            yield Way("envelopes", account, what, _putting(what, EVIDENCE, account))


def _putting(what: str, key: str, account: str = LOCAL) -> Callable[[Target], Answer]:
    def act(target: Target) -> Answer:
        genuine, own = json.loads(target.places["evidence2"]), _own(target)
        forged = FORGERIES[what](genuine, own)
        value = forged if isinstance(forged, str) else json.dumps(forged)
        body = {"name": target.model, "version": "3", "key": key, "value": value}
        return target.mlflow(account, "POST", API, body)

    return act


def _own(target: Target) -> Envelope:
    """An envelope about version 3 as the gate would write it, signed with a key of the attacker's."""
    if "own" not in target.places:
        version = Registry(target.client).version(target.model, 3)
        signer = CryptoSigner(Ed25519PrivateKey.generate())
        target.places["own"] = honest.envelope(target, version, signer=signer)
    own: Envelope = json.loads(target.places["own"])
    return own


KINDS = (
    Kind("envelopes", "forged evidence: signatures, keys, files, times, types, writings", _envelope_ways),
)
