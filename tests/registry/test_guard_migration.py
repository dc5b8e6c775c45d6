"""The guard on a registry that was there before: what a start says, what `greenroom migrate` does, and what
the role that MLflow's server runs as can still do in the database."""

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import errors, sql
from tracking_server import refused_start, tracking_server

from infra.local.process import environment
from registry.audit import Row, broken_links
from registry.client import audit_log
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from registry.settings import RegistrySettings
from tests.conftest import Stack

pytestmark = pytest.mark.slow

_PLAIN_ROLE = "greenroom_test_plain"


@dataclass
class Server:
    """The stack's PostgreSQL, as its superuser; forgets nothing that it must drop."""

    port: int
    password: str = field(repr=False)
    databases: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def connect(self, database: str, user: str = "postgres", password: str = "") -> Any:
        return psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=user,
            password=password or self.password,
            connect_timeout=5,
        )

    def run(
        self, statement: str, *names: str, values: tuple[Any, ...] = (), database: str = "postgres"
    ) -> None:
        connection = self.connect(database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)), values)
        finally:
            connection.close()

    def role(self, name: str) -> str:
        password = f"geheim{secrets.token_hex(12)}"
        self.run("CREATE ROLE {} LOGIN PASSWORD %s", name, values=(password,))
        self.roles.append(name)
        return password

    def database(self, name: str, owner: str, template: str = "template1") -> None:
        self.run("CREATE DATABASE {} OWNER {} TEMPLATE {}", name, owner, template)
        self.databases.append(name)
        self.run("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", name)

    def drop(self) -> None:
        for name in reversed(self.databases):
            self.run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        for name in reversed(self.roles):
            self.run("DROP ROLE IF EXISTS {}", name)


