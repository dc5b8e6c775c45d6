"""The guard's part of the database: installing it, and refusing to work without it."""

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy import Connection, Engine, create_engine, dialects, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError, SQLAlchemyError

from registry.errors import RegistryError
from registry.server.settings import GuardSettings, MigrationSettings

# How long a request waits for another connection that holds what it needs.
LOCK_TIMEOUT = "10s"
_SCHEME = re.compile(r"[a-z][a-z0-9+]*")
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
    """Return a PostgreSQL URL with the driver that MLflow works with; `DatabaseError` for any other.

    The error never shows the address, which may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.startswith("postgresql"):
        kind = f"{scheme} database" if separator and _SCHEME.fullmatch(scheme) else "something else"
        raise DatabaseError(
            f"Greenroom's guard lives in PostgreSQL, and the address given is that of {kind}. Set {setting}, "
            "or MLflow's --backend-store-uri, to postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        )
    try:
        # SQLAlchemy's default is psycopg 3, which need not be installed.
        address = make_url(f"postgresql+{_driver()}://{rest}")
    except (ArgumentError, ValueError):
        address = None
    if address is None or "@" in (address.host or "") or rest.count("@") > 1:
        raise DatabaseError(
            f"{setting} is no address that can be read: postgresql://USER:PASSWORD@HOST:PORT/DATABASE. In a "
            "password write @ as %40, : as %3A and / as %2F."
        ) from None
    return address.render_as_string(hide_password=False)


def _driver() -> str:
    return "psycopg2" if find_spec("psycopg2") else "psycopg"


def prefer_installed_driver() -> None:
    """Let `postgresql://` mean the driver that is installed, wherever MLflow itself uses its address.

    SQLAlchemy takes psycopg 3 for it, which need not be there.
    """
    if find_spec("psycopg") is None and find_spec("psycopg2"):
        dialects.registry.register("postgresql", "sqlalchemy.dialects.postgresql.psycopg2", "dialect")


def installed_digest() -> str:
    """Return what `greenroom.installed` holds when this code's schema and this MLflow's are in place."""
    return sha256(_SCHEMA.read_bytes() + version("mlflow").encode()).hexdigest()


def bound_waits(engine: Engine) -> None:
    """Let no connection of an engine wait for ever for another one that holds a lock."""
    if not event.contains(engine, "connect", _set_lock_timeout):
        event.listen(engine, "connect", _set_lock_timeout)
        engine.dispose()  # MLflow has tried a connection already, which would be kept as it is


def _set_lock_timeout(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    connection.commit()


def require_ready(address: str) -> None:
    """Raise `DatabaseError` unless there is a database with the guard at a normalised address."""
    engine = create_engine(address)
    try:
        require_installed(engine)
    except OperationalError as error:
        answer = str(error.orig).strip().splitlines()[0]
        raise DatabaseError(f"The registry's database does not let MLflow's server in: {answer}.") from error
    finally:
        engine.dispose()


def require_installed(engine: Engine) -> None:
    """Raise `DatabaseError` unless the guard is installed, and out of reach of the role we run as."""
    with engine.connect() as connection:
        role = str(connection.execute(text("SELECT current_user")).scalar())
        try:
            if _installed(connection) != installed_digest():
                raise DatabaseError(f"{explain(connection)} {_MIGRATE}")
            problems = _weaknesses(connection, role)
        except ProgrammingError as error:
            raise DatabaseError(f"The role {role} may not read the registry's tables. {_MIGRATE}") from error
    if problems:
        raise DatabaseError(f"{_too_strong(role, problems)} {_MIGRATE}")


def _too_strong(role: str, problems: list[str]) -> str:
    return (
        f"The role {role} that MLflow's server logs in as {' and '.join(problems)}, so the audit and the "
        "guards in the database could be gone round. Give the server a role of its own."
    )


def explain(connection: Connection) -> str:
    """Return sentences about what there is, for a person who starts the guard on an older registry."""
    if not inspect(connection).has_table("model_versions"):
        return "The database holds no MLflow tables yet."
    versions = staged(connection)
    if not versions:
        return "Greenroom's guard is not installed in this database, or an older one is."
    listed = ", ".join(f"{s.model} version {s.version} in {s.stage}" for s in versions)
    twice = doubled(versions)
    more = (
        f" {' and '.join(twice)} {'has' if len(twice) == 1 else 'have'} more than one version in Production, "
        "and there can be one: choose with `--keep MODEL=VERSION`."
        if twice
        else ""
    )
    return (
        f"Greenroom's guard is not installed in this database, which holds {listed}, without evidence.{more}"
    )


def foreign_rows(connection: Connection) -> list[str]:
    """Return up to ten models and webhooks in another workspace than the one that Greenroom has, in words."""
    query = text(
        "SELECT 'the model ' || name || ' in the workspace ' || workspace FROM registered_models "
        "WHERE workspace <> 'default' UNION ALL "
        "SELECT 'the webhook ' || name || ' in the workspace ' || workspace FROM webhooks "
        "WHERE workspace <> 'default' LIMIT 10"
    )
    return [str(row) for (row,) in connection.execute(query)]


def staged(connection: Connection) -> list[Staged]:
    """Return the versions that are in Staging or Production."""
    rows = connection.execute(
        text(
            "SELECT name, version, current_stage FROM model_versions "
            "WHERE current_stage IN ('Staging', 'Production') ORDER BY name, version"
        )
    )
    return [Staged(*row) for row in rows]


def doubled(versions: list[Staged]) -> list[str]:
    """Return the models that have more than one version in Production."""
    names = [s.model for s in versions if s.stage == "Production"]
    return sorted({name for name in names if names.count(name) > 1})


def install(settings: MigrationSettings, *, keep: dict[str, int], dry_run: bool) -> list[str]:
    """Bring MLflow's tables up to date, install the guard, and return what was done, a sentence each.

    `keep` says which version stays in Production of a model that has several; the others are archived.
    Raises `DatabaseError` when something has to be decided or corrected first; then nothing was changed.
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
    try:
        return _installed_by(engine, app, keep, dry_run=dry_run)
    except (SQLAlchemyError, psycopg2.Error) as error:
        # The driver's first line says what PostgreSQL said; the statement would tell nobody anything.
        answer = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise DatabaseError(
            f"PostgreSQL did not do what GREENROOM_DATABASE_ADMIN_URL was to do: {answer}. That role must "
            "own MLflow's tables, or be a superuser."
        ) from error
    finally:
        engine.dispose()


