"""The accounts of MLflow's server that a stack of containers has from the start, and what each may do."""

import click
import httpx
from pydantic import SecretStr

from infra.containers.settings import AccountSettings

# Beyond reading, which every account may. A worker owns the models that it makes; the grant is for those
# that others made. EDIT is not enough to promote: GREENROOM_PROMOTERS says who may (docs/promotion.md).
_GRANTS = {
    "worker": {"experiment": "EDIT", "registered_model": "EDIT"},
    "operator": {"registered_model": "EDIT"},
    "predictor": {},
}


def ensure() -> None:
    """Create the accounts that are missing, and give each the password of now.

    Raises `click.ClickException` when MLflow does not do it.
    """
    settings = AccountSettings()
    passwords = {
        "worker": settings.mlflow_worker_password,
        "operator": settings.mlflow_operator_password,
        "predictor": settings.mlflow_predictor_password,
    }
    admin = _admin(settings)
    with _client(settings, "admin", admin) as client:
        if admin is not settings.mlflow_admin_password:
            _set_password(client, "admin", settings.mlflow_admin_password, current=admin)
            click.echo("admin: the password is the new one")
    with _client(settings, "admin", settings.mlflow_admin_password) as client:
        for name, password in passwords.items():
            _ensure(settings, client, name, password)
            for kind, permission in _GRANTS[name].items():
                _grant(client, name, kind, permission)
            click.echo(f"{name}: ready")


def _admin(settings: AccountSettings) -> SecretStr:
    """Return the password that `admin` has now: the one of now, or the one until now."""
    candidates = [settings.mlflow_admin_password]
    if settings.mlflow_admin_old_password.get_secret_value():
        candidates.append(settings.mlflow_admin_old_password)
    for password in candidates:
        if _may_log_in(settings, "admin", password):
            return password
    raise click.ClickException(
        "MLflow's `admin` has another password than GREENROOM_MLFLOW_ADMIN_PASSWORD. To change it, set "
        "the new one there and the old one as GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD, once (docs/operations.md)."
    )


def _ensure(settings: AccountSettings, admin: httpx.Client, name: str, password: SecretStr) -> None:
    if _may_log_in(settings, name, password):
        return
    found = admin.get("/api/2.0/mlflow/users/get", params={"username": name})
    if found.status_code == httpx.codes.NOT_FOUND:
        body = {"username": name, "password": password.get_secret_value()}
        _check(admin.post("/api/2.0/mlflow/users/create", json=body), f"create the account {name}")
    else:
        _set_password(admin, name, password)


def _set_password(
    admin: httpx.Client, name: str, password: SecretStr, current: SecretStr | None = None
) -> None:
    body = {"username": name, "password": password.get_secret_value()}
    if current:  # MLflow asks for it where somebody changes their own
        body["current_password"] = current.get_secret_value()
    _check(admin.patch("/api/2.0/mlflow/users/update-password", json=body), f"set {name}'s password")


def _grant(admin: httpx.Client, name: str, kind: str, permission: str) -> None:
    body = {"username": name, "resource_type": kind, "resource_id": "*", "permission": permission}
    answer = admin.post("/api/3.0/mlflow/users/permissions/grant", json=body)
    if "RESOURCE_ALREADY_EXISTS" not in answer.text:
        _check(answer, f"let {name} use {kind}s")


def _may_log_in(settings: AccountSettings, name: str, password: SecretStr) -> bool:
    with _client(settings, name, password) as client:
        answer = client.post("/api/2.0/mlflow/experiments/search", json={"max_results": 1})
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return False
    return _check(answer, f"let {name} in").is_success


def _check(answer: httpx.Response, what: str) -> httpx.Response:
    if not answer.is_success:
        raise click.ClickException(f"MLflow did not {what} ({answer.status_code}): {answer.text[:500]}")
    return answer


def _client(settings: AccountSettings, name: str, password: SecretStr) -> httpx.Client:
    return httpx.Client(
        base_url=settings.tracking_uri,
        auth=(name, password.get_secret_value()),
        timeout=60,
        trust_env=False,
    )
