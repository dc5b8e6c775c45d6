"""The stack's PostgreSQL as its superuser: who can change rows of the audit without leaving one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from tests.conftest import Stack


@contextmanager
def superuser(stack: Stack) -> Iterator[Any]:
    """Yield a cursor, and commit."""
    lines = (stack.home / "stack.env").read_text().splitlines()
    password = dict(line.split("=", 1) for line in lines)["GREENROOM_POSTGRES_PASSWORD"]
    port = stack.ports["POSTGRES"]
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user="postgres", password=password, dbname="mlflow"
    )
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
