"""Roles and databases of the stack on a PostgreSQL server, made where they are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from pydantic import SecretStr


@dataclass(frozen=True)
class Database:
    """A database and the role of the same name that uses it.

    A role that owns its database can do anything in it. MLflow's does not: what it owned, it could take the
    guard from (docs/promotion.md); `greenroom migrate` gives it its rights.
    """

    name: str
    password: SecretStr
    owned: bool = True


def ensure(connection: "psycopg2.extensions.connection", databases: Sequence[Database], owner: str) -> None:
    """Create what is missing, and give each role the password of now; `owner` owns what no role owns.

    Safe to run again: a changed password is a rotation. Nobody else may connect to these databases.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        for one in databases:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (one.name,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            cursor.execute(
                sql.SQL(f"{verb} ROLE {{}} LOGIN PASSWORD {{}}").format(
                    sql.Identifier(one.name), sql.Literal(one.password.get_secret_value())
                )
            )
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (one.name,))
            if not cursor.fetchone():
                name, owned_by = sql.Identifier(one.name), sql.Identifier(one.name if one.owned else owner)
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owned_by))
                cursor.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
