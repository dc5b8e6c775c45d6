"""The gate's private key on a CI machine, which gets it as a secret in the environment."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from registry.errors import KeyFileError
from registry.evidence import keys
from registry.settings import KeySettings

VARIABLE = "GREENROOM_GATE_KEY_PEM"


def install() -> bool:
    """Write the key of GREENROOM_GATE_KEY_PEM, and its public half, to the paths of the settings.

    Returns whether there was a key. Removes the variable, so that later processes do not inherit it. Raises
    `KeyFileError` if it is no key of the gate's kind, or if another key is there already.
    """
    pem = os.environ.pop(VARIABLE, "").strip()
    if not pem:
        return False
    settings = KeySettings()
    path = settings.gate_key_path
    content = f"{pem}\n".encode()
    if path.exists() and path.read_bytes() != content:
        raise KeyFileError(f"{path} is another key than that of {VARIABLE}. Unset one of the two.")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    try:
        signer = keys.signer("gate", settings)
    except KeyFileError as error:
        path.unlink()
        raise KeyFileError(f"{VARIABLE} is no Ed25519 private key in PEM form, unencrypted.") from error
    private = load_pem_private_key(content, password=None)
    trusted: Path = settings.trusted_keys_path / "gate" / f"{signer.public_key.keyid}.pem"
    trusted.parent.mkdir(parents=True, exist_ok=True)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    trusted.write_bytes(public)
    return True
