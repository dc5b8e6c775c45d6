"""The accounts of MLflow's server that a stack of containers has from the start, and what each may do."""

import click
import httpx
from pydantic import SecretStr

from infra.containers.settings import AccountSettings

# Every account may read. A worker owns the models that it creates; the grant is for those of others. EDIT
# is not enough to promote: GREENROOM_PROMOTERS names who may (docs/promotion.md).
_GRANTS = {
    "worker": {"experiment": "EDIT", "registered_model": "EDIT"},
    "operator": {"registered_model": "EDIT"},
    "predictor": {},
}


def ensure() -> None:
    """Create the accounts that are missing, and set each password. Raises `click.ClickException`."""
    settings = AccountSettings()
    passwords = {
        "worker": settings.mlflow_worker_password,
        "operator": settings.mlflow_operator_password,
        "predictor": settings.mlflow_predictor_password,
    }
    new, current = settings.mlflow_admin_password, _admin_password(settings)
    if current is not new:
        # MLflow asks for the current password where an account changes its own.
        with _client(settings, "admin", current) as client:
            _set_password(client, "admin", new, current_password=current.get_secret_value())
        click.echo("admin: the password is the new one")
    with _client(settings, "admin", new) as client:
        for name, password in passwords.items():
            if not _may_log_in(settings, name, password):
                _create_or_update(client, name, password)
            for kind, permission in _GRANTS[name].items():
                _grant(client, name, kind, permission)
            click.echo(f"{name}: ready")


def _admin_password(settings: AccountSettings) -> SecretStr:
    """Return the password that `admin` has now: the new one or the old one."""
    for password in (settings.mlflow_admin_password, settings.mlflow_admin_old_password):
        if password.get_secret_value() and _may_log_in(settings, "admin", password):
            return password
    raise click.ClickException(
        "MLflow's `admin` has another password than GREENROOM_MLFLOW_ADMIN_PASSWORD. To change it, set "
        "the new one there and the old one as GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD, once (docs/operations.md)."
    )


def _create_or_update(admin: httpx.Client, name: str, password: SecretStr) -> None:
    account = admin.get("/api/2.0/mlflow/users/get", params={"username": name})
    if account.status_code == httpx.codes.NOT_FOUND:
        body = {"username": name, "password": password.get_secret_value()}
        _require_success(admin.post("/api/2.0/mlflow/users/create", json=body), f"create the account {name}")
    else:
        _set_password(admin, name, password)


def _set_password(client: httpx.Client, name: str, password: SecretStr, **current: str) -> None:
    body = {"username": name, "password": password.get_secret_value(), **current}
    answer = client.patch("/api/2.0/mlflow/users/update-password", json=body)
    _require_success(answer, f"set {name}'s password")


def _grant(admin: httpx.Client, name: str, kind: str, permission: str) -> None:
    body = {"username": name, "resource_type": kind, "resource_id": "*", "permission": permission}
    answer = admin.post("/api/3.0/mlflow/users/permissions/grant", json=body)
    if "RESOURCE_ALREADY_EXISTS" not in answer.text:
        _require_success(answer, f"let {name} use {kind}s")


def _may_log_in(settings: AccountSettings, name: str, password: SecretStr) -> bool:
    with _client(settings, name, password) as client:
        answer = client.post("/api/2.0/mlflow/experiments/search", json={"max_results": 1})
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return False
    _require_success(answer, f"let {name} in")
    return True


def _require_success(answer: httpx.Response, action: str) -> None:
    if not answer.is_success:
        raise click.ClickException(f"MLflow did not {action} ({answer.status_code}): {answer.text[:500]}")


def _client(settings: AccountSettings, name: str, password: SecretStr) -> httpx.Client:
    login = (name, password.get_secret_value())
    return httpx.Client(base_url=settings.tracking_uri, auth=login, timeout=60, trust_env=False)
