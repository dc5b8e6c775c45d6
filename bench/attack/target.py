"""The stack that is attacked: where its services answer, whose accounts there are, what must not get out."""

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg2
from botocore.config import Config
from dotenv import dotenv_values

from registry.client.tracking_client import TrackingClient
from registry.settings import KeySettings, RegistrySettings

# Accounts of the tracking server. The first is any program on the machine of a stack without a login; the
# others are of the server with one. The operator manages the model and is a promoter.
LOCAL, NOBODY, READER = "local program", "no account", "read-only"
SCIENTIST, OPERATOR = "data scientist", "operator"
LOGINS = (NOBODY, READER, SCIENTIST, OPERATOR)
ADMIN = "administrator"
USERS = {READER: "rita", SCIENTIST: "emil", OPERATOR: "olga", ADMIN: "admin"}
# Roles of the database, and others who may be near.
SERVERS_ROLE, PREFECTS_ROLE, SUPERUSER = "role mlflow", "role prefect", "superuser"
WEB_PAGE, OTHER_USER, PREFECT_LOGIN = "web page", "other local user", "Prefect's password"
S3_USER = "user of S3"

_MOST = 400_000
_ROLES = {
    SERVERS_ROLE: ("mlflow", "GREENROOM_MLFLOW_DB_PASSWORD"),
    PREFECTS_ROLE: ("prefect", "GREENROOM_PREFECT_DB_PASSWORD"),
    SUPERUSER: ("postgres", "GREENROOM_POSTGRES_PASSWORD"),
}


@dataclass(frozen=True)
class Answer:
    """What a service said. SQL has a status of HTTP's too: 200 done, 403 refused.
    0 is no answer at all."""

    status: int
    text: str = ""

    @property
    def refused(self) -> bool:
        """Whether it is a refusal: a redirection or an error, be it one of the server's own."""
        return self.status >= 300


