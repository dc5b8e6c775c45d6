"""Registries in databases and roles of their own, in the stack's PostgreSQL."""

import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
from psycopg2 import sql

from infra.local.supervisor import environment
from registry.audit import AuditEntry
from tests.registry.support.tracking_server import refused_start
from tests.warm_commands import warm_greenroom


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

    def rows(self) -> list[AuditEntry]:
        found = self.run(self.owner, "SELECT body FROM greenroom.audit ORDER BY id")
        return [AuditEntry.model_validate_json(body) for (body,) in found]

    def migrate(self, *arguments: str, **changed: str) -> tuple[int, str]:
        """Run `greenroom migrate`; returns its exit code and all that it printed."""
        variables = {
            "GREENROOM_DATABASE_URL": self.url(self.app),
            "GREENROOM_DATABASE_ADMIN_URL": self.url(self.owner),
            **changed,
        }
        done = subprocess.run(
            [str(warm_greenroom()), "migrate", *arguments],
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


def new_site(server: Server, template: str) -> Site:
    """A database and two roles, whose names are used by no other."""
    name = f"greenroom_test_{uuid4().hex[:8]}"
    owner, app = f"{name}_owner", f"{name}_app"
    passwords = {role: server.role(role) for role in (owner, app)}
    server.database(name, owner, template)
    server.run("GRANT CONNECT ON DATABASE {} TO {}", name, app)
    return Site(server, name, owner, app, passwords)


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