@dataclass
class Site:
    """A database with MLflow's tables, the role that owns them, and the one that the server is to run as."""

    server: Server
    database: str
    owner: str
    app: str
    passwords: dict[str, str] = field(repr=False)

    def url(self, role: str) -> str:
        password = self.passwords[role]
        return f"postgresql://{role}:{password}@127.0.0.1:{self.server.port}/{self.database}"

    def role(self, name: str) -> str:
        """Make one more role, that may connect."""
        self.passwords[name] = self.server.role(name)
        self.server.run("GRANT CONNECT ON DATABASE {} TO {}", self.database, name)
        return name

    def connect(self, role: str) -> Any:
        return self.server.connect(self.database, role, self.passwords[role])

    def as_superuser(self, statement: str, *names: str, values: tuple[Any, ...] = ()) -> None:
        self.server.run(statement, *names, values=values, database=self.database)

    def run(self, role: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as a role, and commit."""
        connection = self.connect(role)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def attempt(self, role: str, *statements: str) -> None:
        """Run statements as a role, and take them back: for what should fail."""
        connection = self.connect(role)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.rollback()
            connection.close()

    def give_tables_to(self, role: str) -> None:
        tables = self.run(self.owner, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in tables:
            self.as_superuser("ALTER TABLE {} OWNER TO {}", table, role)

    def stages(self) -> dict[tuple[str, int], str]:
        found = self.run(self.owner, "SELECT name, version, current_stage FROM model_versions")
        return {(name, version): stage for name, version, stage in found}

    def rows(self) -> list[Row]:
        found = self.run(self.owner, "SELECT body FROM greenroom.audit ORDER BY id")
        return [Row.model_validate_json(body) for (body,) in found]

    def migrate(self, *arguments: str, **changed: str) -> tuple[int, str]:
        """Run `greenroom migrate`; returns its exit code and all that it printed."""
        variables = {
            "GREENROOM_DATABASE_URL": self.url(self.app),
            "GREENROOM_DATABASE_ADMIN_URL": self.url(self.owner),
            **changed,
        }
        done = subprocess.run(
            [str(Path(sys.executable).parent / "greenroom"), "migrate", *arguments],
            env=environment({name: value for name, value in variables.items() if value}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, self.clean(done.stdout + done.stderr)

    def start(self, folder: Path, role: str) -> tuple[int, str]:
        """Start a server that should not start, as a role."""
        code, said = refused_start(folder, self.variables(folder, role))
        return code, self.clean(said)

    def variables(self, folder: Path, role: str) -> dict[str, str]:
        return {"MLFLOW_BACKEND_STORE_URI": psycopg2_url(self.url(role)), "GREENROOM_HOME": str(folder)}

    def clean(self, said: str) -> str:
        """Nothing that a person is shown holds a password."""
        for password in (*self.passwords.values(), self.server.password):
            assert password not in said
        return said


def psycopg2_url(url: str) -> str:
    # MLflow's own store fails with psycopg 3, SQLAlchemy's default (mlflow#24592).
    return url.replace("postgresql://", "postgresql+psycopg2://")


def one_line(said: str) -> str:
    return " ".join(said.split())


@pytest.fixture(scope="module")
def server(stack: Stack) -> Iterator[Server]:
    env = dict(line.split("=", 1) for line in (stack.home / "stack.env").read_text().splitlines())
    found = Server(stack.ports["POSTGRES"], env["GREENROOM_POSTGRES_PASSWORD"])
    try:
        yield found
    finally:
        found.drop()


@pytest.fixture(scope="module")
def plain(server: Server) -> str:
    """A registry that plain MLflow made: `twice` has two versions in Production, `once` has one."""
    name = f"greenroom_test_{uuid4().hex[:8]}"
    password = server.role(_PLAIN_ROLE)
    server.database(name, _PLAIN_ROLE)
    _fill(f"postgresql+psycopg2://{_PLAIN_ROLE}:{password}@127.0.0.1:{server.port}/{name}")
    return name


def _fill(url: str) -> None:
    # Imported here: MLflow takes seconds.
    from mlflow.entities.model_registry import ModelVersionTag  # noqa: PLC0415
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    store = SqlAlchemyStore(url)
    stages = {
        "twice": ["Archived", "Production", "Production", "None"],
        "once": ["Production", "Staging", "None"],
        "idle": ["None"],
    }
    for model, wanted in stages.items():
        store.create_registered_model(model)
        for number, stage in enumerate(wanted, start=1):
            store.create_model_version(model, f"mlflow-artifacts:/1/models/m-{number}/artifacts")
            if stage != "None":
                store.transition_model_version_stage(model, number, stage, archive_existing_versions=False)
    store.set_registered_model_alias("once", "champion", 1)
    store.set_model_version_tag("once", 1, ModelVersionTag("owner", "olga"))
    store.engine.dispose()


def new_site(server: Server, template: str) -> Site:
    """A database and two roles, whose names are used by no other."""
    name = f"greenroom_test_{uuid4().hex[:8]}"
    owner, app = f"{name}_owner", f"{name}_app"
    passwords = {role: server.role(role) for role in (owner, app)}
    server.database(name, owner, template)
    server.run("GRANT CONNECT ON DATABASE {} TO {}", name, app)
    return Site(server, name, owner, app, passwords)


@pytest.fixture(scope="module")
def make_site(server: Server, plain: str) -> Callable[[], Site]:
    def made() -> Site:
        found = new_site(server, plain)
        found.give_tables_to(found.owner)
        return found

    return made


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    """A plain registry of a test's own."""
    return make_site()


@pytest.fixture(scope="module")
def untouched(make_site: Callable[[], Site]) -> Site:
    """A plain registry, for what is refused, or only said."""
    return make_site()


@pytest.fixture(scope="module")
def guarded(make_site: Callable[[], Site]) -> Site:
    """One that was migrated, for tests that leave it as it was or only add to it."""
    found = make_site()
    code, said = found.migrate("--keep", "twice=3")
    assert code == 0, said
    return found


@pytest.fixture(scope="module")
def client(guarded: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingClient]:
    """A guarded server on the migrated registry, as the role that has no more than it needs."""
    folder = tmp_path_factory.mktemp("server")
    with (
        tracking_server(folder, guarded.variables(folder, guarded.app)) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as found,
    ):
        yield found
    guarded.clean((folder / "mlflow.log").read_text())


# Before


def test_a_start_on_a_plain_registry_says_what_it_found_and_what_to_do(
    untouched: Site, tmp_path: Path
) -> None:
    code, said = untouched.start(tmp_path, untouched.owner)
    said = one_line(said)
    assert code != 0
    assert "twice version 2 in Production, twice version 3 in Production" in said
    assert "once version 1 in Production, once version 2 in Staging" in said
    assert "twice has more than one version in Production" in said
    assert "--keep MODEL=VERSION" in said
    assert "greenroom migrate" in said
    assert "twice version 1" not in said


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(untouched: Site) -> None:
    site = untouched
    before = picture(site)
    code, said = site.migrate("--dry-run")
    assert code == 1, said
    assert "--keep twice=3" in said
    code, said = site.migrate("--dry-run", "--keep", "twice=2")
    assert code == 0, said
    assert "Found twice version 3 in Production." in said
    assert "Found once version 2 in Staging." in said
    assert "twice version 3 is archived; version 2 stays." in said
    assert "Nothing was changed." in said
    site.give_tables_to(site.app)
    before_take_over = picture(site)
    code, said = site.migrate(
        "--dry-run", "--keep", "twice=2", GREENROOM_DATABASE_ADMIN_URL=superuser_url(site)
    )
    assert code == 0, said
    assert f"tables that {site.app} owned would belong to the installing role" in said
    assert picture(site) == before_take_over
    site.give_tables_to(site.owner)
    assert picture(site) == before


def superuser_url(site: Site) -> str:
    return f"postgresql://postgres:{site.server.password}@127.0.0.1:{site.server.port}/{site.database}"


def picture(site: Site) -> list[Any]:
    """What there is in a database: relations with owners and rights, triggers, constraints, versions."""
    queries = (
        "SELECT nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace ORDER BY 1",
        "SELECT relnamespace::regnamespace::text, relname, relowner::regrole::text, relacl::text "
        "FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'greenroom') ORDER BY 1, 2",
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
        "SELECT conname FROM pg_constraint ORDER BY 1",
        "SELECT name, version, current_stage FROM public.model_versions ORDER BY 1, 2",
    )
    connection = site.server.connect(site.database)
    try:
        with connection.cursor() as cursor:
            found = []
            for query in queries:
                cursor.execute(query)
                found.append(cursor.fetchall())
            return found
    finally:
        connection.close()


# Migrating


def test_migrate_asks_which_production_stays_and_installs(site: Site) -> None:
    before = site.stages()
    for arguments in ((), ("--keep", "once=1"), ("--keep", "twice=4"), ("--keep", "twice=9")):
        code, said = site.migrate(*arguments)
        assert code == 1, said
        assert "twice has versions 2, 3 in Production, and there can be one" in said
        assert "--keep twice=3" in said
        assert site.stages() == before
    assert site.run(site.owner, "SELECT count(*) FROM pg_namespace WHERE nspname = 'greenroom'") == [(0,)]

    code, said = site.migrate("--keep", "twice=2")
    assert code == 0, said
    assert "twice version 3 is archived; version 2 stays." in said
    assert "The guard is installed." in said
    assert "once version 1 stays in Production without evidence" in said
    assert "greenroom gate once 1 --rerun" in said
    assert "twice version 3 stays" not in said
    assert site.stages() == {**before, ("twice", 3): "Archived"}

    found = site.rows()
    code, said = site.migrate()
    assert (code, said.strip()) == (0, "The guard is installed, and up to date.")
    assert site.rows() == found
    assert [(row.action, row.model, row.version, row.to_stage) for row in found] == [
        ("found", "once", 1, "Production"),
        ("found", "once", 2, "Staging"),
        ("found", "twice", 2, "Production"),
        ("found", "twice", 3, "Archived"),
    ]
    assert {(row.actor, row.role, row.proven) for row in found} == {(site.owner, site.owner, False)}


@pytest.mark.parametrize("wrong", ["twice", "twice=", "=3", "twice=three", "twice=-1"])
def test_a_keep_that_makes_no_sense_is_refused(untouched: Site, wrong: str) -> None:
    code, said = untouched.migrate("--keep", wrong)
    assert code == 2
    assert "is not MODEL=VERSION" in said


def test_migrate_makes_the_tables_of_an_empty_database(server: Server) -> None:
    empty = new_site(server, "template1")
    code, said = empty.migrate("--dry-run")
    assert code == 0, said
    assert "MLflow's tables would be created" in said
    assert empty.run(empty.owner, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    code, said = empty.migrate()
    assert code == 0, said
    assert "The guard is installed." in said
    assert (empty.stages(), empty.rows()) == ({}, [])


def test_the_same_role_for_both_is_refused(untouched: Site) -> None:
    site = untouched
    for role in (site.owner, site.app):
        url = site.url(role)
        code, said = site.migrate(
            "--keep", "twice=3", GREENROOM_DATABASE_URL=url, GREENROOM_DATABASE_ADMIN_URL=psycopg2_url(url)
        )
        assert code == 1
        assert f"logs in as {role}, the role that MLflow's server runs as" in said
        assert "give the server a second role" in said


def test_a_role_that_does_not_exist_is_refused(untouched: Site) -> None:
    url = untouched.url(untouched.app).replace(f"{untouched.app}:", "nobody_of_that_name:")
    code, said = untouched.migrate("--keep", "twice=3", GREENROOM_DATABASE_URL=url)
    assert code == 1
    assert "There is no role nobody_of_that_name in the database" in said
    assert "CREATE ROLE nobody_of_that_name LOGIN" in said


def test_settings_that_are_missing_are_named(untouched: Site) -> None:
    code, said = untouched.migrate(GREENROOM_DATABASE_ADMIN_URL="")
    assert (code, "GREENROOM_DATABASE_ADMIN_URL" in said) == (1, True)
    code, said = untouched.migrate(GREENROOM_DATABASE_URL="")
    assert (code, "GREENROOM_DATABASE_URL" in said) == (1, True)
    assert "Traceback" not in said


def test_mlflows_own_setting_names_the_servers_role_too(untouched: Site) -> None:
    site = untouched
    code, said = site.migrate(
        "--dry-run",
        *("--keep", "twice=3"),
        GREENROOM_DATABASE_URL="",
        MLFLOW_BACKEND_STORE_URI=psycopg2_url(site.url(site.app)),
    )
    assert code == 0, said


WRONG_URLS = {
    "a file": "sqlite:////tmp/mlflow.db",
    "another database": "mysql+pymysql://u:{password}@127.0.0.1/x",
    "libpq's form": "host=127.0.0.1 user={role} password={password} dbname=x",
    "a form without scheme": "{role}:{password}@127.0.0.1/x",
    "an @ in the password": "postgresql://{role}:p@{password}@127.0.0.1/x",
    "an @ and a : in the password": "postgresql://{role}:p@{password}:{password}@127.0.0.1/x",
    "a port that is no number": "postgresql://{role}:{password}@127.0.0.1:x/x",
}


@pytest.mark.parametrize("setting", ["GREENROOM_DATABASE_URL", "GREENROOM_DATABASE_ADMIN_URL"])
@pytest.mark.parametrize("kind", WRONG_URLS)
def test_an_address_that_is_no_postgresql_is_refused_without_showing_it(
    untouched: Site, kind: str, setting: str
) -> None:
    site = untouched
    role = site.app if setting == "GREENROOM_DATABASE_URL" else site.owner
    url = WRONG_URLS[kind].format(role=role, password=site.passwords[role])
    code, said = site.migrate("--keep", "twice=3", **{setting: url})
    assert code == 1
    assert "Traceback" not in said
    assert setting in said


@pytest.mark.parametrize("what", ["password", "port"])
def test_a_database_that_does_not_let_us_in_is_explained(untouched: Site, what: str) -> None:
    site = untouched
    url = site.url(site.owner)
    wrong = (
        url.replace(site.passwords[site.owner], "wrong")
        if what == "password"
        else url.replace(f":{site.server.port}/", ":1/")
    )
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=wrong)
    assert code in (1, 2)
    assert "Traceback" not in said
    assert "greenroom: " in said


def test_a_role_that_may_not_install_is_explained(untouched: Site) -> None:
    weak = untouched.role(f"{untouched.database}_weak")
    code, said = untouched.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=untouched.url(weak))
    assert code in (1, 2)
    assert "Traceback" not in said
    assert "greenroom: " in said