@dataclass
class Target:
    """A stack, and the names of the model that the ways are tried on.

    `ports` are those of MLFLOW, PREFECT, S3, POSTGRES, SERVING and GATE. `numbers` are versions of `model`: 1
    in Production, 2 in Staging, 3 never judged, 4 refused by the gate.
    """

    home: Path
    ports: Mapping[str, int]
    gate: str = ""
    login: str = ""
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    model: str = ""
    judged: str = ""
    places: dict[str, str] = field(default_factory=dict)
    s3_users: Any = None
    _connections: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    _client: TrackingClient | None = None
    _s3: Any = None

    @property
    def settings(self) -> dict[str, str]:
        """What the stack generated for itself, by the name of the setting."""
        return {name: value or "" for name, value in dotenv_values(self.home / "stack.env").items()}

    @property
    def keys(self) -> KeySettings:
        """The stack's keys."""
        folder = self.home / "keys"
        return KeySettings(
            gate_key=str(folder / "gate.pem"),
            operator_key=str(folder / "operator.pem"),
            trusted_keys=str(folder / "trusted"),
        )

    def url(self, service: str) -> str:
        """Return where a service answers."""
        return self.gate if service == "GATE" else f"http://127.0.0.1:{self.ports[service]}"

    @property
    def client(self) -> TrackingClient:
        """An honest connection to the tracking server."""
        if self._client is None:
            self._client = TrackingClient(RegistrySettings(tracking_uri=self.url("MLFLOW")))
        return self._client

    @property
    def s3(self) -> Any:
        """The store as its own user."""
        if self._s3 is None:
            known = self.settings
            self._s3 = s3_client(
                self.url("S3"), known["GREENROOM_S3_ACCESS_KEY"], known["GREENROOM_S3_SECRET_KEY"]
            )
        return self._s3

    def objects(self, uri: str) -> list[tuple[str, str]]:
        """Return the objects below an artifact URI, and what the store has for a digest of each."""
        prefix = "mlflow/" + uri.removeprefix("mlflow-artifacts:/").strip("/") + "/"
        listed = self.s3.list_objects_v2(Bucket="greenroom", Prefix=prefix)
        return sorted((entry["Key"], entry["ETag"]) for entry in listed.get("Contents", []))

    def mlflow(
        self, account: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request to the tracking server, as an account."""
        url = self.url("MLFLOW") if account in (LOCAL, WEB_PAGE) else self.login
        return send(url, method, path, body, {**self.credentials(account), **(headers or {})})

    def credentials(self, account: str) -> dict[str, str]:
        """Return the header with which an account logs in."""
        if account not in USERS:
            return {}
        return basic(USERS[account], self.passwords[account])

    def sql(self, account: str, *statements: str, database: str = "mlflow") -> Answer:
        """Run statements as a role, in one transaction that is committed."""
        try:
            connection = self._connection(account, database)
        except psycopg2.Error as error:
            return Answer(403, str(error))
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = '20s'")
                for statement in statements:
                    cursor.execute(statement)
                rows = cursor.fetchmany(200) if cursor.description else []
        except (psycopg2.Error, ValueError) as error:
            # A session's settings must not reach the next way.
            self._connections.pop((account, database)).close()
            return Answer(403, str(error))
        with connection, connection.cursor() as cursor:
            cursor.execute("DISCARD TEMP; RESET ALL; RESET SESSION AUTHORIZATION; RESET ROLE")
        return Answer(200, json.dumps(rows, default=str))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what a query finds, asked as the superuser."""
        connection = self._connection(SUPERUSER, "mlflow")
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall()) if cursor.description else []

    def _connection(self, account: str, database: str) -> Any:
        if (account, database) not in self._connections:
            role, setting = _ROLES[account]
            self._connections[account, database] = psycopg2.connect(
                host="127.0.0.1",
                port=self.ports["POSTGRES"],
                dbname=database,
                user=role,
                password=self.settings[setting],
                connect_timeout=5,
            )
        return self._connections[account, database]

    def secrets(self) -> frozenset[str]:
        """Return what no answer may hold: generated passwords and keys, and the private keys' lines."""
        words = ("PASSWORD", "SECRET")
        found = {value for name, value in self.settings.items() if value and any(w in name for w in words)}
        found |= set(self.passwords.values())
        for path in [*(self.home / "keys").glob("*.pem"), *(self.home / "s3-tls").glob("key.pem")]:
            lines = path.read_text().splitlines()
            found |= {line for line in lines if len(line) > 20 and not line.startswith("-----")}
        return frozenset(found)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        if self._client:
            self._client.close()
            self._client = None


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of HTTP's basic login."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def s3_client(url: str, user: str, secret: str) -> Any:
    """Return a client of a store; it tries once."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=user,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=30),
    )


def send(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request just as it is written: no path is tidied, no header is added but what HTTP needs."""
    parts = urlsplit(url)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Host": parts.netloc, "Connection": "close", **(headers or {})}
    if content is not None or method in ("POST", "PUT", "PATCH"):
        sent.setdefault("Content-Length", str(len(content or b"")))
    if content is not None and not isinstance(body, bytes):
        sent.setdefault("Content-Type", "application/json")
    where = (parts.hostname or "", parts.port)
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(*where, timeout=60, context=tls)
        if tls
        else http.client.HTTPConnection(*where, timeout=60)
    )
    try:
        # Not `request`: it would check the path.
        connection.putrequest(method, _wire(path), skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(content)
        response = connection.getresponse()
        text = response.read(_MOST).decode("utf-8", "replace")
        said = "".join(f"{name}: {value}\n" for name, value in response.getheaders())
        return Answer(response.status, f"{said}\n{text}")
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"no answer: {type(error).__name__}")
    finally:
        connection.close()


def _wire(path: str) -> str:
    """Return a path as it may stand in a request's first line: no spaces, ASCII alone."""
    return "".join(c if "!" <= c <= "~" else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
