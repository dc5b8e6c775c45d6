"""Roles and databases of the stack on a PostgreSQL server, made where they are missing."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from pydantic import SecretStr


@dataclass(frozen=True)
class Database:
    """A database and the role of the same name that uses it.

    MLflow's role does not own its database, since it could remove the guard then (docs/promotion.md);
    `greenroom migrate` gives it its rights.
    """

    name: str
    password: SecretStr
    owned: bool = True


def ensure(connection: "psycopg2.extensions.connection", databases: Sequence[Database], owner: str) -> None:
    """Create what is missing, set each role's password, and close the connection.

    `owner` owns the databases that are not `owned`. Safe to run again: a changed password is a rotation. No
    other role may connect to these databases.
    """
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor:
        for database in databases:
            role = sql.Identifier(database.name)
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (database.name,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            password = sql.Literal(database.password.get_secret_value())
            cursor.execute(sql.SQL(f"{verb} ROLE {{}} LOGIN PASSWORD {{}}").format(role, password))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database.name,))
            if not cursor.fetchone():
                owned_by = role if database.owned else sql.Identifier(owner)
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, owned_by))
                cursor.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(role))