def _installed_by(engine: Engine, app: str, keep: dict[str, int], *, dry_run: bool) -> list[str]:
    with engine.connect() as connection:
        _require_role(connection, app)
        if _installed(connection) == installed_digest() and _has_rights(connection, app):
            return ["The guard is installed, and up to date."]
        if inspect(connection).has_table("model_versions"):
            _to_archive(staged(connection), keep)  # decided before anything is touched
    sentences = []
    with engine.begin() as connection:
        sentences += _take_over(connection, app, dry_run=dry_run)
    if not dry_run:
        _migrate_mlflow(engine)
        sentences.append(f"MLflow's tables are those of MLflow {version('mlflow')}.")
    with engine.begin() as connection:
        sentences += _install(connection, app, keep, dry_run=dry_run)
        problems = [] if dry_run else _weaknesses(connection, app)
        if problems:
            raise DatabaseError(f"{_too_strong(app, problems)} Then run `greenroom migrate` again.")
    return sentences


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
    versions = staged(connection)
    sentences = [f"Found {s.model} version {s.version} in {s.stage}." for s in versions]
    archived = _to_archive(versions, keep)
    sentences += [
        f"{s.model} version {s.version} is archived; version {keep[s.model]} stays." for s in archived
    ]
    if dry_run:
        return [*sentences, "Nothing was changed."]
    first = not inspect(connection).has_table("audit", schema="greenroom")
    for gone in archived:
        connection.execute(
            text("UPDATE model_versions SET current_stage = 'Archived' WHERE name = :n AND version = :v"),
            {"n": gone.model, "v": gone.version},
        )
    _run(connection, app)
    if first:
        for version in versions:
            stage = "Archived" if version in archived else version.stage
            connection.execute(
                text(
                    "SELECT greenroom.append(jsonb_build_object('action', 'found', 'actor', "
                    "session_user::text, 'model', CAST(:m AS text), 'version', CAST(:v AS int), "
                    "'to', CAST(:s AS text), 'reason', 'was there when the audit began'))"
                ),
                {"m": version.model, "v": version.version, "s": stage},
            )
    connection.execute(
        text(
            "INSERT INTO greenroom.installed (digest) VALUES (:d) "
            "ON CONFLICT (only_one) DO UPDATE SET digest = excluded.digest"
        ),
        {"d": installed_digest()},
    )
    unproven = [s for s in versions if s not in archived]
    sentences.append("The guard is installed.")
    sentences += [
        f"The database holds {row}, which the server does not show." for row in foreign_rows(connection)
    ]
    sentences += [
        f"{s.model} version {s.version} stays in {s.stage} without evidence: the predictor will not load it "
        f"until `greenroom gate {s.model} {s.version} --rerun`, or `greenroom promote {s.model} {s.version} "
        f"--to {s.stage} --override --reason …`."
        for s in unproven
        if first
    ]
    return sentences


