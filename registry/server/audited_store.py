"""MLflow's SQL registry store, audited: one transaction for a change and its row, and a row for each refusal.

The rows of changes are written by triggers (schema.sql); what is here tells them who does what. What may
change is for the guard on top (guarded_store.py).
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry import audit
from registry.errors import EvidenceError
from registry.server import database
from registry.server.caller import Caller
from registry.server.settings import GuardSettings

_log = logging.getLogger(__name__)
# The session of the guarded transaction that is under way in this thread.
_current: ContextVar[Session | None] = ContextVar("greenroom_session", default=None)


class RefusedError(MlflowException):
    """403: the guard refuses. `code` says of which kind the refusal is."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(f"Greenroom refused: {message}", error_code=PERMISSION_DENIED)
        self.code, self.reason = code, message


class AuditedStore(SqlAlchemyStore):
    """MLflow's store, whose methods can be called inside a transaction of ours."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        super().__init__(database.server_url(settings))
        database.require_installed(self.engine)
        self._own_sessions: Callable[..., AbstractContextManager[Session]] = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._joined

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points at, or a page of the audit (registry/audit.py)."""
        kind, _, after = alias.removeprefix(audit.ALIAS_PREFIX).partition("-")
        if not alias.startswith(audit.ALIAS_PREFIX):
            return super().get_model_version_by_alias(name, alias)
        if kind not in (audit.HISTORY, audit.CHAIN) or not after.isdecimal():
            raise MlflowException(f"{alias!r} is no page of the audit.", error_code=INVALID_PARAMETER_VALUE)
        with self._own_sessions() as session:
            page = _page(session, name, kind, int(after[:18]))
        tags = [ModelVersionTag(str(number), content) for number, content in page]
        return ModelVersion(name, "0", 0, 0, tags=tags)

    @contextmanager
    def _joined(self, read_only: bool = True) -> Iterator[Session]:
        """MLflow's own methods, called inside a guarded transaction, are part of it."""
        session = _current.get()
        if session is not None:
            yield session
            return
        with self._own_sessions(read_only=read_only) as session:
            yield session

    @contextmanager
    def _transaction(self, name: str, who: Caller, context: dict[str, Any]) -> Iterator[Session]:
        """One transaction, alone with this model, that says to the audit's triggers who does what."""
        with self._own_sessions(read_only=False) as session:
            self._get_query(session, SqlRegisteredModel).filter_by(name=name).with_for_update().all()
            session.execute(
                text("SELECT set_config('greenroom.context', :context, true)"),
                {"context": json.dumps({**context, **who_fields(who)})},
            )
            token = _current.set(session)
            try:
                yield session
            except EvidenceError as error:
                # Here already: MLflow's session turns what it does not know into a 500.
                raise RefusedError(str(error), error.code) from error
            finally:
                _current.reset(token)

    @contextmanager
    def _refusals(
        self, who: Caller, name: str, number: int | None = None, more: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """Turn evidence errors into refusals, and write each refusal down in a transaction of its own."""
        try:
            try:
                yield
            except EvidenceError as error:
                raise RefusedError(str(error), error.code) from error
        except RefusedError as refusal:
            entry = {
                "action": "refused",
                "model": name,
                "code": refusal.code,
                "message": refusal.reason,
                **who_fields(who),
            }
            wanted = {"version": number, "changed": {"wanted": more} if more else None}
            try:
                with self._own_sessions(read_only=False) as session:
                    self._record(session, {**entry, **wanted})
            except MlflowException:
                # It stays refused, also without its row in the audit.
                _log.exception("A refusal could not be written to the audit: %s", refusal.code)
            raise

    def _record(self, session: Session, entry: dict[str, Any]) -> None:
        # PostgreSQL's JSON holds no NUL and no half of a surrogate pair.
        clean = {
            k: v.replace("\0", "").encode("utf-8", "replace").decode() if isinstance(v, str) else v
            for k, v in entry.items()
        }
        session.execute(text("SELECT greenroom.record(CAST(:e AS jsonb))"), {"e": json.dumps(clean)})


def who_fields(who: Caller) -> dict[str, Any]:
    """Return what a row says of the caller."""
    return {"actor": who.actor, "proven": who.proven, "address": who.address, "reason": who.reason}


def rows_of(session: Session, name: str) -> tuple[audit.AuditEntry, ...]:
    """The rows that say which versions were in Production and on which evidence, without that itself."""
    query = text(
        "SELECT (body::jsonb - 'envelope')::text FROM greenroom.audit WHERE model = :name "
        "AND body::jsonb ->> 'action' "
        "IN "
        "('promoted', 'override', 'rollback', 'found', 'deleted', 'renamed', 'mismatch', 'staged') "
        "OR model = :name AND 'Production' IN (body::jsonb ->> 'from', body::jsonb ->> 'to') ORDER BY id"
    )
    return tuple(audit.read(body) for (body,) in session.execute(query, {"name": name}))


def _page(session: Session, name: str, kind: str, after: int) -> list[tuple[int, str]]:
    if kind == audit.HISTORY:
        query = (
            "SELECT id, body FROM greenroom.audit WHERE model = :name AND id > :after ORDER BY id LIMIT :page"
        )
    else:
        query = (
            "SELECT id, json_build_object('id', id, 'model', model, 'hash', hash, "
            "'body', encode(sha256(convert_to(body, 'UTF8')), 'hex'))::text "
            "FROM greenroom.audit WHERE id > :after AND :name = :name ORDER BY id LIMIT :page"
        )
    rows = session.execute(text(query), {"name": name, "after": after, "page": audit.PAGE})
    return [(number, content) for number, content in rows]
