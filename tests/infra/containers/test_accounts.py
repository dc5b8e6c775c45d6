"""The accounts of MLflow's server, on a real one with basic-auth: made, rotated, refused."""

from collections.abc import Iterator

import click
import httpx
import pytest

from infra.containers import accounts
from infra.mlflow_auth import basic_auth_ini
from tests.registry.support.tracking_server import tracking_server

pytestmark = pytest.mark.slow

PASSWORDS = {name: f"b7c1f0a93d5e48e6ac20-{name}" for name in ("admin", "worker", "operator", "predictor")}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    config = folder / "basic-auth.ini"
    config.write_text(basic_auth_ini(f"sqlite:///{folder}/auth.db").replace("seconds = 60", "seconds = 0"))
    store = f"sqlite:///{folder}/mlflow.db"
    env = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "b7c1f0a93d5e48e6ac20",
    }
    with tracking_server(folder, env, ("--app-name", "basic-auth", "--registry-store-uri", store)) as address:
        yield address


@pytest.fixture(autouse=True)
def settings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_TRACKING_URI", url)
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(f"GREENROOM_MLFLOW_{name.upper()}_PASSWORD", password)


def may_log_in(url: str, name: str, password: str) -> bool:
    login = httpx.post(
        f"{url}/api/2.0/mlflow/experiments/search",
        json={"max_results": 1},
        auth=(name, password),
        timeout=30,
        trust_env=False,
    )
    return login.is_success


def test_accounts_are_made_once_and_rotated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.ensure()
    accounts.ensure()
    assert all(may_log_in(url, name, password) for name, password in PASSWORDS.items())
    # A new password of an account, and of `admin` itself, who needs the old one for it.
    monkeypatch.setenv("GREENROOM_MLFLOW_WORKER_PASSWORD", PASSWORDS["worker"] + "-new")
    monkeypatch.setenv("GREENROOM_MLFLOW_ADMIN_PASSWORD", PASSWORDS["admin"] + "-new")
    with pytest.raises(click.ClickException, match="GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD, once"):
        accounts.ensure()
    monkeypatch.setenv("GREENROOM_MLFLOW_ADMIN_OLD_PASSWORD", PASSWORDS["admin"])
    accounts.ensure()
    for name in ("worker", "admin"):
        assert may_log_in(url, name, PASSWORDS[name] + "-new")
        assert not may_log_in(url, name, PASSWORDS[name])
