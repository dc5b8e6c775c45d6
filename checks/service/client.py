"""Asks the gate's service for a verdict. Flows, the command line and CI ask; none of them has the key."""

import httpx

from checks.errors import GateInputError, GateUnavailableError
from checks.settings import ChecksSettings
from registry.errors import EvidenceBytesError, NotFoundError, RegistryRefusedError
from registry.evidence.verdict import Verdict
from registry.settings import RegistrySettings

# Seconds that a verdict may take: one under way before it, and the longest run of DeepChecks.
_TIMEOUT = 900.0
_KINDS: dict[str, type[Exception]] = {
    "not-found": NotFoundError,
    "input": GateInputError,
    "bytes": EvidenceBytesError,
    "refused": RegistryRefusedError,
}


def request_verdict(model: str, version: int) -> Verdict:
    """Have the gate judge a version, store its reports and sign; return the verdict, a refusal as well.

    Raises `NotFoundError` for an unknown version, `GateInputError` when rows or model are not those that
    were declared, `EvidenceBytesError` when the files were exchanged, `RegistryRefusedError` when the login
    may not write to the version, and `GateUnavailableError` when the gate does not answer or cannot judge.
    """
    settings, registry = ChecksSettings(), RegistrySettings()
    auth = None
    if registry.tracking_username:
        auth = httpx.BasicAuth(registry.tracking_username, registry.tracking_password.get_secret_value())
    address = settings.gate_address
    try:
        answer = httpx.post(
            f"{address}/verdicts",
            json={"model": model, "version": version},
            auth=auth,
            timeout=httpx.Timeout(_TIMEOUT, connect=10),
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise GateUnavailableError(
            f"The gate at {address} does not answer ({type(error).__name__}). Start the local stack with "
            "`make up`, or set GREENROOM_GATE_URL."
        ) from error
    if answer.is_success:
        try:
            return Verdict.model_validate_json(answer.content)
        except ValueError as error:
            raise GateUnavailableError(
                f"{address} does not answer like a gate. Check GREENROOM_GATE_URL."
            ) from error
    raise _error(answer, address)


def _error(answer: httpx.Response, address: str) -> Exception:
    try:
        body = answer.json()
        kind, detail = str(body["kind"]), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        return GateUnavailableError(
            f"{address} does not answer like a gate ({answer.status_code}). Check GREENROOM_GATE_URL."
        )
    return _KINDS.get(kind, GateUnavailableError)(detail)
