"""One exception for each way the registry says no; each message says what to do next."""


class RegistryError(Exception):
    """Base of what the registry room raises."""


class RegistryUnavailableError(RegistryError):
    """The tracking server did not answer, or answered with an error of its own. Trying again may help."""


class RegistryRefusedError(RegistryError):
    """The tracking server refused the request; trying again will not help."""


class NotFoundError(RegistryError):
    """There is no such model, version or artifact."""


class GateNotPassedError(RegistryError):
    """The version has no passing verdict for exactly these bytes, so it may not be promoted."""


class BadTransitionError(RegistryError):
    """The version may not move from its stage to the one that was asked for."""


class ModelFormatError(RegistryError):
    """The file is not a model this project can serve."""
