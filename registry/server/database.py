"""The guard's part of the database: installing it, and refusing to work without it."""

import os
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from psycopg2 import sql
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url, text

from registry.errors import RegistryError
from registry.server.settings import GuardSettings, MigrationSettings

_SCHEMA = Path(__file__).with_name("schema.sql")
_MIGRATE = (
    "Run `greenroom migrate` (docs/promotion.md says what it needs and does), then start the server again."
)


class DatabaseError(RegistryError):
    """The database is not one that the guard can keep; the message says what to do."""


@dataclass(frozen=True)
class Staged:
    """A version that is in Staging or Production."""

    model: str
    version: int
    stage: str


def server_url(settings: GuardSettings) -> str:
    """Return the database's URL: the setting's, else MLflow's own. Holds a password: never show it."""
    url = settings.database_url.get_secret_value() or os.environ.get(
        "_MLFLOW_SERVER_FILE_STORE", os.environ.get("MLFLOW_BACKEND_STORE_URI", "")
    )
    return normalised(url, "GREENROOM_DATABASE_URL")


def normalised(url: str, setting: str) -> str:
    """Return a PostgreSQL URL with the driver that MLflow works with; `DatabaseError` for any other."""
    if not url.startswith("postgresql"):
        kind = url.partition(":")[0] or "nothing"
        raise DatabaseError(
            f"Greenroom's guard lives in PostgreSQL, and the database given is {kind}. Set {setting}, or "
            "MLflow's --backend-store-uri, to postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        )
    # psycopg 3, SQLAlchemy's default, fails on MLflow's stage transitions (mlflow#24592).
    return "postgresql+psycopg2:" + url.partition(":")[2]


def installed_digest() -> str:
    """Return what `greenroom.installed` holds when this code's schema and this MLflow's are in place."""
    return sha256(_SCHEMA.read_bytes() + version("mlflow").encode()).hexdigest()


def require_installed(engine: Engine) -> None:
    """Raise `DatabaseError` unless the guard is installed, and out of reach of the role we run as."""
    with engine.connect() as connection:
        if _installed(connection) != installed_digest():
            raise DatabaseError(f"{explain(connection)} {_MIGRATE}")
        problems = _weaknesses(connection)
    if problems:
        raise DatabaseError(
            f"The role that MLflow's server logs in as {' and '.join(problems)}, so the audit and the guards "
            f"in the database could be gone round. Give the server a role of its own. {_MIGRATE}"
        )


def explain(connection: Connection) -> str:
    """Return sentences about what there is, for a person who starts the guard on an older registry."""
    if not inspect(connection).has_table("model_versions"):
        return "The database holds no MLflow tables yet."
    found = staged(connection)
    if not found:
        return "Greenroom's guard is not installed in this database, or an older one is."
    listed = ", ".join(f"{s.model} version {s.version} in {s.stage}" for s in found)
    twice = doubled(found)
    more = (
        f" {' and '.join(twice)} {'has' if len(twice) == 1 else 'have'} more than one version in Production, "
        "and there can be one: choose with `--keep MODEL=VERSION`."
        if twice
        else ""
    )
    return (
        f"Greenroom's guard is not installed in this database, which holds {listed}, without evidence.{more}"
    )


def staged(connection: Connection) -> list[Staged]:
    """Return the versions that are in Staging or Production."""
    rows = connection.execute(
        text(
            "SELECT name, version, current_stage FROM model_versions "
            "WHERE current_stage IN ('Staging', 'Production') ORDER BY name, version"
        )
    )
    return [Staged(*row) for row in rows]


def doubled(found: list[Staged]) -> list[str]:
    """Return the models that have more than one version in Production."""
    names = [s.model for s in found if s.stage == "Production"]
    return sorted({name for name in names if names.count(name) > 1})


def install(settings: MigrationSettings, *, keep: dict[str, int], dry_run: bool) -> list[str]:
    """Bring MLflow's tables up to date, install the guard, and return what was done, a sentence each.

    `keep` says which version stays in Production of a model that has several; the others are archived.
    Raises `DatabaseError`, and then nothing was changed but MLflow's own migrations.
    """
    admin = normalised(settings.database_admin_url.get_secret_value(), "GREENROOM_DATABASE_ADMIN_URL")
    app = make_url(server_url(settings)).username or ""
    if make_url(admin).username == app:
        raise DatabaseError(
            f"GREENROOM_DATABASE_ADMIN_URL logs in as {app}, the role that MLflow's server runs as. What "
            "that role owns it can also remove: give the server a second role, with a password and CONNECT, "
            "and name it in MLflow's --backend-store-uri."
        )
    engine = create_engine(admin)
    said = []
    try:
        with engine.connect() as connection:
            if _installed(connection) == installed_digest():
                return ["The guard is installed, and up to date."]
        with engine.begin() as connection:
            _require_role(connection, app)
            said += _take_over(connection, app, dry_run=dry_run)
        if not dry_run:
            _migrate_mlflow(engine)
            said.append(f"MLflow's tables are those of MLflow {version('mlflow')}.")
        with engine.begin() as connection:
            said += _install(connection, app, keep, dry_run=dry_run)
    finally:
        engine.dispose()
    return said


def _migrate_mlflow(engine: Engine) -> None:
    # Imported here: MLflow takes seconds, and most calls find everything in place.
    from mlflow.store.db.utils import _all_tables_exist, _initialize_tables, _upgrade_db  # noqa: PLC0415

    if _all_tables_exist(engine):
        _upgrade_db(engine)
    else:
        _initialize_tables(engine)


def _install(connection: Connection, app: str, keep: dict[str, int], *, dry_run: bool) -> list[str]:
    if not inspect(connection).has_table("model_versions"):
        return ["MLflow's tables would be created, and the guard installed."]
    found = staged(connection)
    said = [f"Found {s.model} version {s.version} in {s.stage}." for s in found]
    archived = _to_archive(found, keep)
    said += [f"{s.model} version {s.version} is archived; version {keep[s.model]} stays." for s in archived]
    if dry_run:
        return [*said, "Nothing was changed."]
    first = not inspect(connection).has_table("audit", schema="greenroom")
    for gone in archived:
        connection.execute(
            text("UPDATE model_versions SET current_stage = 'Archived' WHERE name = :n AND version = :v"),
            {"n": gone.model, "v": gone.version},
        )
    _run(connection, app)
    if first:
        for one in found:
            stage = "Archived" if one in archived else one.stage
            connection.execute(
                text(
                    "SELECT greenroom.append(jsonb_build_object('action', 'found', 'actor', "
                    "session_user::text, 'model', CAST(:m AS text), 'version', CAST(:v AS int), "
                    "'to', CAST(:s AS text), 'reason', 'was there when the audit began'))"
                ),
                {"m": one.model, "v": one.version, "s": stage},
            )
    connection.execute(
        text(
            "INSERT INTO greenroom.installed (digest) VALUES (:d) "
            "ON CONFLICT (only_one) DO UPDATE SET digest = excluded.digest"
        ),
        {"d": installed_digest()},
    )
    unproven = [s for s in found if s not in archived]
    said.append("The guard is installed.")
    said += [
        f"{s.model} version {s.version} stays in {s.stage} without evidence: the predictor will not load it "
        f"until `greenroom gate {s.model} {s.version} --rerun`, or `greenroom promote {s.model} {s.version} "
        f"--to {s.stage} --override --reason …`."
        for s in unproven
        if first
    ]
    return said


def _to_archive(found: list[Staged], keep: dict[str, int]) -> list[Staged]:
    archived = []
    for model in doubled(found):
        versions = [s for s in found if s.model == model and s.stage == "Production"]
        numbers = [s.version for s in versions]
        if keep.get(model) not in numbers:
            listed = ", ".join(map(str, numbers))
            raise DatabaseError(
                f"{model} has versions {listed} in Production, and there can be one. Say which one stays, "
                f"for example `greenroom migrate --keep {model}={max(numbers)}`; the others are archived. "
                "Nothing was changed."
            )
        archived += [s for s in versions if s.version != keep[model]]
    return archived


def _run(connection: Connection, app: str) -> None:
    raw: Any = connection.connection.cursor()
    schema = connection.execute(text("SELECT current_schema()")).scalar()
    statement = sql.SQL(_SCHEMA.read_text("utf-8"))
    raw.execute(statement.format(app=sql.Identifier(app), schema=sql.Identifier(str(schema))))
    database = connection.execute(text("SELECT current_database()")).scalar()
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
    raw.execute(grant.format(sql.Identifier(str(database)), sql.Identifier(app)))


def _require_role(connection: Connection, app: str) -> None:
    if not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :r"), {"r": app}).scalar():
        raise DatabaseError(
            f"There is no role {app} in the database. Create it first: CREATE ROLE {app} LOGIN PASSWORD '…'."
        )


def _take_over(connection: Connection, app: str, *, dry_run: bool) -> list[str]:
    """Let the installing role own what the server's role owned: an owner can drop every guard."""
    owns = connection.execute(
        text("SELECT count(*) FROM pg_tables WHERE tableowner = :r AND schemaname = current_schema()"),
        {"r": app},
    ).scalar()
    if not owns:
        return []
    if not dry_run:
        # Role names come from the server's own URL; quoted all the same.
        quoted = connection.dialect.identifier_preparer.quote(app)
        connection.execute(text(f"REASSIGN OWNED BY {quoted} TO CURRENT_USER"))
    return [
        f"{owns} tables that {app} owned {'would belong' if dry_run else 'belong'} to the installing role."
    ]


def _installed(connection: Connection) -> str | None:
    if not inspect(connection).has_table("installed", schema="greenroom"):
        return None
    found: str | None = connection.execute(text("SELECT digest FROM greenroom.installed")).scalar()
    return found


def _weaknesses(connection: Connection) -> list[str]:
    query = text(
        "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), "
        "pg_has_role((SELECT tableowner FROM pg_tables WHERE tablename = 'model_versions' "
        "             AND schemaname = current_schema())::name, 'USAGE'), "
        "has_table_privilege('greenroom.audit', 'INSERT, UPDATE, DELETE, TRUNCATE')"
    )
    superuser, owner, writes = connection.execute(query).one()
    problems = []
    if superuser:
        problems.append("is a superuser")
    if owner:
        problems.append("owns MLflow's tables")
    if writes:
        problems.append("can write to the audit")
    return problems
