"""What the gate raises when it cannot make a verdict. A refusal is a verdict, not an error."""

from registry.errors import RegistryError, RegistryUnavailableError


class GateUnavailableError(RegistryUnavailableError):
    """The environment of the checks is not there or broken, so the gate could not tell.

    It is a `RegistryUnavailableError` so that the command line ends with 2, not with 1 for `refused`.
    """


class DataError(Exception):
    """The table is not what its declaration says; the message says what to do."""


class GateInputError(RegistryError):
    """The rows or the model are not those that the declaration describes."""
