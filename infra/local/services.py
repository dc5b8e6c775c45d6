"""The services of the local stack, in the order in which they start."""

import os
import sys
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import httpx

from catalog.loader import CatalogSettings
from checks.settings import ChecksSettings
from flows.settings import PREFECT_USER
from infra.local import postgres, prefect_pages, seaweedfs
from infra.local.settings import LocalSettings
from infra.local.supervisor import Service, marked
from infra.prefect_worker import POOL
from registry.settings import home

_ROOT = Path(__file__).resolve().parents[2]


def all_services(settings: LocalSettings) -> list[Service]:
    """Return every service of the stack."""
    return [
        postgres.service(settings),
        seaweedfs.service(settings),
        _mlflow(settings),
        _prefect(settings),
        # A gate elsewhere takes the place of this one.
        *([] if ChecksSettings().gate_url else [_gate(settings)]),
        _predictor(settings),
        *([worker(settings)] if settings.local_worker else []),
    ]


def _mlflow(settings: LocalSettings) -> Service:
    return Service(
        name="mlflow",
        title="MLflow",
        port=settings.mlflow_port,
        command=(
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(settings.mlflow_port), "--workers", "1", "--serve-artifacts"),
            # The guard. Its database is the one below: what stands here is shown to clients.
            *("--registry-store-uri", "greenroom://"),
        ),
        # In the environment, not on the command line: `ps` shows that to everybody.
        env={
            **_home_and_catalog(),
            **seaweedfs.login(settings),
            "MLFLOW_BACKEND_STORE_URI": mlflow_database(settings),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings.s3_bucket}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": settings.s3_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # No other name, so that no web page can point one here; any port, for tunnels and proxies.
            "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,localhost:*",
        },
        ready=lambda: _http_ok(f"{settings.mlflow_url}/health"),
        variable="GREENROOM_MLFLOW_PORT",
        uses=(_code_digest("catalog", "registry"),),
    )


def mlflow_database(settings: LocalSettings, *, as_owner: bool = False) -> str:
    """Return the URL of MLflow's database, for the role of its server or for the owner of its tables."""
    # psycopg 3, SQLAlchemy's default, fails on MLflow's stage transitions (mlflow#24592).
    role, password = ("mlflow", settings.mlflow_db_password)
    if as_owner:
        role, password = ("postgres", settings.postgres_password)
    return settings.database_url("postgresql+psycopg2", "mlflow", password, role)


def _prefect(settings: LocalSettings) -> Service:
    database = settings.database_url("postgresql+asyncpg", "prefect", settings.prefect_db_password)
    return Service(
        name="prefect",
        title="Prefect",
        port=settings.prefect_port,
        command=(
            *(sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"),
            *("--port", str(settings.prefect_port)),
        ),
        env={
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_API_AUTH_STRING": settings.prefect_login,
            # Prefect's own would be every origin.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": settings.prefect_url,
            "PREFECT_HOME": str(home() / "prefect"),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect_pages.folder()),
            "PREFECT_UI_API_URL": f"{settings.prefect_url}/api",
        },
        ready=lambda: _http_ok(f"{settings.prefect_url}/api/health"),
        variable="GREENROOM_PREFECT_PORT",
    )


def _gate(settings: LocalSettings) -> Service:
    """Return the gate's service, the only process that reads the gate's private key."""
    names = ("GREENROOM_CHECKS_PYTHON", "GREENROOM_GATE_KEY", "GREENROOM_TRUSTED_KEYS", "GREENROOM_COMMIT")
    url = f"http://127.0.0.1:{settings.gate_port}"
    return Service(
        name="gate",
        title="Gate",
        port=settings.gate_port,
        command=(sys.executable, "-m", "checks.service"),
        env={
            **{name: os.environ[name] for name in names if name in os.environ},
            **_home_and_catalog(),
            "GREENROOM_TRACKING_URI": settings.mlflow_url,
            "GREENROOM_GATE_PORT": str(settings.gate_port),
        },
        ready=lambda: _http_ok(f"{url}/health"),
        variable="GREENROOM_GATE_PORT",
        uses=(_code_digest("catalog", "registry", "checks"),),
    )


