"""Who may change what is in Production, where MLflow asks for a login (basic-auth), and what the audit says
of who did it. Everything is real; one login server serves most tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from checks.comparison import find_incumbent
from registry import audit
from registry.audit import AuditEntry
from registry.client import audit_log
from registry.client.registry import MODEL_FILE, Registry, Version
from registry.client.tracking_client import TrackingClient
from registry.errors import RegistryRefusedError
from registry.names import ACTION_HEADER, ACTOR_HEADER, REASON_HEADER, ROLLBACK, Stage
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.registry.support.registered import Registrar
from tests.registry.support.tracking_server import log_of, tracking_server

pytestmark = pytest.mark.slow

ADMIN = "admin"
# What each may do with the model of a test; olga alone is a promoter. Nina has no permissions: that is what
# the server gives to whom nobody granted any.
GRANTS = {"olga": "EDIT", "emil": "EDIT", "mona": "MANAGE", "rita": "READ", "dora": "DENY"}
USERS = (*GRANTS, "nina")
_PRODUCTION = "model-versions/transition-stage"


def _password(user: str) -> str:
    return f"geheim-{user}-geheim"


@dataclass
class Login:
    """A tracking server that asks for a login, or one that does not and takes no notice of it."""

    url: str
    _open: list[Any] = field(default_factory=list, repr=False)

    def client(self, user: str) -> TrackingClient:
        """Greenroom's own client, as a user."""
        settings = RegistrySettings(
            tracking_uri=self.url, tracking_username=user, tracking_password=_password(user)
        )
        self._open.append(TrackingClient(settings))
        return self._open[-1]

    def registry(self, user: str) -> Registry:
        return Registry(self.client(user))

    def history(self, version: Version, user: str = "olga") -> list[AuditEntry]:
        return audit_log.history(self.client(user), version.model)

    def send(
        self, user: str | None, method: str, path: str, body: dict[str, Any], **headers: str
    ) -> httpx.Response:
        """A raw request, without any of our own headers, as any client may send it."""
        return httpx.request(
            method,
            f"{self.url}/api/2.0/mlflow/{path}",
            json=body if method != "GET" else None,
            params=body if method == "GET" else None,
            auth=(user, _password(user)) if user else None,
            headers=headers,
            timeout=30,
            trust_env=False,
        )

    def move(self, user: str | None, version: Version, stage: str, **headers: str) -> httpx.Response:
        body = {"name": version.model, "version": str(version.number), "stage": stage}
        return self.send(user, "POST", _PRODUCTION, body, **headers)

    def grant(self, user: str, model: str, permission: str) -> None:
        body = {"resource_type": "registered_model", "resource_id": model, "permission": permission}
        httpx.post(
            f"{self.url}/api/3.0/mlflow/users/permissions/grant",
            json={"username": user, **body},
            auth=(ADMIN, _password(ADMIN)),
            timeout=30,
            trust_env=False,
        ).raise_for_status()

    def close(self) -> None:
        for client in self._open:
            client.close()
        self._open.clear()