def test_a_role_that_owned_the_tables_is_dispossessed(site: Site, tmp_path: Path) -> None:
    site.give_tables_to(site.app)
    code, said = site.start(tmp_path / "before", site.app)
    assert (code != 0, "greenroom migrate" in one_line(said)) == (True, True)
    admin = superuser_url(site)
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=admin)
    assert code == 0, said
    assert f"tables that {site.app} owned belong to the installing role" in said
    for attack in ("DROP INDEX greenroom_one_production", "ALTER TABLE model_versions DISABLE TRIGGER USER"):
        with pytest.raises(errors.InsufficientPrivilege):
            site.attempt(site.app, attack)
    folder = tmp_path / "after"
    with (
        tracking_server(folder, site.variables(folder, site.app)) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as client,
    ):
        assert Registry(client).models() == ["idle", "once", "twice"]
        client.post("registered-models/create", {"name": "after"})


def test_a_role_is_dispossessed_of_no_other_database(site: Site) -> None:
    other = f"{site.database}_other"
    site.server.database(other, site.app)
    site.give_tables_to(site.app)
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
    assert code == 0, said
    query = "SELECT datdba::regrole::text FROM pg_database WHERE datname = %s"
    assert site.run(site.owner, query, other) == [(site.app,)]


def test_a_refusal_leaves_a_single_role_registry_working(site: Site) -> None:
    # It says that nothing was changed: the server that runs as this role goes on running.
    site.give_tables_to(site.app)
    before = picture(site)
    code, said = site.migrate(GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
    assert code == 1
    assert "Nothing was changed." in said
    site.attempt(site.app, "SELECT * FROM model_versions", "UPDATE model_versions SET description = 'x'")
    assert picture(site) == before


def test_another_role_for_the_server_gets_its_rights_from_a_second_run(guarded: Site) -> None:
    other = guarded.role(f"{guarded.database}_other")
    code, said = guarded.migrate(GREENROOM_DATABASE_URL=guarded.url(other))
    assert code == 0, said
    guarded.attempt(other, "SELECT * FROM model_versions", "SELECT * FROM greenroom.audit")
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(other, "DELETE FROM greenroom.audit")


def test_a_role_that_lost_its_way_in_gets_it_back_from_a_second_run(guarded: Site) -> None:
    # As after a restore: whom a database lets in is no part of its dump.
    guarded.as_superuser("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", guarded.database)
    guarded.as_superuser("REVOKE CONNECT ON DATABASE {} FROM {}", guarded.database, guarded.app)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        guarded.attempt(guarded.app, "SELECT 1")
    code, said = guarded.migrate()
    assert code == 0, said
    guarded.attempt(guarded.app, "SELECT * FROM model_versions")


def test_a_second_run_finds_a_role_that_does_not_exist_too(guarded: Site) -> None:
    url = guarded.url(guarded.app).replace(f"{guarded.app}:", "nobody_of_that_name:")
    code, said = guarded.migrate(GREENROOM_DATABASE_URL=url)
    assert code == 1, said
    assert "There is no role nobody_of_that_name in the database" in said


def test_a_second_run_dispossesses_a_role_that_came_to_own_the_tables(weakened: Site) -> None:
    # A start is refused then, and names this very command.
    site = weakened
    site.give_tables_to(site.app)
    try:
        code, said = site.migrate(GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
        assert code == 0, said
        with pytest.raises(errors.InsufficientPrivilege):
            site.attempt(site.app, "ALTER TABLE model_versions DISABLE TRIGGER USER")
    finally:
        site.give_tables_to(site.owner)
        rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}"
        site.as_superuser(rights, site.app)


# Starting on a database that the guard could be gone round in


# What makes the server's role too strong, and what takes that back. {db}, {owner}, {app} are names.
WEAKNESSES = {
    "a superuser": ("ALTER ROLE {app} SUPERUSER", "ALTER ROLE {app} NOSUPERUSER"),
    "owns the tables": (
        "ALTER TABLE model_versions OWNER TO {app}",
        "ALTER TABLE model_versions OWNER TO {owner}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON model_versions TO {app}",
    ),
    "owns the table of aliases": (
        "ALTER TABLE registered_model_aliases OWNER TO {app}",
        "ALTER TABLE registered_model_aliases OWNER TO {owner}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON registered_model_aliases TO {app}",
    ),
    "a member of the owner": ("GRANT {owner} TO {app}", "REVOKE {owner} FROM {app}"),
    "a member of the owner that must SET ROLE": (
        "GRANT {owner} TO {app} WITH INHERIT FALSE, SET TRUE",
        "REVOKE {owner} FROM {app}",
    ),
    "writes to the audit": (
        "GRANT INSERT ON greenroom.audit TO {app}",
        "REVOKE INSERT ON greenroom.audit FROM {app}",
    ),
    "writes to everything": ("GRANT pg_write_all_data TO {app}", "REVOKE pg_write_all_data FROM {app}"),
    # Whose schema `public` is, and the owner of a schema may drop what is in it.
    "owns the database": (
        "ALTER DATABASE {db} OWNER TO {app}",
        "ALTER DATABASE {db} OWNER TO {owner}",
        "GRANT CONNECT ON DATABASE {db} TO {app}",
    ),
    "owns the schema": (
        "ALTER SCHEMA public OWNER TO {app}",
        "ALTER SCHEMA public OWNER TO pg_database_owner",
        "GRANT USAGE ON SCHEMA public TO {app}",
    ),
    "owns the audit's table": (
        # It may give itself what was taken from it.
        "ALTER TABLE greenroom.audit OWNER TO {app}; "
        "REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON greenroom.audit FROM {app}",
        "ALTER TABLE greenroom.audit OWNER TO {owner}",
        "GRANT SELECT ON greenroom.audit TO {app}; GRANT ALL ON greenroom.audit TO {owner}",
    ),
    "calls append": (
        "GRANT EXECUTE ON FUNCTION greenroom.append(jsonb) TO {app}",
        "REVOKE EXECUTE ON FUNCTION greenroom.append(jsonb) FROM {app}",
    ),
}


@pytest.fixture(scope="module")
def weakened(make_site: Callable[[], Site]) -> Site:
    """A migrated registry, for tests that weaken it and take that back."""
    found = make_site()
    code, said = found.migrate("--keep", "twice=3")
    assert code == 0, said
    return found


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_a_start_as_a_role_that_could_go_round_the_guard_is_refused(weakened: Site, weakness: str) -> None:
    from sqlalchemy import create_engine  # noqa: PLC0415 - MLflow's, and slow

    from registry.server.database import DatabaseError, require_installed  # noqa: PLC0415

    site = weakened
    names = {"db": site.database, "owner": site.owner, "app": site.app}
    weaken, *back = (statement.format(**names) for statement in WEAKNESSES[weakness])
    # What a server asks at its start; a whole start each would cost more than it shows.
    engine = create_engine(psycopg2_url(site.url(site.app)))
    try:
        require_installed(engine)
        site.as_superuser(weaken)
        with pytest.raises(DatabaseError, match="a role of its own") as refusal:
            require_installed(engine)
        site.clean(str(refusal.value))
    finally:
        engine.dispose()
        for statement in back:
            site.as_superuser(statement)
    site.attempt(site.app, "SELECT * FROM model_versions", "SELECT * FROM greenroom.audit")


def test_a_start_as_a_superuser_is_refused(guarded: Site, tmp_path: Path) -> None:
    env = {"MLFLOW_BACKEND_STORE_URI": psycopg2_url(superuser_url(guarded)), "GREENROOM_HOME": str(tmp_path)}
    code, said = refused_start(tmp_path, env)
    said = one_line(guarded.clean(said))
    assert code != 0
    assert "is a superuser" in said
    assert "Give the server a role of its own" in said


def test_a_start_on_another_database_than_postgresql_is_refused(guarded: Site, tmp_path: Path) -> None:
    code, said = refused_start(
        tmp_path,
        {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "GREENROOM_HOME": str(tmp_path),
        },
    )
    assert code != 0
    said = one_line(said)
    assert "Greenroom's guard lives in PostgreSQL" in said
    assert "that of sqlite database. Set GREENROOM_DATABASE_URL" in said
    assert "--backend-store-uri" in said


# After


def test_the_server_starts_and_tells_what_was_found(guarded: Site, client: TrackingClient) -> None:
    registry = Registry(client)
    production = registry.in_stage("twice", Stage.PRODUCTION)
    assert production is not None
    assert production.number == 3
    rows = [row for row in audit_log.history(client, "twice") if row.action == "found"]
    assert [(row.version, row.to_stage) for row in rows] == [(2, "Archived"), (3, "Production")]
    assert not list(broken_links(audit_log.chain(client, "twice")))


OWNERS_WORK = (
    "UPDATE greenroom.audit SET body = '{{}}'",
    "DELETE FROM greenroom.audit",
    "TRUNCATE greenroom.audit",
    "INSERT INTO greenroom.audit VALUES (999, '', '{{}}', '', '')",
    "UPDATE greenroom.head SET id = 0",
    "DELETE FROM greenroom.head",
    "UPDATE greenroom.installed SET digest = ''",
    "DROP TABLE greenroom.audit",
    "DROP SCHEMA greenroom CASCADE",
    "CREATE TABLE greenroom.mine (id int)",
    "CREATE TABLE public.mine (id int)",
    "ALTER TABLE model_versions DISABLE TRIGGER ALL",
    "ALTER TABLE model_versions DISABLE TRIGGER greenroom_audit",
    "ALTER TABLE registered_model_aliases DISABLE TRIGGER greenroom_audit",
    "ALTER TABLE model_version_tags DISABLE TRIGGER greenroom_audit",
    "DROP TRIGGER greenroom_audit ON model_versions",
    "DROP INDEX greenroom_one_production",
    "ALTER TABLE model_versions DROP CONSTRAINT greenroom_known_stage",
    "ALTER TABLE model_versions RENAME TO other",
    "TRUNCATE model_versions CASCADE",
    "DROP TABLE model_versions CASCADE",
    "SET session_replication_role = replica",
    "SELECT greenroom.append('{{}}')",
    'SELECT greenroom.append(\'{{"action": "refused"}}\')',
    "SELECT greenroom.with_context('{{}}')",
    "CREATE OR REPLACE FUNCTION greenroom.on_version() RETURNS trigger LANGUAGE sql AS ''",
    "DROP FUNCTION greenroom.append(jsonb)",
    "ALTER FUNCTION greenroom.record(jsonb) SECURITY INVOKER",
    "CREATE TRIGGER mine BEFORE INSERT ON model_versions EXECUTE FUNCTION greenroom.on_version()",
    "CREATE RULE mine AS ON INSERT TO model_versions DO INSTEAD NOTHING",
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "ALTER ROLE {app} SUPERUSER",
)


@pytest.mark.parametrize("statement", OWNERS_WORK)
def test_what_belongs_to_the_owner_is_out_of_the_servers_reach(guarded: Site, statement: str) -> None:
    wanted = statement.format(owner=guarded.owner, app=guarded.app)
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(guarded.app, wanted)


@pytest.mark.parametrize("action", ["refused", "mismatch", "override"])
def test_the_server_may_record_what_changes_no_stage(guarded: Site, action: str) -> None:
    entry = {"action": action, "model": "twice", "version": 3, "actor": "me"}
    if action == "override":
        entry |= {"from": "Production", "to": "Production"}
    guarded.attempt(guarded.app, f"SELECT greenroom.record('{json.dumps(entry)}')")


@pytest.mark.parametrize(("number", "was"), [(2, "Archived"), (2, "Production"), (9, "Production")])
def test_the_server_may_not_record_an_override_of_what_is_not_in_production(
    guarded: Site, number: int, was: str
) -> None:
    entry = {"action": "override", "model": "twice", "version": number, "from": was, "to": "Production"}
    with pytest.raises(errors.RaiseException, match="in the stage that it is in"):
        guarded.attempt(guarded.app, f"SELECT greenroom.record('{json.dumps(entry)}')")


@pytest.mark.parametrize(
    "action", ["promoted", "staged", "rollback", "found", "sql", "archived", "deleted", "alias", "", None]
)
def test_the_server_may_not_record_what_triggers_write(guarded: Site, action: str | None) -> None:
    entry = json.dumps({"action": action, "model": "idle", "version": 1, "actor": "me"})
    with pytest.raises(errors.RaiseException, match="does not take the action"):
        guarded.attempt(guarded.app, f"SELECT greenroom.record('{entry}')")


def test_what_is_recorded_cannot_name_its_own_role_time_or_number(guarded: Site) -> None:
    entry = {"action": "refused", "model": "idle", "actor": "me", "role": "x", "id": 1, "at": "1999"}
    ((number,),) = guarded.run(guarded.app, "SELECT greenroom.record(%s)", json.dumps(entry))
    row = guarded.rows()[-1]
    assert (row.id, row.role, row.at[:2]) == (number, guarded.app, "20")


def test_the_functions_of_triggers_cannot_be_put_on_a_table_of_ones_own(guarded: Site) -> None:
    # Else a change of a temporary table would write whatever its maker likes into the audit.
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(
            guarded.app,
            "CREATE TEMP TABLE mine (LIKE model_versions)",
            "CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION greenroom.on_version()",
        )


IMPOSSIBLE = {
    "second Production by update": (
        errors.UniqueViolation,
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = 'twice' AND version = 2",
    ),
    "second Production by insert": (
        errors.UniqueViolation,
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('twice', 77, 'Production')",
    ),
    "unknown stage": (
        errors.CheckViolation,
        "UPDATE model_versions SET current_stage = 'production' WHERE name = 'idle'",
    ),
    "unknown stage by insert": (
        errors.CheckViolation,
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 77, 'Live')",
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_one_can_write_by_sql(guarded: Site, what: str) -> None:
    error, statement = IMPOSSIBLE[what]
    for role in (guarded.app, guarded.owner):
        with pytest.raises(error):
            guarded.attempt(role, statement)


def by_sql(site: Site, statement: str) -> Row:
    """Run a statement as the server's role, and return the one row that it left."""
    before = len(site.rows())
    site.run(site.app, statement)
    added = site.rows()[before:]
    assert len(added) == 1
    return added[0]


BY_SQL = (
    "UPDATE model_versions SET current_stage = 'Staging' WHERE name = 'idle' AND version = 1",
    "UPDATE model_versions SET source = 'elsewhere' WHERE name = 'idle' AND version = 1",
    "UPDATE model_versions SET storage_location = 'elsewhere' WHERE name = 'idle' AND version = 1",
    "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 2, 'Production')",
    "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('idle', 'champion', 1)",
    "UPDATE registered_model_aliases SET version = 2 WHERE name = 'idle'",
    "DELETE FROM registered_model_aliases WHERE name = 'idle'",
    "INSERT INTO model_version_tags (name, version, key, value) "
    "VALUES ('idle', 2, 'greenroom.evidence', 'x')",
    "UPDATE model_version_tags SET value = 'y' WHERE name = 'idle'",
    "DELETE FROM model_version_tags WHERE name = 'idle'",
    "DELETE FROM model_versions WHERE name = 'idle' AND version = 2",
)


def test_changes_by_sql_leave_rows_that_name_the_role(guarded: Site, client: TrackingClient) -> None:
    rows = [by_sql(guarded, statement) for statement in BY_SQL]
    assert {(row.action, row.actor, row.role, row.proven) for row in rows} == {
        ("sql", guarded.app, guarded.app, False)
    }
    assert {row.model for row in rows} == {"idle"}
    assert {row.address for row in rows} == {"127.0.0.1"}
    moved = [(row.version, row.from_stage, row.to_stage) for row in (rows[0], rows[3], rows[10])]
    assert moved == [(1, "None", "Staging"), (2, None, "Production"), (2, "Production", None)]
    assert rows[1].changed is not None
    assert rows[1].changed["source"][1] == "elsewhere"
    assert rows[2].changed is not None
    assert (
        rows[2].changed["storage_location"] == [None, "elsewhere"] or rows[2].changed["storage_location"][1]
    )
    assert [row.changed and row.changed["version"] for row in rows[4:7]] == [[None, 1], [1, 2], [2, None]]
    assert [row.changed and row.changed["value"] for row in rows[7:10]] == [
        [None, "x"],
        ["x", "y"],
        ["y", None],
    ]
    assert [row.changed and row.changed["tag"] for row in rows[7:10]] == ["greenroom.evidence"] * 3
    # And whoever may read the model reads them through the server.
    assert audit_log.history(client, "idle")[-len(rows) :] == rows


def test_what_is_no_matter_of_stages_leaves_no_row(guarded: Site) -> None:
    before = guarded.rows()
    for statement in (
        "UPDATE model_versions SET description = 'x' WHERE name = 'idle'",
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 5, 'None')",
        "INSERT INTO model_version_tags (name, version, key, value) VALUES ('idle', 5, 'colour', 'red')",
    ):
        guarded.run(guarded.app, statement)
    assert guarded.rows() == before


def test_a_model_renamed_by_sql_leaves_a_row(guarded: Site) -> None:
    before = len(guarded.rows())
    guarded.run(guarded.app, "UPDATE registered_models SET name = 'renamed' WHERE name = 'idle'")
    added = guarded.rows()[before:]
    guarded.run(guarded.app, "UPDATE registered_models SET name = 'idle' WHERE name = 'renamed'")
    assert {row.action for row in added} == {"sql"}
    assert ["idle", "renamed"] in [row.changed and row.changed.get("name") for row in added]


def test_a_change_by_sql_cannot_pass_for_a_promotion_without_evidence(guarded: Site) -> None:
    context = json.dumps({"action": "promoted", "actor": "olga", "proven": True, "version": 3})
    connection = guarded.connect(guarded.app)
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE model_versions SET current_stage = 'Archived' WHERE name = 'once'")
            cursor.execute("SELECT set_config('greenroom.context', %s, true)", (context,))
            cursor.execute(
                "UPDATE model_versions SET current_stage = 'Production' WHERE name = 'once' AND version = 3"
            )
            cursor.execute("SELECT body FROM greenroom.audit ORDER BY id DESC LIMIT 1")
            row = Row.model_validate_json(cursor.fetchone()[0])
    finally:
        connection.rollback()
        connection.close()
    assert (row.version, row.to_stage) == (3, "Production")
    assert row.action == "sql"


@pytest.mark.parametrize("what", ["removed", "changed"])
def test_the_chain_shows_what_a_superuser_did_to_a_row(
    guarded: Site, client: TrackingClient, what: str
) -> None:
    guarded.run(
        guarded.app, "SELECT greenroom.record(%s)", json.dumps({"action": "refused", "model": "idle"})
    )
    assert not list(broken_links(audit_log.chain(client, "idle")))
    row = guarded.run(
        guarded.owner, "SELECT id, model, body, previous, hash FROM greenroom.audit WHERE id = 2"
    )[0]
    if what == "removed":
        guarded.as_superuser("DELETE FROM greenroom.audit WHERE id = 2")
    else:
        guarded.as_superuser("UPDATE greenroom.audit SET body = '{{}}' WHERE id = 2")
    try:
        found = list(broken_links(audit_log.chain(client, "idle")))
    finally:
        guarded.as_superuser("DELETE FROM greenroom.audit WHERE id = 2")
        guarded.as_superuser("INSERT INTO greenroom.audit VALUES (%s, %s, %s, %s, %s)", values=row)
    assert found
    assert "row 2 of the audit" in found[0]
    assert not list(broken_links(audit_log.chain(client, "idle")))
