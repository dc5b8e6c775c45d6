"""The settings that the first start writes: secrets for this home alone, ports that are remembered."""

import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.local.services import all_services, worker
from infra.local.settings import LocalSettings, is_set_up, load_or_create
from infra.local.stack import exclusively
from infra.local.supervisor import StackError

SECRETS = (
    "s3_access_key",
    "s3_secret_key",
    "postgres_password",
    "mlflow_db_password",
    "prefect_db_password",
    "prefect_password",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def secrets_of(settings: LocalSettings) -> list[str]:
    return [getattr(settings, name).get_secret_value() for name in SECRETS]


def test_first_call_writes_a_file_for_its_owner_alone(home: Path) -> None:
    assert not is_set_up()
    load_or_create()
    assert is_set_up()
    assert stat.S_IMODE((home / "stack.env").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not (home / "stack.new").exists()


def test_the_lock_is_for_its_owner_alone(home: Path) -> None:
    """Another account that could open it could hold it; one of an earlier version was open to all."""
    for before in (None, 0o644):
        if before is not None:
            (home / "lock").chmod(before)
        with exclusively():
            assert stat.S_IMODE((home / "lock").stat().st_mode) == 0o600
            with pytest.raises(StackError, match="Another greenroom up or down is at work"), exclusively():
                pass


def test_rewritten_file_is_still_for_its_owner_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_or_create()
    monkeypatch.setenv("GREENROOM_MLFLOW_PORT", "15000")
    load_or_create()
    assert "GREENROOM_MLFLOW_PORT=15000" in (home / "stack.env").read_text().splitlines()
    assert stat.S_IMODE((home / "stack.env").stat().st_mode) == 0o600


def test_secrets_are_long_all_different_and_stay(home: Path) -> None:
    first = secrets_of(load_or_create())
    assert len(set(first)) == len(SECRETS)
    assert all(len(secret) >= 32 for secret in first)
    assert secrets_of(load_or_create()) == first


def test_homes_share_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = secrets_of(load_or_create())
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path / "other"))
    assert not set(first) & set(secrets_of(load_or_create()))


def test_secret_missing_from_the_file_is_made_and_the_others_kept(home: Path) -> None:
    first = secrets_of(load_or_create())
    file = home / "stack.env"
    kept = [line for line in file.read_text().splitlines() if "PREFECT_PASSWORD" not in line]
    file.write_text("\n".join(kept))
    second = secrets_of(load_or_create())
    assert second[:-1] == first[:-1]
    assert second[-1] != first[-1]


def test_ports_of_the_environment_are_remembered_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_or_create().mlflow_url == "http://127.0.0.1:5000"
    monkeypatch.setenv("GREENROOM_MLFLOW_PORT", "15000")
    assert load_or_create().mlflow_url == "http://127.0.0.1:15000"
    monkeypatch.delenv("GREENROOM_MLFLOW_PORT")
    assert load_or_create().mlflow_url == "http://127.0.0.1:15000"


@pytest.mark.parametrize("port", ["80", "65536", "web", ""])
def test_bad_port_is_refused_and_not_remembered(
    home: Path, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setenv("GREENROOM_MLFLOW_PORT", port)
    with pytest.raises(ValidationError, match="mlflow_port"):
        load_or_create()
    monkeypatch.delenv("GREENROOM_MLFLOW_PORT")
    assert load_or_create().mlflow_port == 5000


def test_nothing_secret_is_shown(home: Path) -> None:
    settings = load_or_create()
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "mlflow_port" in shown
    assert not [secret for secret in secrets_of(settings) if secret in shown]


def test_internal_ports_are_chosen_once() -> None:
    first = load_or_create().s3_internal_ports
    assert len({int(port) for port in first.split(",")}) == 3
    assert load_or_create().s3_internal_ports == first


def test_a_stack_without_a_worker_stays_without(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_or_create().local_worker
    monkeypatch.setenv("GREENROOM_LOCAL_WORKER", "false")
    load_or_create()
    monkeypatch.delenv("GREENROOM_LOCAL_WORKER")
    assert not load_or_create().local_worker
    assert "worker" not in [service.name for service in all_services(load_or_create())]
    monkeypatch.setenv("GREENROOM_LOCAL_WORKER", "true")
    assert "worker" in [service.name for service in all_services(load_or_create())]


def test_the_worker_is_given_no_secret_of_the_stack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads them from the home; a caller's own settings for flows are handed on, a predictor's are not."""
    monkeypatch.setenv("GREENROOM_NOTIFY_EVENTS", "failed")
    monkeypatch.setenv("GREENROOM_SERVING_MAX_ROWS", "5")
    monkeypatch.setenv("GREENROOM_CATALOG_PATH", "models")
    settings = load_or_create()
    env = worker(settings).env
    assert not set(secrets_of(settings)) & set(env.values())
    assert env["GREENROOM_NOTIFY_EVENTS"] == "failed"
    assert "GREENROOM_SERVING_MAX_ROWS" not in env
    assert Path(env["GREENROOM_CATALOG_PATH"]) == Path.cwd() / "models"