def _predictor(settings: LocalSettings) -> Service:
    return Service(
        name="predictor",
        title="Predictor",
        port=settings.serving_port,
        command=(sys.executable, "-m", "serving"),
        env={
            # The caller's settings for the predictor hold for the one that is started here.
            **{name: value for name, value in os.environ.items() if name.startswith("GREENROOM_SERVING_")},
            **_home_and_catalog(),
            "GREENROOM_TRACKING_URI": settings.mlflow_url,
            "GREENROOM_SERVING_PORT": str(settings.serving_port),
        },
        ready=lambda: _http_ok(f"{settings.serving_url}/healthz"),
        variable="GREENROOM_SERVING_PORT",
        uses=(_code_digest("catalog", "registry", "serving"),),
    )


def _home_and_catalog() -> dict[str, str]:
    path = CatalogSettings().catalog_path
    return {"GREENROOM_HOME": str(home()), **({"GREENROOM_CATALOG_PATH": path} if path else {})}


def worker(settings: LocalSettings) -> Service:
    """Return Prefect's worker, which runs the deployments of prefect.yaml."""
    # The caller's settings for flows (notifications, monitoring, the checks' Python) hold for those it runs;
    # ports and secrets are read from the home.
    env = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GREENROOM_")
        and not name.startswith("GREENROOM_SERVING_")
        and not name.endswith(("_PORT", "_LOCAL_WORKER"))
    }
    if path := CatalogSettings().catalog_path:
        # A flow run starts in a folder of its own.
        entries = [str(Path(entry).absolute()) for entry in path.split(os.pathsep) if entry]
        env["GREENROOM_CATALOG_PATH"] = os.pathsep.join(entries)
    return Service(
        name="worker",
        title="Worker",
        port=None,
        command=(sys.executable, "-m", "infra.prefect_worker"),
        env={
            **env,
            "GREENROOM_HOME": str(home()),
            "GREENROOM_TRACKING_URI": settings.mlflow_url,
            "GREENROOM_PREFECT_API_URL": f"{settings.prefect_url}/api",
            "PREFECT_API_URL": f"{settings.prefect_url}/api",
            "PREFECT_HOME": str(home() / "prefect"),
            # A run starts within so many seconds.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            # Several flows share the processors with everything else: a thread must not wait by spinning.
            "OMP_WAIT_POLICY": "passive",
        },
        ready=lambda: _polls(settings),
        variable="GREENROOM_LOCAL_WORKER",
        # Each flow run is a new process, which reads the code as it is then. The worker reads Prefect's login
        # from the home when it starts.
        uses=(_code_digest("prefect.yaml", "infra/prefect_worker.py"), settings.prefect_login),
        waits=True,
    )


def _polls(settings: LocalSettings) -> bool:
    """Whether Prefect has a heartbeat of the worker that runs now."""
    started = [
        process.create_time()
        for process, _, _ in marked("worker")
        # Not a flow run that outlived its worker, nor one that still registers the deployments.
        if process.is_running() and {"worker", "start"} <= set(process.cmdline())
    ]
    if not started:
        return False
    url = f"{settings.prefect_url}/api/work_pools/{POOL}/workers/filter"
    try:
        login = (PREFECT_USER, settings.prefect_password.get_secret_value())
        workers = httpx.post(url, json={}, auth=login, timeout=10, trust_env=False).json()
        beats = [datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() for worker in workers]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return any(beat >= min(started) for beat in beats)


def _http_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _code_digest(*paths: str) -> str:
    """Return a digest of files and of rooms' code: a service whose code changed is restarted."""
    code = sha256()
    for path in (_ROOT / path for path in paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else filter(Path.exists, [path]):
            code.update(file.read_bytes())
    return code.hexdigest()
