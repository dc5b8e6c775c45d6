"""MLflow's SQL registry store, audited: one transaction for a change and its row, and a row for each refusal.

Functions in the database change what decides what is served, and write the rows (schema.sql); what is here
calls them and says who does what. What may change is for the guard on top (guarded_store.py).
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import flask
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry import audit
from registry.errors import EvidenceError
from registry.server import database, route_guard
from registry.server.caller import Caller
from registry.server.settings import GuardSettings

_log = logging.getLogger(__name__)
_LOCKED = "55P03"
# The SQLSTATE of a refusal that the database makes in words (schema.sql).
_REFUSED = "GR403"
# The functions of schema.sql that change something; each takes the context last.
_CALLS = {
    "move": "greenroom.move(:model, :number, :target, :at, :together, :follow, CAST(:context AS jsonb))",
    "remove_version": "greenroom.remove_version(:model, :number, :at, CAST(:context AS jsonb))",
    "remove_model": "greenroom.remove_model(:model, CAST(:context AS jsonb))",
    "rename_model": "greenroom.rename_model(:model, :new_name, :at, CAST(:context AS jsonb))",
    "point_alias": "greenroom.point_alias(:model, :alias, CAST(:number AS int), CAST(:context AS jsonb))",
    "put_evidence": "greenroom.put_evidence(:model, :number, :key, :envelope, :gate, "
    "CAST(:context AS jsonb))",
}
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
        route_guard.require_options()
        if flask.has_request_context():
            route_guard.require_installed(flask.current_app)
        address = database.server_url(settings)
        # Before MLflow looks for its tables, and tries to make them as a role that may not.
        database.require_ready(address)
        database.bound_waits(self._get_or_create_engine(address))
        super().__init__(address)
        self._mlflows_sessions: Callable[..., AbstractContextManager[Session]] = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._joined

    def _initialize_store_state(self) -> None:
        """Start although there is something in another workspace, which nobody sees, and say so."""
        with self.engine.connect() as connection:
            rows = database.foreign_rows(connection)
        for row in rows:
            _log.warning("The registry's database holds %s, which this server does not show.", row)

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
    def _own_sessions(self, read_only: bool = True) -> Iterator[Session]:
        """A session whose errors are told in words."""
        with in_words(), self._mlflows_sessions(read_only=read_only) as session:
            yield session

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Session]:
        """One transaction, alone with this model, that MLflow's own methods join."""
        with self._own_sessions(read_only=False) as session:
            self._get_query(session, SqlRegisteredModel).filter_by(name=name).with_for_update().all()
            token = _current.set(session)
            try:
                yield session
            except EvidenceError as error:
                # Here already: MLflow's session turns what it does not know into a 500.
                raise RefusedError(str(error), error.code) from error
            finally:
                _current.reset(token)

    def _change(
        self, session: Session, function: str, who: Caller, context: dict[str, Any], **arguments: Any
    ) -> None:
        """Let a function of the database change something, and write down who did it."""
        said = json.dumps(_clean({**context, **who_fields(who)}))
        session.execute(text(f"SELECT {_CALLS[function]}"), {**arguments, "context": said})
        session.expire_all()

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
        session.execute(text("SELECT greenroom.record(CAST(:e AS jsonb))"), {"e": json.dumps(_clean(entry))})


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what the database refuses into MLflow's errors, with the database's words and without SQL."""
    try:
        yield
    except MlflowException as error:
        cause = error.__cause__
        driver: Any = getattr(cause, "orig", None)
        state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None)
        if state == _LOCKED:
            raise MlflowException(
                "Another connection to the registry's database holds what this needs, and has not let go for "
                f"{database.LOCK_TIMEOUT}. Nothing was changed. Try again; if it stays so, an open "
                "transaction is in the way: look at pg_stat_activity.",
                error_code=TEMPORARILY_UNAVAILABLE,
            ) from error
        if state == _REFUSED:
            raise RefusedError(driver.diag.message_primary, driver.diag.message_detail or "kept") from error
        raise


def _clean(entry: dict[str, Any]) -> dict[str, Any]:
    # PostgreSQL's JSON holds no NUL and no half of a surrogate pair.
    return {
        k: v.replace("\0", "").encode("utf-8", "replace").decode() if isinstance(v, str) else v
        for k, v in entry.items()
    }


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
            "'scheme', CASE WHEN strpos(body, '\"scheme\": 2') > 0 THEN 2 ELSE 1 END, "
            "'body', encode(sha256(convert_to(body, 'UTF8')), 'hex'))::text "
            "FROM greenroom.audit WHERE id > :after AND :name = :name ORDER BY id LIMIT :page"
        )
    rows = session.execute(text(query), {"name": name, "after": after, "page": audit.PAGE})
    return [(number, content) for number, content in rows]
