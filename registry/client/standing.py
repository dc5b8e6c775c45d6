"""What versions in a stage stand on: evidence that a key signed which is trusted now, or one that is not.

Needs the tags of versions and the keys of this machine, and asks nobody: cheap enough for every look at a
registry.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from registry.client.registry import Version, genuine_evidence
from registry.errors import EvidenceError, EvidenceWrongKeyError
from registry.evidence.attestation import signing_keyids
from registry.evidence.keys import KeyRing, RetiredKey, key_ring
from registry.names import EVIDENCE, GATED, OVERRIDE
from registry.settings import KeySettings


@dataclass(frozen=True)
class Standing:
    """A version in a stage whose evidence does not speak for it any more, and why.

    `retired` is the key that signed it, if that is one which was retired.
    """

    version: Version
    error: EvidenceError
    retired: RetiredKey | None = None

    def __str__(self) -> str:
        if self.retired is None:
            return f"{self.version} in {self.version.stage}: {self.error}"
        return (
            f"{self.version} in {self.version.stage} stands on the {self.retired.role} key "
            f"{self.retired.keyid[:12]}, retired on {self.retired.retired_at:%Y-%m-%d}. `greenroom keys "
            "reissue` lets the gate judge it again and sign anew; it stays in its stage."
        )


def without_standing(versions: Iterable[Version], settings: KeySettings) -> list[Standing]:
    """Return the versions in a stage whose evidence does not speak for them, in the order given."""
    ring = key_ring(settings)
    return [
        standing
        for version in versions
        if version.stage in GATED and (standing := _standing(version, settings, ring))
    ]


def _standing(version: Version, settings: KeySettings, ring: KeyRing) -> Standing | None:
    try:
        genuine_evidence(version, settings)
    except EvidenceWrongKeyError as error:
        envelopes = [version.tags[tag] for tag in (EVIDENCE, OVERRIDE) if tag in version.tags]
        keyids = [keyid for envelope in envelopes for keyid in sorted(signing_keyids(envelope))]
        retired = next((key for keyid in keyids if (key := ring.retired_key(keyid))), None)
        return Standing(version, error, retired)
    except EvidenceError as error:
        return Standing(version, error)
    return None
