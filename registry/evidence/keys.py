"""Signing keys: Ed25519 in PEM files.

A private key is only where it is used: the gate's where gates run, an operator's on the operator's machine.
A verifier has a folder of public keys, `gate/KEYID.pem` and `operator/KEYID.pem`; there may be several
of each, so that a key can be rotated without anything that it signed becoming invalid. Those that were
retired are in `retired/gate/` and `retired/operator/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.digests import digest
from registry.errors import KeyFileError
from registry.files import write_atomically
from registry.settings import KeySettings

if TYPE_CHECKING:
    # At run time it is imported where it is used: it brings boto3, half a second for each command.
    from securesystemslib.signer import CryptoSigner, SSlibKey

Role = Literal["gate", "operator"]
ROLES: tuple[Role, ...] = ("gate", "operator")
_RETIRED = "retired"
# The first line of a retired key's file, before its PEM.
_RETIRED_AT = "Retired: "


@dataclass(frozen=True)
class TrustedKey:
    """A public key that is trusted for one role."""

    role: Role
    key: "SSlibKey"
    path: Path

    @property
    def keyid(self) -> str:
        """The key's id, as signatures name it: 64 hexadecimal digits."""
        return str(self.key.keyid)


@dataclass(frozen=True)
class RetiredKey(TrustedKey):
    """A public key that was trusted for a role once. It is kept, to tell its signatures from forged ones."""

    retired_at: datetime


@dataclass(frozen=True)
class KeyRing:
    """The keys that are trusted and those that were, by role, as they are at one moment."""

    trusted: Mapping[Role, Sequence[TrustedKey]]
    retired: Mapping[Role, Sequence[RetiredKey]]

    def digest(self) -> str:
        """Return a digest that is another one when a key is."""
        rings = (("trusted", self.trusted), ("retired", self.retired))
        ids = [
            f"{ring} {key.role} {key.keyid}" for ring, keys in rings for r in ROLES for key in keys.get(r, ())
        ]
        return digest("\n".join(sorted(ids)).encode())

    def retired_key(self, keyid: str) -> RetiredKey | None:
        """Return the retired key with an id, None if there is none."""
        return next((key for keys in self.retired.values() for key in keys if key.keyid == keyid), None)


def private_path(role: Role, settings: KeySettings) -> Path:
    """Return where the private key of a role is kept."""
    return settings.gate_key_path if role == "gate" else settings.operator_key_path


def create(role: Role, settings: KeySettings, *, replace: bool = False) -> TrustedKey:
    """Make a key pair: the private key for its owner alone (0600), the public one among the trusted.

    With `replace` it takes the place of the private key there is, whose public key stays trusted: that is a
    rotation. Without, `KeyFileError` if there is one.
    """
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - see above

    path = private_path(role, settings)
    if path.exists() and not replace:
        raise KeyFileError(
            f"There is a {role} key already, {path}. `greenroom keys rotate {role}` renews it."
        )
    if not path.exists() and replace:
        raise KeyFileError(f"There is no {role} key at {path} to rotate. `greenroom keys create {role}`.")
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signer = CryptoSigner(private)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The public key first: a key that nobody trusts yet would sign evidence that is refused.
    public_path = _trusted_folder(role, settings) / f"{signer.public_key.keyid}.pem"
    _write(public_path, public, 0o644)
    _write(path, signer.private_bytes, 0o600)
    return TrustedKey(role, signer.public_key, public_path)


def retire(keyid: str, settings: KeySettings) -> TrustedKey:
    """Trust a key no longer, named by the start of its id; `KeyFileError` if no or several keys have it.

    Its public half moves to `retired/`, with the time: what it signed counts as signed by nobody, but is told
    from what nobody ever signed.
    """
    matches = [key for keys in all_trusted(settings).values() for key in keys if key.keyid.startswith(keyid)]
    if len(matches) != 1:
        problem = "No trusted key has" if not matches else "Several trusted keys have"
        raise KeyFileError(f"{problem} an id that starts with {keyid!r}; `greenroom keys list` shows them.")
    key = matches[0]
    folder = settings.trusted_keys_path / _RETIRED / key.role
    now = datetime.now(UTC).isoformat()
    _write(folder / key.path.name, f"{_RETIRED_AT}{now}\n".encode() + key.path.read_bytes(), 0o644)
    key.path.unlink()
    return key


def trusted(role: Role, settings: KeySettings) -> list[TrustedKey]:
    """Return the keys that are trusted for a role; read anew each time, so that a rotation counts at once."""
    folder = _trusted_folder(role, settings)
    return [TrustedKey(role, _public(path), path) for path in sorted(folder.glob("*.pem"))]


def all_trusted(settings: KeySettings) -> dict[Role, list[TrustedKey]]:
    """Return the keys that are trusted, by role."""
    return {role: trusted(role, settings) for role in ROLES}


def key_ring(settings: KeySettings) -> KeyRing:
    """Return all keys that are trusted or retired."""
    retired = {
        role: [
            RetiredKey(role, _public(path), path, _retired_at(path))
            for path in sorted((settings.trusted_keys_path / _RETIRED / role).glob("*.pem"))
        ]
        for role in ROLES
    }
    return KeyRing(all_trusted(settings), retired)


def signer(role: Role, settings: KeySettings) -> "CryptoSigner":
    """Return what signs for a role; `KeyFileError` says how to come by the key."""
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415 - see above

    path = private_path(role, settings)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"There is no {role} key to sign with ({path}: {error.strerror}). Make one with "
            f"`greenroom keys create {role}`, or name its file in GREENROOM_{role.upper()}_KEY."
        ) from error
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is not an unencrypted private key in PEM form.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key. Make one with `greenroom keys create {role}`.")
    return CryptoSigner(private)


def _public(path: Path) -> "SSlibKey":
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415 - see above

    try:
        public = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} among the trusted keys is not a public key in PEM form.") from error
    if not isinstance(public, Ed25519PublicKey):
        raise KeyFileError(f"{path} among the trusted keys is not an Ed25519 key.")
    return SSlibKey.from_crypto(public)


def _retired_at(path: Path) -> datetime:
    first = path.read_text("utf-8", errors="replace").partition("\n")[0]
    try:
        return datetime.fromisoformat(first.removeprefix(_RETIRED_AT)).astimezone(UTC)
    except ValueError as error:
        raise KeyFileError(f"{path} among the retired keys does not say since when it is retired.") from error


def _trusted_folder(role: Role, settings: KeySettings) -> Path:
    return settings.trusted_keys_path / role


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a key. Folders of private keys are for their owner, those of public ones for everybody."""
    folder = 0o755 if mode & 0o044 else 0o700
    for parent in (path.parent.parent, path.parent):
        parent.mkdir(parents=True, exist_ok=True, mode=folder)
    write_atomically(path, content, mode)
