"""Why an upload is refused, in words its sender can act on."""

from collections.abc import Mapping, Sequence

from serving.errors import Detail


class UploadError(Exception):
    """The upload is refused and nothing was stored. `code` is stable, for programs."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.details = tuple(details) or (Detail("body", message),)
        self.headers = dict(headers or {})


class TooLargeError(UploadError):
    """The upload exceeds a limit."""

    def __init__(self, message: str, code: str = "dataset_too_large") -> None:
        super().__init__(413, code, message)


class FormatError(UploadError):
    """The content is no CSV of the dataset."""

    def __init__(self, message: str, code: str = "invalid_csv", details: Sequence[Detail] = ()) -> None:
        super().__init__(422, code, message, details)


def no_room(error: OSError) -> UploadError:
    """Return the error for a disk of the predictor that does not take a file."""
    return UploadError(
        503,
        "no_room",
        f"The predictor's disk does not take the upload ({error.strerror or type(error).__name__}); nothing "
        "was stored. The predictor's operator must check serving-uploads in GREENROOM_HOME.",
    )
