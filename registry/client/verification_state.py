"""What `greenroom verify` remembers from one run to the next, in a small file in the home.

It says how far the audit was walked and what its rows said. It is never trusted for what changed since: the
chain goes on from the remembered head or the run says that it does not, a model with a new row is read anew
as a whole, and after a change of keys every model is. Files are compared in every run.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.audit import AuditLink
from registry.client.audit_replay import ModelRecord
from registry.files import write_atomically
from registry.settings import home

# Another number when rows are judged by other rules: what an older version remembers is not believed.
_FORMAT = 1


class RegistryState(BaseModel):
    """What was walked of one tracking server's audit."""

    model_config = ConfigDict(extra="forbid")

    head: AuditLink | None = None
    keys: str = Field(default="", description="Digest of the keys that were trusted and retired.")
    models: dict[str, ModelRecord] = Field(default_factory=dict)
    unwalked: list[str] = Field(default_factory=list, description="Models whose rows could not be read.")


class VerificationState(BaseModel):
    """What was walked, by the tracking server's address."""

    model_config = ConfigDict(extra="forbid")

    format: int = _FORMAT
    registries: dict[str, RegistryState] = Field(default_factory=dict)


def state_path() -> Path:
    """Return where the file is."""
    return home() / "verify.json"


def load(url: str) -> RegistryState:
    """Return what is remembered of a tracking server; nothing if there is no file, or one of another form."""
    return _load().registries.get(url, RegistryState())


def save(url: str, state: RegistryState) -> None:
    """Remember what was walked of a tracking server; raises `OSError`."""
    whole = _load()
    whole.registries[url] = state
    state_path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(state_path(), whole.model_dump_json().encode(), 0o600)


def _load() -> VerificationState:
    try:
        state = VerificationState.model_validate_json(state_path().read_bytes())
    except (OSError, ValidationError):
        return VerificationState()
    return state if state.format == _FORMAT else VerificationState()
