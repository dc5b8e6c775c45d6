"""One exception for each way the registry says no; each message says what to do next."""

from typing import ClassVar


class RegistryError(Exception):
    """Base of what the registry room raises."""


class RegistryUnavailableError(RegistryError):
    """The tracking server did not answer, or answered with an error of its own. Trying again may help.

    `message` may be told to anybody; `detail` is the server's own words, which may name what is behind it.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(f"{message} {detail}".rstrip())
        self.message = message


class RegistryRefusedError(RegistryError):
    """The tracking server refused the request; trying again will not help."""


class NotFoundError(RegistryError):
    """There is no such model, version or artifact."""


class TooLargeError(RegistryError):
    """The artifact has more bytes than the caller wants to hold."""


class BadTransitionError(RegistryError):
    """The version may not move from its stage to the one that was asked for."""


class ModelFormatError(RegistryError):
    """The file is not a model this project can serve."""


class StorageUnavailableError(RegistryError):
    """The S3 server did not take a request. Trying again may help."""


class StorageMissingError(RegistryError):
    """There is no such object in the bucket."""


class DatasetMissingError(RegistryError):
    """No dataset was uploaded under that id."""


class DatasetDamagedError(RegistryError):
    """The stored dataset is not what its id says."""


class KeyFileError(RegistryError):
    """A signing key is missing, exists already, or cannot be read."""


class EvidenceError(RegistryError):
    """The evidence does not allow what was asked for. `code` is stable, for programs and the audit."""

    code: ClassVar[str] = "evidence"


class EvidenceMissingError(EvidenceError):
    """The version has no evidence at all."""

    code = "missing"


class EvidenceUnreadableError(EvidenceError):
    """It is no DSSE envelope with an in-toto Statement of a kind that is known here."""

    code = "unreadable"


class EvidenceUnsignedError(EvidenceError):
    """The envelope bears no signature."""

    code = "unsigned"


class EvidenceWrongKeyError(EvidenceError):
    """It is signed, but with no key that is trusted for this."""

    code = "wrong-key"


class EvidenceForgedError(EvidenceError):
    """It names a trusted key, and the signature is not that key's signature of this content."""

    code = "forged"


class EvidenceForeignError(EvidenceError):
    """It is about another model version."""

    code = "foreign"


class EvidenceFailedError(EvidenceError):
    """It says that the gate refused the version."""

    code = "failed"


class EvidenceStaleError(EvidenceError):
    """It is too old, or was made under another policy."""

    code = "stale"


class EvidenceIncumbentError(EvidenceError):
    """It compares the version with another one than is in Production now."""

    code = "incumbent"


class EvidenceUsedError(EvidenceError):
    """It has taken the version to Production once already."""

    code = "replayed"


class EvidenceUnapprovedError(EvidenceError):
    """The gate judged it on rows that somebody brought, and no operator approved those for Production."""

    code = "unapproved-data"


class EvidenceBytesError(EvidenceError):
    """The version holds other files than those the evidence is about."""

    code = "bytes"


class EvidenceFilesError(EvidenceBytesError):
    """The version holds a file that no served version may hold, or lacks one that it must."""

    code = "files"
