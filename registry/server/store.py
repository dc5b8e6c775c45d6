"""MLflow's SQL registry store, guarded: the one place that every route of the server passes through.

Reading is MLflow's. Whatever can change what is in Production is held against the rules first, and done in
one transaction with its row in the audit, which triggers in the database write (schema.sql). A refusal is a
403 with a sentence that says what is missing, and has a row of its own.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_CONFLICT
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import (
    _validate_model_name,
    _validate_model_version,
    _validate_model_version_tag,
    _validate_registered_model_tag,
    _validate_tag_name,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry import audit
from registry.errors import EvidenceError
from registry.server import artifacts, database
from registry.server.caller import Caller, caller
from registry.server.judging import Decision, Files, Judge, View
from registry.server.settings import GuardSettings
from registry.stage import GATED, Stage
from registry.tags import EVIDENCE, GATE, OVERRIDE, REPORT, folded, is_reserved

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
# The session of the guarded transaction that is under way in this thread.
_current: ContextVar[Session | None] = ContextVar("greenroom_session", default=None)


class RefusedError(MlflowException):
    """403: the guard refuses. `code` says of which kind the refusal is."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(f"Greenroom refused: {message}", error_code=PERMISSION_DENIED)
        self.code, self.reason = code, message


class GuardedStore(SqlAlchemyStore):
    """MLflow's store with the guard in front of everything that writes."""

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self._settings = settings or GuardSettings()
        super().__init__(database.server_url(self._settings))
        database.require_installed(self.engine)
        self._judge = Judge(self._settings)
        self._aliases = self._settings.production_alias_names
        self._own_sessions: Callable[..., AbstractContextManager[Session]] = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._joined

    # What moves versions through stages

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        """Move a version; to Staging and Production only what the rules let through."""
        number = _validate_model_version(version)
        target = Stage(get_canonical_stage(stage))
        if archive_existing_versions and target not in GATED:
            # MLflow's own answer is a 500, which clients try again.
            raise MlflowException(
                f"archive_existing_versions goes with Staging and Production, not with {target}.",
                error_code=INVALID_PARAMETER_VALUE,
            )
        who = caller()
        with self._refusals(who, name, number, {"to": target.value}):
            for _ in range(_ATTEMPTS):
                before = self._view(name, number)
                if before.stage is target:
                    return self._confirmed(before, who)
                self._require_promoter(who, {before.stage, target})
                decision = self._decide(before, target, who)
                moved = self._move(before, target, who, decision, archive=archive_existing_versions)
                if moved is not None:
                    return moved
        raise MlflowException(
            f"{name} changed while version {number} was being checked; nothing was changed. Try again.",
            error_code=RESOURCE_CONFLICT,
        )

    def _decide(self, view: View, target: Stage, who: Caller) -> Decision:
        """Return on what ground a version may move; raises `EvidenceError`. Outside of any transaction."""
        if target not in GATED:
            return Decision("archived" if target is Stage.ARCHIVED else "moved")
        files = _files(view)
        if who.rollback:
            if target is not Stage.PRODUCTION:
                raise RefusedError("A rollback goes to Production.", "rollback")
            return self._judge.rollback(view, files, who.reason)
        return self._judge.promotion(view, target, files)

    def _move(
        self, view: View, target: Stage, who: Caller, decision: Decision, *, archive: bool
    ) -> ModelVersion | None:
        """Do the move with its row, or return None when the registry is not any more as it was judged."""
        context = {"version": view.number, **decision.context()}
        if view.incumbent:
            context["incumbent"] = view.incumbent.version
        with self._transaction(view.name, who, context) as session:
            if self._view(view.name, view.number) != view:
                return None
            if target is Stage.PRODUCTION:
                # First, and flushed: the database takes no second version in Production, even for a moment.
                self._archive_incumbents(session, view)
                archive = False
            self._carry_aliases(session, view, target)
            moved: ModelVersion = super().transition_model_version_stage(
                view.name, view.number, target.value, archive
            )
            session.flush()
            return moved

    def _confirmed(self, view: View, who: Caller) -> ModelVersion:
        """A version that is in the stage already stays; an operator's override of it is written down."""
        decision = self._judge.confirmation(view, _files(view))
        if decision:
            self._require_promoter(who, {view.stage})
            stage = view.stage.value
            entry = {"model": view.name, "version": view.number, "from": stage, "to": stage}
            with self._transaction(view.name, who, {"action": "override"}) as session:
                if self._view(view.name, view.number) == view:
                    self._record(session, {**decision.context(), **_who(who), **entry})
        return super().get_model_version(view.name, view.number)

    def _archive_incumbents(self, session: Session, view: View) -> None:
        rows = self._get_query(session, SqlModelVersion).filter(
            SqlModelVersion.name == view.name,
            SqlModelVersion.version != view.number,
            SqlModelVersion.current_stage == Stage.PRODUCTION.value,
        )
        for row in rows:
            row.current_stage = Stage.ARCHIVED.value
            row.last_updated_time = get_current_time_millis()
        session.flush()

    def _carry_aliases(self, session: Session, view: View, target: Stage) -> None:
        """Let the aliases that mean Production follow it; without a Production they go."""
        leaves = view.stage is Stage.PRODUCTION
        if target is not Stage.PRODUCTION and not leaves:
            return
        for alias in self._get_query(session, SqlRegisteredModelAlias).filter_by(name=view.name).all():
            if folded(alias.alias) not in self._aliases:
                continue
            if target is Stage.PRODUCTION:
                alias.version = view.number
            else:
                session.delete(alias)
        session.flush()

    # What names, copies, hides or removes versions

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        """Set an alias; one that means Production only on the version that is there."""
        number = _validate_model_version(version)
        who = caller()
        with self._refusals(who, name, number), self._transaction(name, who, {"action": "alias"}) as session:
            if folded(alias).startswith(audit.ALIAS_PREFIX):
                raise RefusedError(f"Aliases that begin with {audit.ALIAS_PREFIX} are reserved.", "reserved")
            if self._means_production(session, name, alias):
                stage = self._view(name, number).stage
                if stage is not Stage.PRODUCTION:
                    raise RefusedError(
                        f"The alias {alias!r} means Production, and version {number} is in {stage}. Promote "
                        f"it: `greenroom promote {name} {number}`; the alias follows.",
                        "alias",
                    )
            super().set_registered_model_alias(name, alias, number)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias; one that means Production stays while there is a version in Production."""
        who = caller()
        with self._refusals(who, name), self._transaction(name, who, {"action": "alias"}) as session:
            if self._means_production(session, name, alias) and self._in_production(session, name):
                raise RefusedError(
                    f"The alias {alias!r} means Production, and {name} has a version there. "
                    "Archive that first.",
                    "alias",
                )
            super().delete_registered_model_alias(name, alias)

    def delete_model_version(self, name: str, version: Any) -> None:
        """Delete a version, unless it is in Production."""
        number = _validate_model_version(version)
        who = caller()
        context = {"action": "deleted", "version": number}
        with self._refusals(who, name, number), self._transaction(name, who, context) as session:
            if number in self._in_production(session, name):
                raise RefusedError(
                    f"{name} version {number} is in Production. "
                    "Promote another version, or archive it, first.",
                    "in-production",
                )
            super().delete_model_version(name, number)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model, unless a version of it is in Production."""
        who = caller()
        with self._refusals(who, name), self._transaction(name, who, {"action": "deleted"}) as session:
            self._require_none_in_production(session, name, "deleted")
            super().delete_registered_model(name)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model, unless a version of it is in Production.
        Evidence does not follow to the new name.
        """
        who = caller()
        with self._refusals(who, name), self._transaction(name, who, {"action": "renamed"}) as session:
            self._require_none_in_production(session, name, "renamed")
            return super().rename_registered_model(name, new_name)

    def create_registered_model(
        self, name: str, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> RegisteredModel:
        """Create a model; not with reserved tags."""
        _validate_model_name(name)
        with self._refusals(caller(), name):
            self._refuse_reserved(name, tags)
            if _prompt_tag(tags):
                self._require_unknown(name)
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def create_model_version(self, name: str, source: str, *args: Any, **kwargs: Any) -> ModelVersion:
        """Create a version; not with reserved tags, which a copy would bring from another version."""
        _validate_model_name(name)
        tags = kwargs.get("tags") or (args[1] if len(args) > 1 else None)
        with self._refusals(caller(), name):
            self._refuse_reserved(name, tags)
            # MLflow itself lets a version that is marked as a prompt have no model for its source.
            self._require_prompt(name, is_one=_prompt_tag(tags))
        return super().create_model_version(name, source, *args, **kwargs)

    # Tags

    def set_model_version_tag(self, name: str, version: Any, tag: ModelVersionTag) -> None:
        """Set a tag; a reserved one only to valid, newer evidence about this very version."""
        number = _validate_model_version(version)
        _validate_model_name(name)
        _validate_model_version_tag(tag.key, tag.value)
        who = caller()
        if not is_reserved(tag.key):
            if tag.key == IS_PROMPT_TAG_KEY:
                with self._refusals(who, name, number):
                    self._require_prompt(name, is_one=True)
            super().set_model_version_tag(name, number, tag)
            return
        with self._refusals(who, name, number):
            if tag.key == REPORT:
                self._look_again(name, number, who)
                return
            if tag.key not in (EVIDENCE, OVERRIDE):
                raise RefusedError(f"The tag {tag.key!r} is reserved; the server sets it.", "reserved")
            with self._transaction(name, who, {"action": "evidence", "version": number}):
                evidence = self._judge.acceptable(self._view(name, number), tag.key, tag.value)
                super().set_model_version_tag(name, number, tag)
                if tag.key == EVIDENCE:
                    found = "passed" if evidence.passed else "refused"
                    super().set_model_version_tag(name, number, ModelVersionTag(GATE, found))

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        """Delete a tag; reserved ones stay."""
        _validate_model_name(name)
        _validate_tag_name(key)
        with self._refusals(caller(), name, _validate_model_version(version)):
            if is_reserved(key):
                raise RefusedError(f"The tag {key!r} holds evidence and cannot be deleted.", "reserved")
            if key == IS_PROMPT_TAG_KEY:
                self._require_prompt(name, is_one=False)
        super().delete_model_version_tag(name, version, key)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag of a model; reserved names are for versions."""
        _validate_model_name(name)
        _validate_registered_model_tag(tag.key, tag.value)
        who = caller()
        with self._refusals(who, name), self._transaction(name, who, {"action": "tagged"}) as session:
            self._refuse_reserved(name, [tag])
            if tag.key == IS_PROMPT_TAG_KEY:
                self._require_no_versions(session, name)
                self._require_unknown(name)
            super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model; what makes it a prompt stays while it has versions."""
        who = caller()
        with self._refusals(who, name), self._transaction(name, who, {"action": "tagged"}) as session:
            if key == IS_PROMPT_TAG_KEY:
                self._require_no_versions(session, name)
            super().delete_registered_model_tag(name, key)

    # The audit, read

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

    # Parts

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
                {"context": json.dumps({**context, **_who(who)})},
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
                **_who(who),
            }
            wanted = {"version": number, "changed": {"wanted": more} if more else None}
            try:
                with self._own_sessions(read_only=False) as session:
                    self._record(session, {**entry, **wanted})
            except MlflowException:
                # It stays refused, whatever became of the note about it.
                _log.exception("A refusal could not be written to the audit: %s", refusal.code)
            raise

    def _record(self, session: Session, entry: dict[str, Any]) -> None:
        # PostgreSQL's JSON holds no NUL and no half of a surrogate pair.
        clean = {
            k: v.replace("\0", "").encode("utf-8", "replace").decode() if isinstance(v, str) else v
            for k, v in entry.items()
        }
        session.execute(text("SELECT greenroom.record(CAST(:e AS jsonb))"), {"e": json.dumps(clean)})

    def _view(self, name: str, number: int) -> View:
        with self.ManagedSessionMaker() as session:
            row = self._get_sql_model_version(session, name, number)
            session.refresh(row)
            others = self._in_production(session, name) - {number}
            tags = {tag.key: tag.value for tag in row.model_version_tags}
            # More than one only by SQL before the guard was installed, which its index rules out.
            other = self._get_sql_model_version(session, name, min(others)) if others else None
            history = _rows(session, name)
            return self._judge.view(
                row, tags, other, {t.key: t.value for t in other.model_version_tags} if other else {}, history
            )

    def _look_again(self, name: str, number: int, who: Caller) -> None:
        """Somebody, usually a predictor, says that the bytes are not those of the evidence: look,
        and record.
        """
        view = self._view(name, number)
        if view.stage not in GATED:
            raise RefusedError(
                f"{name} version {number} is in {view.stage}, where its bytes do not matter.", "unfounded"
            )
        error = self._judge.mismatch(view, _files(view))
        if error is None:
            raise RefusedError(
                f"{name} version {number} holds the bytes that its evidence is about.", "unfounded"
            )
        last = view.history[-1] if view.history else None
        if last and (last.action, last.version, last.message) == ("mismatch", number, str(error)):
            return  # said already, and nothing has happened since
        entry = {
            "action": "mismatch",
            "model": name,
            "version": number,
            "code": error.code,
            "message": str(error),
        }
        with self._own_sessions(read_only=False) as session:
            self._record(session, {**entry, **_who(who)})

    def _require_promoter(self, who: Caller, stages: set[Stage]) -> None:
        names = self._settings.promoter_names
        if Stage.PRODUCTION not in stages or not (who.proven or names):
            return
        if not who.proven:
            raise RefusedError(
                "Only named users may change what is in Production (GREENROOM_PROMOTERS), and the server has "
                "no login that would prove who you are. Start MLflow with --app-name basic-auth.",
                "not-proven",
            )
        if who.actor not in names:
            raise RefusedError(
                f"{who.actor} may not change what is in Production. Ask one of those who may, or whoever "
                "runs the server to add the name to GREENROOM_PROMOTERS.",
                "not-a-promoter",
            )

    def _means_production(self, session: Session, name: str, alias: str) -> bool:
        return folded(alias) in self._aliases and not self._is_prompt(session, name)

    def _in_production(self, session: Session, name: str) -> set[int]:
        rows = self._get_query(session, SqlModelVersion).filter(
            SqlModelVersion.name == name, SqlModelVersion.current_stage == Stage.PRODUCTION.value
        )
        return {row.version for row in rows}

    def _require_none_in_production(self, session: Session, name: str, what: str) -> None:
        for number in self._in_production(session, name):
            raise RefusedError(
                f"{name} version {number} is in Production, so {name} cannot be {what}. Archive it first.",
                "in-production",
            )

    def _refuse_reserved(self, name: str, tags: Any) -> None:
        for tag in tags or []:
            if is_reserved(tag.key):
                raise RefusedError(
                    f"Evidence does not follow a copy: {tag.key!r} is about one version alone. Register the "
                    f"model in {name} without tags that begin with greenroom., and let the gate look at it.",
                    "reserved",
                )

    # MLflow keeps prompts in the same tables and hides from searches whatever is marked as one; their aliases
    # are theirs. So a model must not become a prompt, nor a prompt a model.

    def _is_prompt(self, session: Session, name: str) -> bool:
        query = self._get_query(session, SqlRegisteredModelTag)
        return any(
            t.value.lower() == "true" for t in query.filter_by(name=name, key=IS_PROMPT_TAG_KEY) if t.value
        )

    def _require_prompt(self, name: str, *, is_one: bool) -> None:
        with self._own_sessions() as session:
            prompt = self._is_prompt(session, name)
        if is_one and not prompt:
            raise RefusedError(f"{name} is a model; its versions cannot be marked as prompts.", "prompt")
        if prompt and not is_one:
            raise RefusedError(f"{name} is a prompt, and holds no versions of models.", "prompt")

    def _require_no_versions(self, session: Session, name: str) -> None:
        if self._get_query(session, SqlModelVersion).filter_by(name=name).first():
            raise RefusedError(
                f"{name} has versions, so it can neither become a prompt nor stop being one.", "prompt"
            )

    def _require_unknown(self, name: str) -> None:
        """A name that is, or was, a model's is not a prompt's: apps would find the prompt under it."""
        with self._own_sessions() as session:
            known = session.execute(
                text("SELECT 1 FROM greenroom.audit WHERE model = :name LIMIT 1"), {"name": name}
            ).scalar()
        if known or self._judge.declares(name):
            raise RefusedError(f"{name} is the name of a model; choose another one for the prompt.", "prompt")


def _files(view: View) -> Files:
    return lambda: artifacts.digests(view.location)


def _who(who: Caller) -> dict[str, Any]:
    return {"actor": who.actor, "proven": who.proven, "address": who.address, "reason": who.reason}


def _prompt_tag(tags: Any) -> bool:
    return any(tag.key == IS_PROMPT_TAG_KEY for tag in tags or [])


def _rows(session: Session, name: str) -> tuple[audit.Row, ...]:
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
    found = session.execute(text(query), {"name": name, "after": after, "page": audit.PAGE})
    return [(number, content) for number, content in found]
