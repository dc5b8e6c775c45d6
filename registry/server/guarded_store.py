"""MLflow's SQL registry store, guarded: the one place that every route of the server passes through.

Reading is MLflow's. The rules decide first about each change of what is in Production. A function of the
database makes the change with its row in the audit (schema.sql). A refusal is a 403 with a sentence that says
what is missing, and has a row of its own.
"""

import threading
from itertools import takewhile
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag, RegisteredModel
from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_CONFLICT,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.store.model_registry import sqlalchemy_store as mlflows_store
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModelAlias,
)
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
    _validate_model_renaming,
    _validate_model_version,
    _validate_model_version_tag,
    _validate_registered_model_tag,
    _validate_tag_name,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry import audit
from registry.names import EVIDENCE, GATED, OVERRIDE, REPORT, Stage, is_reserved, normalize_name
from registry.server import artifacts, prompts
from registry.server.audited_store import AuditedStore, RefusedError, rows_of, who_fields
from registry.server.caller import Caller, caller
from registry.server.judge import Decision, Files, Judge, VersionSnapshot
from registry.server.settings import GuardSettings

_ATTEMPTS = 3
# Seconds that a reader's report waits for others'.
_LOOK_WAIT = 30.0
_MOST_MISMATCHES = 20


class GuardedStore(AuditedStore):
    """MLflow's store with the guard in front of everything that writes."""

    def __init__(self, settings: GuardSettings | None = None) -> None:
        super().__init__(settings or GuardSettings())
        self._judge = Judge(self._settings)
        self._aliases = self._settings.production_alias_names
        self._looking = threading.Lock()

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
                before = self._snapshot(name, number)
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

    def _decide(self, snapshot: VersionSnapshot, target: Stage, who: Caller) -> Decision:
        """Return on what ground a version may move; raises `EvidenceError`. Outside of any transaction."""
        if target not in GATED:
            return Decision("archived" if target is Stage.ARCHIVED else "moved")
        files = _files(snapshot)
        if who.rollback:
            if target is not Stage.PRODUCTION:
                raise RefusedError("A rollback goes to Production.", "rollback")
            return self._judge.rollback(snapshot, files, who.reason)
        return self._judge.promotion(snapshot, target, files)

    def _move(
        self, snapshot: VersionSnapshot, target: Stage, who: Caller, decision: Decision, *, archive: bool
    ) -> ModelVersion | None:
        """Do the move with its row, or return None when the registry is not any more as it was judged."""
        context = decision.context()
        if snapshot.incumbent:
            context["incumbent"] = snapshot.incumbent.version
        with self._transaction(snapshot.name) as session:
            if self._snapshot(snapshot.name, snapshot.number) != snapshot:
                return None
            self._change(
                session,
                "move",
                who,
                context,
                model=snapshot.name,
                number=snapshot.number,
                target=target.value,
                at=_now(),
                together=archive,
                follow=self._following(session, snapshot.name),
            )
            return super().get_model_version(snapshot.name, snapshot.number)

    def _confirmed(self, snapshot: VersionSnapshot, who: Caller) -> ModelVersion:
        """A version that is in the stage already stays; an operator's override of it is written down."""
        decision = self._judge.confirm_override(snapshot, _files(snapshot))
        if decision:
            self._require_promoter(who, {snapshot.stage})
            stage = snapshot.stage.value
            entry = {"model": snapshot.name, "version": snapshot.number, "from": stage, "to": stage}
            with self._transaction(snapshot.name) as session:
                if self._snapshot(snapshot.name, snapshot.number) == snapshot:
                    self._record(session, {**decision.context(), **who_fields(who), **entry})
        return super().get_model_version(snapshot.name, snapshot.number)

    def _following(self, session: Session, name: str) -> list[str]:
        """Return the aliases of a model that mean Production and follow it; without a Production they go."""
        aliases = self._get_query(session, SqlRegisteredModelAlias).filter_by(name=name).all()
        return [a.alias for a in aliases if normalize_name(a.alias) in self._aliases]

    # What names, copies, hides or removes versions

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        """Set an alias; one that means Production only on the version that is there."""
        number = _validate_model_version(version)
        who = caller()
        _validate_model_name(name)
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
        with self._refusals(who, name, number), self._transaction(name) as session:
            if normalize_name(alias).startswith(audit.ALIAS_PREFIX):
                raise RefusedError(f"Aliases that begin with {audit.ALIAS_PREFIX} are reserved.", "reserved")
            if self._means_production(session, name, alias):
                stage = self._snapshot(name, number).stage
                if stage is not Stage.PRODUCTION:
                    raise RefusedError(
                        f"The alias {alias!r} means Production, and version {number} is in {stage}. Promote "
                        f"it: `greenroom promote {name} {number}`; the alias follows.",
                        "alias",
                    )
            self._get_sql_model_version(session, name, number)
            self._change(session, "point_alias", who, {}, model=name, alias=alias, number=number)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias; one that means Production stays while there is a version in Production."""
        _validate_model_name(name)
        _validate_model_alias_name(alias)
        who = caller()
        with self._refusals(who, name), self._transaction(name) as session:
            if self._means_production(session, name, alias) and self._in_production(session, name):
                raise RefusedError(
                    f"The alias {alias!r} means Production, and {name} has a version there. "
                    "Archive that first.",
                    "alias",
                )
            self._get_registered_model(session, name)
            self._change(session, "point_alias", who, {}, model=name, alias=alias, number=None)

    def delete_model_version(self, name: str, version: Any) -> None:
        """Delete a version, unless it is in Production."""
        number = _validate_model_version(version)
        who = caller()
        with self._refusals(who, name, number), self._transaction(name) as session:
            if number in self._in_production(session, name):
                raise RefusedError(
                    f"{name} version {number} is in Production. "
                    "Promote another version, or archive it, first.",
                    "in-production",
                )
            self._get_sql_model_version(session, name, number)
            at = _now()
            self._change(session, "remove_version", who, {}, model=name, number=number, at=at)

    def delete_registered_model(self, name: str) -> None:
        """Delete a model, unless a version of it is in Production."""
        who = caller()
        with self._refusals(who, name), self._transaction(name) as session:
            self._require_none_in_production(session, name, "deleted")
            self._get_registered_model(session, name)
            self._change(session, "remove_model", who, {}, model=name)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model, unless a version of it is in Production.
        Evidence does not follow to the new name.
        """
        _validate_model_renaming(new_name)
        who = caller()
        with self._refusals(who, name), self._transaction(name) as session:
            self._require_none_in_production(session, name, "renamed")
            self._get_registered_model(session, name)
            at = _now()
            try:
                self._change(session, "rename_model", who, {}, model=name, new_name=new_name, at=at)
            except IntegrityError as error:
                raise MlflowException(
                    f"Registered Model (name={new_name}) already exists.", error_code=RESOURCE_ALREADY_EXISTS
                ) from error
            return super().get_registered_model(new_name)

    def create_registered_model(
        self, name: str, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> RegisteredModel:
        """Create a model; not with reserved tags."""
        _validate_model_name(name)
        with self._refusals(caller(), name):
            self._refuse_reserved(name, tags)
            if prompts.marked(tags):
                with self._own_sessions() as session:
                    prompts.require_unknown(session, name, declared=self._judge.declares(name))
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, *args: Any, **kwargs: Any
    ) -> ModelVersion:
        """Create a version; a copy of another one comes without that one's reserved tags."""
        _validate_model_name(name)
        if _is_copy(source):
            # MLflow's client sends all tags of the version that it copies.
            tags = [tag for tag in tags or [] if not is_reserved(tag.key)]
        with self._refusals(caller(), name):
            self._refuse_reserved(name, tags)
            # MLflow itself lets a version that is marked as a prompt have no model for its source.
            with self._own_sessions() as session:
                prompts.require(session, name, prompt=prompts.marked(tags))
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)

    def require_unneeded(self, artifact_path: str) -> None:
        """Refuse to delete artifacts that a version stands on which is in a stage, or was in Production.

        `artifact_path` is below the artifact store's root, as a client wrote it.
        """
        with self._own_sessions() as session:
            needed = artifacts.needing(session, artifact_path)
        if needed is None:
            return
        name, number, stage = needed
        with self._refusals(caller(), name, number):
            raise RefusedError(
                f"{artifact_path[:200]} belongs to {name} version {number}, which is in {stage}. Archive "
                "and delete that version first.",
                "kept",
            )

    # Tags

    def set_model_version_tag(self, name: str, version: Any, tag: ModelVersionTag) -> None:
        """Set a tag; a reserved one only to valid, newer evidence about this very version."""
        number = _validate_model_version(version)
        _validate_model_name(name)
        _validate_model_version_tag(tag.key, tag.value)
        who = caller()
        if not is_reserved(tag.key):
            if tag.key == IS_PROMPT_TAG_KEY:
                with self._refusals(who, name, number), self._own_sessions() as session:
                    prompts.require(session, name, prompt=True)
            super().set_model_version_tag(name, number, tag)
            return
        with self._refusals(who, name, number):
            if tag.key == REPORT:
                self._look_again(name, number, who)
                return
            if tag.key not in (EVIDENCE, OVERRIDE):
                raise RefusedError(f"The tag {tag.key!r} is reserved; the server sets it.", "reserved")
            with self._transaction(name) as session:
                evidence = self._judge.accept_evidence(self._snapshot(name, number), tag.key, tag.value)
                gate_status = "passed" if evidence.passed else "refused"
                self._change(
                    session,
                    "put_evidence",
                    who,
                    Decision("evidence", evidence).context(),
                    model=name,
                    number=number,
                    key=tag.key,
                    envelope=tag.value,
                    gate=gate_status if tag.key == EVIDENCE else None,
                )

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        """Delete a tag; reserved ones stay."""
        _validate_model_name(name)
        _validate_tag_name(key)
        with self._refusals(caller(), name, _validate_model_version(version)):
            if is_reserved(key):
                raise RefusedError(f"The tag {key!r} holds evidence and cannot be deleted.", "reserved")
            if key == IS_PROMPT_TAG_KEY:
                with self._own_sessions() as session:
                    prompts.require(session, name, prompt=False)
        super().delete_model_version_tag(name, version, key)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag of a model; reserved names are for versions."""
        _validate_model_name(name)
        _validate_registered_model_tag(tag.key, tag.value)
        who = caller()
        with self._refusals(who, name), self._transaction(name) as session:
            self._refuse_reserved(name, [tag])
            if tag.key == IS_PROMPT_TAG_KEY:
                prompts.require_no_versions(session, name)
                prompts.require_unknown(session, name, declared=self._judge.declares(name))
            super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model; what makes it a prompt stays while it has versions."""
        who = caller()
        with self._refusals(who, name), self._transaction(name) as session:
            if key == IS_PROMPT_TAG_KEY:
                prompts.require_no_versions(session, name)
            super().delete_registered_model_tag(name, key)

    # Parts

    def _snapshot(self, name: str, number: int) -> VersionSnapshot:
        with self.ManagedSessionMaker() as session:
            row = self._get_sql_model_version(session, name, number)
            session.refresh(row)
            others = self._in_production(session, name) - {number}
            tags = {tag.key: tag.value for tag in row.model_version_tags}
            # More than one only by SQL before the guard was installed, which its index rules out.
            other = self._get_sql_model_version(session, name, min(others)) if others else None
            history = rows_of(session, name)
            model = self._get_registered_model(session, name)
            return self._judge.snapshot(
                row,
                tags,
                other,
                {t.key: t.value for t in other.model_version_tags} if other else {},
                history,
                model_tags={t.key: t.value for t in model.registered_model_tags},
            )

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return what an alias names; one of the reserved ones takes the report of a reader."""
        number = alias.removeprefix(f"{audit.ALIAS_PREFIX}{audit.REPORT}-")
        if number == alias:
            return super().get_model_version_by_alias(name, alias)
        version = super().get_model_version(name, _validate_model_version(number))
        # One look at a time, and no row for a report that is unfounded: a reader may send any number.
        if not self._looking.acquire(timeout=_LOOK_WAIT):
            raise MlflowException(
                "The server is looking at other versions' bytes. Report this one again in a minute.",
                error_code=TEMPORARILY_UNAVAILABLE,
            )
        try:
            self._look_again(name, int(version.version), caller())
        finally:
            self._looking.release()
        return version

    def _look_again(self, name: str, number: int, who: Caller) -> None:
        """Somebody, usually a predictor, says that the bytes are not those of the evidence: look,
        and record.
        """
        snapshot = self._snapshot(name, number)
        if snapshot.stage not in GATED:
            raise RefusedError(
                f"{name} version {number} is in {snapshot.stage}, where its bytes do not matter.", "unfounded"
            )
        error = self._judge.find_mismatch(snapshot, _files(snapshot))
        if error is None:
            raise RefusedError(
                f"{name} version {number} holds the bytes that its evidence is about.", "unfounded"
            )
        entry = {
            "action": "mismatch",
            "model": name,
            "version": number,
            "code": error.code,
            "message": str(error),
        }
        with self._transaction(name) as session:
            if _is_news(self._snapshot(name, number), str(error)):
                self._record(session, {**entry, **who_fields(who)})

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
            others = "Ask one of those who may, or" if names else "Nobody is named who may: ask"
            raise RefusedError(
                f"{who.actor} may not change what is in Production. {others} whoever runs the server to add "
                "the name to GREENROOM_PROMOTERS.",
                "not-a-promoter",
            )

    def _means_production(self, session: Session, name: str, alias: str) -> bool:
        return normalize_name(alias) in self._aliases and not prompts.is_prompt(session, name)

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


def _now() -> int:
    """Return the time as MLflow's store writes it, in milliseconds."""
    clock: Any = mlflows_store
    return int(clock.get_current_time_millis())


def _is_copy(source: str) -> bool:
    """Whether a version's source is another version, rather than a logged model."""
    if not source.startswith("models:/"):
        return False
    try:
        return _parse_model_uri(source).model_id is None
    except MlflowException:
        return False


def _is_news(snapshot: VersionSnapshot, message: str) -> bool:
    """Whether a mismatch is new since anything else happened to its version, and not one of many."""
    since = takewhile(
        lambda row: row.action == "mismatch",
        (row for row in reversed(snapshot.history) if row.version == snapshot.number),
    )
    messages = [row.message for row in since]
    return message not in messages and len(messages) < _MOST_MISMATCHES


def _files(snapshot: VersionSnapshot) -> Files:
    return lambda: artifacts.digests(snapshot.location)
