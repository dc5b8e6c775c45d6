"""A version's signature as OpenSSF's Model Signing (OMS) 1.0 has it: for `model_signing verify key`.

It says that the gate let exactly these files pass; against which version in Production and when, the
evidence says. The tool knows elliptic curves and no Ed25519, so the key is derived from the gate's: whoever
has that has this one, and nobody has to keep a second secret. The evidence names the public half by digest.

Format: https://github.com/ossf/model-signing-spec, a Sigstore bundle 0.3 with one DSSE envelope, whose
payload is an in-toto Statement with the predicate https://model_signing/signature/v1.0.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from registry.errors import KeyFileError
from registry.evidence.statement import PAYLOAD_TYPE, STATEMENT_TYPE

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.signer import CryptoSigner

PREDICATE = "https://model_signing/signature/v1.0"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# What the derived key is for: another purpose would have another key.
_PURPOSE = b"greenroom model signing, P-256, 1"
# The order of the curve's group (SEC 2, section 2.4.2).
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def public_pem(signer: "CryptoSigner") -> bytes:
    """Return the public key, PEM, that signatures of `sign` are checked with; `signer` is the gate's."""
    return _private(signer).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(name: str, files: Mapping[str, str], signer: "CryptoSigner") -> bytes:
    """Return the signature of a version's files, JSON; `files` maps each path to its SHA-256.

    `name` is for people. `signer` is the gate's.
    """
    resources = [
        {"name": path, "algorithm": "sha256", "digest": hexdigest}
        for path, hexdigest in sorted(files.items())
    ]
    root = sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources))
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": resources,
        },
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    from securesystemslib.dsse import Envelope  # noqa: PLC0415 - see above

    signature = _private(signer).sign(Envelope(payload, PAYLOAD_TYPE, {}).pae(), ECDSA(SHA256()))
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": sha256(public_pem(signer)).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode()


def _private(signer: "CryptoSigner") -> EllipticCurvePrivateKey:
    """Return the key that is derived from a gate's."""
    private = load_pem_private_key(signer.private_bytes, password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError("The gate's key is no Ed25519 key. Make one with `greenroom keys create gate`.")
    # 16 bytes more than the order has, so that no number is likelier than another.
    secret = HKDF(SHA256(), length=48, salt=None, info=_PURPOSE).derive(private.private_bytes_raw())
    return derive_private_key(int.from_bytes(secret) % (_ORDER - 1) + 1, SECP256R1())