def _to_archive(versions: list[Staged], keep: dict[str, int]) -> list[Staged]:
    archived = []
    for model in doubled(versions):
        in_production = [s for s in versions if s.model == model and s.stage == "Production"]
        numbers = [s.version for s in in_production]
        if keep.get(model) not in numbers:
            listed = ", ".join(map(str, numbers))
            raise DatabaseError(
                f"{model} has versions {listed} in Production, and there can be one. Say which one stays, "
                f"for example `greenroom migrate --keep {model}={max(numbers)}`; the others are archived. "
                "Nothing was changed."
            )
        archived += [s for s in in_production if s.version != keep[model]]
    return archived


def _run(connection: Connection, app: str) -> None:
    raw: Any = connection.connection.cursor()
    schema = connection.execute(text("SELECT current_schema()")).scalar()
    statement = sql.SQL(_SCHEMA.read_text("utf-8"))
    names = {"app": sql.Identifier(app), "app_name": sql.Literal(app), "schema": sql.Identifier(str(schema))}
    raw.execute(statement.format(**names))
    database = connection.execute(text("SELECT current_database()")).scalar()
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
    raw.execute(grant.format(sql.Identifier(str(database)), sql.Identifier(app)))


def _require_role(connection: Connection, app: str) -> None:
    if not connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :r"), {"r": app}).scalar():
        raise DatabaseError(
            f"There is no role {app} in the database. Create it first: CREATE ROLE {app} LOGIN PASSWORD '…'."
        )