@pytest.fixture(scope="module")
def variables(stack: Stack) -> dict[str, str]:
    """What a server needs to work on the stack's own registry, artifacts and trusted keys."""
    secret = dict(line.split("=", 1) for line in (stack.home / "stack.env").read_text().splitlines())
    return {
        "GREENROOM_HOME": str(stack.home),
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{secret['GREENROOM_MLFLOW_DB_PASSWORD']}"
        f"@127.0.0.1:{stack.ports['POSTGRES']}/mlflow",
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://greenroom/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{stack.ports['S3']}",
        "AWS_ACCESS_KEY_ID": secret["GREENROOM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": secret["GREENROOM_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def with_login(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same with basic-auth, whose users are in a database of its own."""
    folder = tmp_path_factory.mktemp("users")
    config = folder / "basic_auth.ini"
    config.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/users.db\n"
        f"admin_username = {ADMIN}\n"
        # Else each request costs several slow password hashes.
        "auth_cache_ttl_seconds = 300\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        **variables,
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": _password(ADMIN),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "not a secret, in a test",
    }


@pytest.fixture(scope="module")
def login(with_login: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """A server with a login, on which olga is a promoter; so is petra, who has no account."""
    folder = tmp_path_factory.mktemp("login")
    env = {**with_login, "GREENROOM_PROMOTERS": "petra, olga"}
    with tracking_server(folder, env, ("--app-name", "basic-auth")) as url:
        found = Login(url)
        for user in USERS:
            body = {"username": user, "password": _password(user)}
            found.send(ADMIN, "POST", "users/create", body).raise_for_status()
        yield found
        found.close()
    said = log_of(folder)
    assert not [user for user in (*USERS, ADMIN) if _password(user) in said]


@pytest.fixture
def share(login: Login) -> Callable[[Registrar], None]:
    """Give the users their rights on a registrar's model."""

    def shared(registrar: Registrar) -> None:
        for user, permission in GRANTS.items():
            login.grant(user, registrar.name, permission)

    return shared


@pytest.fixture
def good(registrar: Registrar, share: Callable[[Registrar], None]) -> Version:
    """A version with good evidence, made on the same registry through the stack's server."""
    share(registrar)
    return registrar.good()


@pytest.fixture
def live(login: Login, good: Version) -> Version:
    """One that olga took to Production."""
    registry = login.registry("olga")
    return registry.promote(registry.promote(good, Stage.STAGING), Stage.PRODUCTION)


def refused(answer: httpx.Response, says: str) -> None:
    assert answer.status_code == 403, answer.text
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert says in answer.json()["message"]


# With a login and promoters


def test_a_promoter_takes_a_version_to_production(login: Login, good: Version) -> None:
    registry = login.registry("olga")
    staged = registry.promote(good, Stage.STAGING)
    moved = registry.promote(staged, Stage.PRODUCTION, reason="It sounds good.")
    assert moved.stage is Stage.PRODUCTION
    row = login.history(good)[-1]
    assert (row.action, row.version, row.from_stage, row.to_stage) == (
        "promoted",
        good.number,
        "Staging",
        "Production",
    )
    assert (row.actor, row.proven, row.reason) == ("olga", True, "It sounds good.")
    assert (row.address, row.role) == ("127.0.0.1", "mlflow")


def test_who_may_edit_the_model_may_stage_but_not_promote_it(login: Login, good: Version) -> None:
    registry = login.registry("emil")
    staged = registry.promote(good, Stage.STAGING)
    assert staged.stage is Stage.STAGING
    with pytest.raises(RegistryRefusedError, match="emil may not change what is in Production") as refusal:
        registry.promote(staged, Stage.PRODUCTION)
    assert "Ask one of those who may" in str(refusal.value)
    assert "GREENROOM_PROMOTERS" in str(refusal.value)
    refused(login.move("emil", good, "Production"), "emil may not change what is in Production")
    refused(login.move("emil", good, "production"), "emil may not change what is in Production")
    assert registry.version(good.model, good.number).stage is Stage.STAGING
    said = [
        (row.action, row.actor, row.proven, row.code)
        for row in login.history(good)
        if row.action in ("staged", "refused", "promoted")
    ]
    assert said == [("staged", "emil", True, None), *[("refused", "emil", True, "not-a-promoter")] * 3]


def test_the_administrator_is_no_promoter_unless_named(login: Login, good: Version) -> None:
    assert login.move(ADMIN, good, "Staging").is_success
    refused(login.move(ADMIN, good, "Production"), "admin may not change what is in Production")
    assert login.history(good)[-1].code == "not-a-promoter"


def test_a_model_that_is_not_there_yet_has_no_rival(login: Login, good: Version) -> None:
    # With a login MLflow answers 403 for what is not there; a first training must not fail on it.
    with pytest.raises(RegistryRefusedError):
        login.registry("emil").in_stage(f"{good.model}-absent", Stage.PRODUCTION)
    assert find_incumbent(login.registry("emil"), f"{good.model}-absent") is None
    assert find_incumbent(login.registry("emil"), good.model) is None


def test_who_may_only_read_is_refused_by_mlflow_itself(login: Login, good: Version) -> None:
    before = login.history(good)
    for stage in ("Staging", "Production", "Archived"):
        answer = login.move("rita", good, stage)
        assert (answer.status_code, answer.text) == (403, "Permission denied")
    assert login.history(good) == before
    assert login.registry("rita").version(good.model, good.number).stage is Stage.NONE


def test_a_promoter_needs_evidence_like_everybody(
    login: Login, registrar: Registrar, share: Callable[[Registrar], None]
) -> None:
    share(registrar)
    version = registrar.version()
    refused(login.move("olga", version, "Production"), "has no evidence of the gate")
    row = login.history(version)[-1]
    assert (row.action, row.actor, row.proven, row.code) == ("refused", "olga", True, "missing")


def test_who_is_no_promoter_cannot_take_a_version_out_of_production(login: Login, live: Version) -> None:
    tried = [(user, stage) for user in ("emil", "mona") for stage in ("Archived", "Staging", "None")]
    for user, stage in tried:
        refused(login.move(user, live, stage), f"{user} may not change what is in Production")
    rows = login.history(live)[-len(tried) :]
    assert [(row.actor, row.code) for row in rows] == [(user, "not-a-promoter") for user, _ in tried]
    assert [row.changed for row in rows] == [{"wanted": {"to": stage}} for _, stage in tried]
    assert login.registry("emil").version(live.model, live.number).stage is Stage.PRODUCTION


def test_who_is_no_promoter_cannot_put_another_in_its_place(
    login: Login, registrar: Registrar, live: Version
) -> None:
    second = registrar.good()
    assert login.move("emil", second, "Staging").is_success
    refused(login.move("emil", second, "Production"), "emil may not change what is in Production")
    headers = {ACTION_HEADER: ROLLBACK, REASON_HEADER: "back"}
    refused(login.move("emil", second, "Production", **headers), "emil may not change")
    assert login.move("olga", second, "Production").is_success
    refused(login.move("emil", live, "Production", **headers), "emil may not change")
    production = login.registry("rita").in_stage(live.model, Stage.PRODUCTION)
    assert production is not None
    assert production.number == second.number
    # And the promoter may roll back.
    assert login.move("olga", live, "Production", **headers).is_success
    row = [row for row in login.history(live) if row.action == "rollback"][-1]
    assert (row.actor, row.proven, row.version, row.reason) == ("olga", True, live.number, "back")


def test_aliases_and_deletion_are_no_way_round(login: Login, registrar: Registrar, live: Version) -> None:
    name = {"name": live.model}
    number = {"version": str(live.number)}
    assert login.send(
        "olga", "POST", "registered-models/alias", {**name, **number, "alias": "champion"}
    ).is_success
    other = registrar.good()
    before = login.history(live)
    # emil may edit: he is refused by the guard, or by MLflow, which asks MANAGE of who deletes.
    for user in ("emil", "mona"):
        to_another = {**name, "version": str(other.number), "alias": "champion"}
        refused(
            login.send(user, "POST", "registered-models/alias", to_another),
            "The alias 'champion' means Production",
        )
    for path, body in (
        ("registered-models/alias", {**name, "alias": "champion"}),
        ("model-versions/delete", {**name, **number}),
        ("registered-models/delete", name),
    ):
        answer = login.send("emil", "DELETE", path, body)
        assert (answer.status_code, answer.text) == (403, "Permission denied")
        refused(login.send("mona", "DELETE", path, body), "Greenroom refused: ")
    rename = {**name, "new_name": f"{live.model}-2"}
    refused(login.send("mona", "POST", "registered-models/rename", rename), "cannot be renamed")
    rows = login.history(live)[len(before) :]
    assert [(row.action, row.actor, row.proven, row.code) for row in rows] == [
        ("refused", "emil", True, "alias"),
        ("refused", "mona", True, "alias"),
        ("refused", "mona", True, "alias"),
        *[("refused", "mona", True, "in-production")] * 3,
    ]
    answer = login.send("rita", "GET", "registered-models/alias", {**name, "alias": "champion"})
    assert answer.json()["model_version"]["version"] == str(live.number)


def test_a_header_does_not_change_a_proven_name(login: Login, good: Version) -> None:
    assert login.move("emil", good, "Staging", **{ACTOR_HEADER: "olga"}).is_success
    for header in (ACTOR_HEADER, ACTOR_HEADER.lower(), "X_Greenroom_Actor", "Remote-User"):
        refused(login.move("emil", good, "Production", **{header: "olga"}), "emil may not change")
    rows = login.history(good)[-5:]
    assert [(row.actor, row.proven) for row in rows] == [("emil", True)] * 5


def test_a_wrong_password_gets_nowhere(login: Login, good: Version) -> None:
    before = login.history(good)
    for auth in (("olga", "wrong"), ("petra", ""), ("olga", ""), ("", ""), None):
        answer = httpx.post(
            f"{login.url}/api/2.0/mlflow/{_PRODUCTION}",
            json={"name": good.model, "version": str(good.number), "stage": "Production"},
            auth=auth,
            headers={ACTOR_HEADER: "olga"},
            trust_env=False,
        )
        assert answer.status_code == 401
    assert login.history(good) == before


# Reading the audit


def test_the_history_is_for_those_who_may_read_the_model(login: Login, live: Version) -> None:
    for user in ("rita", "emil", "mona", ADMIN):
        rows = login.history(live, user)
        assert [row.to_stage for row in rows if row.action in ("staged", "promoted")] == [
            "Staging",
            "Production",
        ]
        assert audit_log.chain(login.client(user), live.model)
    for user in ("nina", "dora"):
        with pytest.raises(RegistryRefusedError, match=r"403.*Permission denied"):
            login.history(live, user)
        with pytest.raises(RegistryRefusedError, match=r"403.*Permission denied"):
            audit_log.chain(login.client(user), live.model)
    for kind in (audit.HISTORY, audit.CHAIN):
        page = {"name": live.model, "alias": f"{audit.ALIAS_PREFIX}{kind}-0"}
        for prefix in ("api/2.0", "ajax-api/2.0"):
            url = f"{login.url}/{prefix}/mlflow/registered-models/alias"
            for user in ("nina", "dora"):
                answer = httpx.get(url, params=page, auth=(user, _password(user)), trust_env=False)
                assert (answer.status_code, answer.text) == (403, "Permission denied")
            assert httpx.get(url, params=page, trust_env=False).status_code == 401


def test_the_right_to_read_one_model_shows_no_history_of_another(
    login: Login, registrar: Registrar, live: Version
) -> None:
    # nina may read a model of her own, and asks with its name in front of the other's, or behind.
    own = Registrar(registrar.client, registrar.gate.settings)
    login.grant("nina", own.name, "READ")
    alias = f"{audit.ALIAS_PREFIX}{audit.HISTORY}-0"
    auth = ("nina", _password("nina"))
    url = f"{login.url}/api/2.0/mlflow/registered-models/alias"
    assert httpx.get(url, params={"name": own.name, "alias": alias}, auth=auth, trust_env=False).is_success
    for names in ((own.name, live.model), (live.model, own.name)):
        query = "&".join(f"name={quote(name)}" for name in names) + f"&alias={alias}"
        answer = httpx.get(f"{url}?{query}", auth=auth, trust_env=False)
        assert live.model not in answer.text
        assert "promoted" not in answer.text
    answer = httpx.request(
        "GET",
        url,
        params={"name": own.name, "alias": alias},
        json={"name": live.model},
        auth=auth,
        trust_env=False,
    )
    assert "promoted" not in answer.text


def test_a_refusal_of_the_reader_does_not_say_that_there_is_no_guard(login: Login, live: Version) -> None:
    with pytest.raises(RegistryRefusedError) as refusal:
        audit_log.history(login.client("nina"), live.model)
    assert "has no guard" not in str(refusal.value)


def test_who_may_read_may_report_other_bytes(login: Login, registrar: Registrar, live: Version) -> None:
    """As a predictor does, whose account may read and nothing else."""
    registrar.client.put_artifact(registrar.artifact_uri(live), MODEL_FILE, b"other bytes")
    for user in ("nina", "dora"):
        with pytest.raises(RegistryRefusedError, match=r"403.*Permission denied"):
            login.registry(user).report_mismatch(live)
    login.registry("rita").report_mismatch(live)
    login.registry("rita").report_mismatch(live)
    rows = [row for row in login.history(live) if row.action == "mismatch"]
    assert [(row.actor, row.proven, row.version) for row in rows] == [("rita", True, live.number)]


@pytest.mark.parametrize("user", [None, "rita", "emil", "mona", "olga", ADMIN])
def test_no_account_gets_a_closed_route(login: Login, user: str | None) -> None:
    auth = (user, _password(user)) if user else None
    for method, path in (
        ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("GET", "/ajax-api/3.0/mlflow/gateway/secrets/list"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("GET", "/gateway/mlflow/v1/models"),
    ):
        answer = httpx.request(method, login.url + path, json={}, auth=auth, timeout=30, trust_env=False)
        assert answer.status_code in ((404,) if user else (401, 404)), f"{path}: {answer.text}"


def test_an_artifact_that_is_needed_is_named_to_nobody_without_an_account(
    login: Login, registrar: Registrar, live: Version
) -> None:
    root = registrar.artifact_uri(live).removeprefix("mlflow-artifacts:/").strip("/")
    url = f"{login.url}/api/2.0/mlflow-artifacts/artifacts/{root}"
    before = login.history(live)
    answer = httpx.delete(url, timeout=30, trust_env=False)
    assert answer.status_code == 401
    assert live.model not in answer.text
    assert login.history(live) == before


# With one of the two, and with neither


def test_with_a_login_and_no_promoters_nobody_may(
    login: Login, with_login: dict[str, str], good: Version, tmp_path: Path
) -> None:
    with tracking_server(tmp_path, with_login, ("--app-name", "basic-auth")) as url:
        bare = Login(url)
        assert bare.move("emil", good, "Staging").is_success
        for user in ("olga", "emil", ADMIN):
            refused(bare.move(user, good, "Production"), "GREENROOM_PROMOTERS")
        rows = bare.history(good)
        assert [(row.actor, row.proven, row.code) for row in rows[-3:]] == [
            (user, True, "not-a-promoter") for user in ("olga", "emil", ADMIN)
        ]
        # One that a server with promoters let in does not come out here either.
        assert login.move("olga", good, "Production").is_success
        refused(bare.move("olga", good, "Archived"), "GREENROOM_PROMOTERS")
        bare.close()


def test_with_promoters_and_no_login_nobody_may(
    variables: dict[str, str], registrar: Registrar, tmp_path: Path
) -> None:
    good = registrar.good()
    with tracking_server(tmp_path, {**variables, "GREENROOM_PROMOTERS": "olga"}) as url:
        bare = Login(url)
        assert bare.move(None, good, "Staging", **{ACTOR_HEADER: "olga"}).is_success
        for user, headers in (
            (None, {ACTOR_HEADER: "olga"}),
            (None, {}),
            ("olga", {}),  # a login that nobody checks
            ("olga", {ACTOR_HEADER: "olga"}),
        ):
            refused(bare.move(user, good, "Production", **headers), "--app-name basic-auth")
        rows = bare.history(good)
        bare.close()
    assert [(row.actor, row.proven, row.code) for row in rows[-4:]] == [
        ("olga", False, "not-proven"),
        ("(unknown)", False, "not-proven"),
        ("(unknown)", False, "not-proven"),
        ("olga", False, "not-proven"),
    ]
    assert registrar.registry.version(good.model, good.number).stage is Stage.STAGING


def test_without_both_the_name_is_a_claim(stack: Stack, registrar: Registrar) -> None:
    local = Login(stack.tracking_url)
    first, second, third = registrar.good(), registrar.good(), registrar.good()
    assert local.move(None, first, "Staging", **{ACTOR_HEADER: quote("Zoë\nof the ops")}).is_success
    assert local.move(None, second, "Staging").is_success
    assert local.move("olga", third, "Staging").is_success
    assert local.move(None, first, "Production", **{ACTOR_HEADER: "olga"}).is_success
    rows = [
        row
        for row in audit_log.history(registrar.client, first.model)
        if row.action in ("staged", "promoted")
    ]
    assert [(row.actor, row.proven) for row in rows] == [
        ("Zoë of the ops", False),
        ("(unknown)", False),
        ("(unknown)", False),
        ("olga", False),
    ]