def _take_over(connection: Connection, app: str, *, dry_run: bool) -> list[str]:
    """Let the installing role own what the server's role owned here: an owner can drop every guard."""
    quote = connection.dialect.identifier_preparer.quote
    tables = connection.execute(
        text(
            "SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.relname "
            "FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN "
            "('r', 'p', 'v', 'S') AND c.relowner = CAST(:r AS regrole) AND NOT EXISTS (SELECT 1 FROM "
            "pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S')"
        ),
        {"r": quote(app)},
    ).all()
    commands = [f"ALTER {kind} {quote(name)} OWNER TO CURRENT_USER" for kind, name in tables]
    sentences = []
    if tables:
        verb = "would belong" if dry_run else "belong"
        sentences.append(f"{len(tables)} tables that {app} owned {verb} to the installing role.")
    owned = connection.execute(
        text(
            "SELECT current_database(), datdba = CAST(:r AS regrole), current_schema(), "
            "nspowner = CAST(:r AS regrole) FROM pg_database, pg_namespace "
            "WHERE datname = current_database() AND nspname = current_schema()"
        ),
        {"r": quote(app)},
    ).one()
    for kind, name, is_owner in (("DATABASE", *owned[:2]), ("SCHEMA", *owned[2:])):
        if is_owner:
            commands.append(f"ALTER {kind} {quote(name)} OWNER TO CURRENT_USER")
            verb = "would belong" if dry_run else "belongs"
            sentences.append(f"The {kind.lower()} {name}, which {app} owned, {verb} to the installing role.")
    if tables:
        # At once, so that a server which runs as that role goes on should anything after this fail.
        schema = quote(str(owned[2]))
        commands.append(f"GRANT USAGE ON SCHEMA {schema} TO {quote(app)}")
        commands.append(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {quote(app)}"
        )
    for command in [] if dry_run else commands:
        connection.execute(text(command))
    return sentences


def _installed(connection: Connection) -> str | None:
    if not inspect(connection).has_table("installed", schema="greenroom"):
        return None
    installed: str | None = connection.execute(text("SELECT digest FROM greenroom.installed")).scalar()
    return installed


def _has_rights(connection: Connection, role: str) -> bool:
    """Whether the server's role can work, and no more than that."""
    query = text(
        # Not part of a database's dump, so a restored one has lost it.
        "SELECT has_database_privilege(:r, current_database(), 'CONNECT') AND "
        "has_table_privilege(:r, 'model_versions', 'SELECT') AND "
        "has_table_privilege(:r, 'model_versions', 'UPDATE') AND "
        "has_schema_privilege(:r, 'greenroom', 'USAGE') AND "
        "has_table_privilege(:r, 'greenroom.audit', 'SELECT') AND "
        "has_function_privilege(:r, 'greenroom.record(jsonb)', 'EXECUTE')"
    )
    return bool(connection.execute(query, {"r": role}).scalar()) and not _weaknesses(connection, role)


def _weaknesses(connection: Connection, role: str) -> list[str]:
    """Return what makes a role able to go round the guards. Membership counts: a member can SET ROLE."""
    query = text(
        "SELECT rolsuper, rolcreaterole, "
        "EXISTS (SELECT 1 FROM pg_class WHERE relkind IN ('r', 'p') AND pg_has_role(:r, relowner, 'MEMBER') "
        "        AND relnamespace IN (current_schema()::regnamespace, 'greenroom'::regnamespace)), "
        "pg_has_role(:r, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER'), "
        "EXISTS (SELECT 1 FROM pg_namespace WHERE nspname IN (current_schema(), 'greenroom') "
        "        AND pg_has_role(:r, nspowner, 'MEMBER')), "
        "has_table_privilege(:r, 'model_versions', 'TRIGGER'), "
        "has_table_privilege(:r, 'model_versions', 'TRUNCATE'), "
        "has_table_privilege(:r, 'greenroom.audit', 'INSERT, UPDATE, DELETE, TRUNCATE') "
        "OR has_table_privilege(:r, 'greenroom.head', 'INSERT, UPDATE, DELETE, TRUNCATE') "
        "OR has_function_privilege(:r, 'greenroom.append(jsonb)', 'EXECUTE') "
        "FROM pg_roles WHERE rolname = :r"
    )
    powers = connection.execute(query, {"r": role}).one()
    problems = (
        "is a superuser",
        "may create roles",
        "owns tables of MLflow's or of the audit",
        "owns the database",
        "owns the schema",
        "may set triggers on MLflow's tables",
        "may truncate MLflow's tables",
        "can write to the audit",
    )
    return [problem for problem, true in zip(problems, powers, strict=True) if true]
