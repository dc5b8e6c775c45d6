"""The services of the local stack, in the order in which they start."""

import os
import sys
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import httpx

from catalog.loader import CatalogSettings
from infra.local import postgres
from infra.local.settings import LocalSettings
from infra.local.supervisor import Service, marked
from infra.prefect_worker import POOL
from registry.settings import home
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings

_ROOT = Path(__file__).resolve().parents[2]


def all_services(settings: LocalSettings) -> list[Service]:
    """Return every service of the stack."""
    return [
        postgres.service(settings),
        _s3(settings),
        _mlflow(settings),
        _prefect(settings),
        _predictor(settings),
        *([worker(settings)] if settings.local_worker else []),
    ]


def _s3(settings: LocalSettings) -> Service:
    master, volume, filer = (int(port) for port in settings.s3_internal_ports.split(","))
    data = home() / "s3"
    data.mkdir(parents=True, exist_ok=True)
    return Service(
        name="s3",
        title="S3 (SeaweedFS)",
        port=settings.s3_port,
        extra_ports=(master, volume, filer),
        command=(
            *(str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "mini", f"-dir={data}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={settings.s3_bucket}"),
            *(f"-s3.port={settings.s3_port}", f"-master.port={master}", f"-volume.port={volume}"),
            *(f"-filer.port={filer}", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        ),
        env={
            "AWS_ACCESS_KEY_ID": settings.s3_access_key.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        },
        ready=lambda: _bucket_answers(settings),
        variable="GREENROOM_S3_PORT",
    )


def _mlflow(settings: LocalSettings) -> Service:
    env = {"GREENROOM_HOME": str(home())}
    if path := CatalogSettings().catalog_path:
        env["GREENROOM_CATALOG_PATH"] = path
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
            **env,
            "MLFLOW_BACKEND_STORE_URI": mlflow_database(settings),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings.s3_bucket}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": settings.s3_url,
            "AWS_ACCESS_KEY_ID": settings.s3_access_key.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        ready=lambda: _http_ok(f"{settings.mlflow_url}/health"),
        variable="GREENROOM_MLFLOW_PORT",
        uses=(_code_digest("catalog", "registry"),),
    )


def mlflow_database(settings: LocalSettings) -> str:
    """Return the URL of MLflow's database, as the role that its server runs as."""
    # psycopg 3, SQLAlchemy's default, fails on MLflow's stage transitions (mlflow#24592).
    return settings.database_url("postgresql+psycopg2", "mlflow", settings.mlflow_db_password)


def _prefect(settings: LocalSettings) -> Service:
    return Service(
        name="prefect",
        title="Prefect",
        port=settings.prefect_port,
        command=(
            *(sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"),
            *("--port", str(settings.prefect_port)),
        ),
        env={
            "PREFECT_API_DATABASE_CONNECTION_URL": settings.database_url(
                "postgresql+asyncpg", "prefect", settings.prefect_db_password
            ),
            "PREFECT_HOME": str(home() / "prefect"),
            "PREFECT_UI_API_URL": f"{settings.prefect_url}/api",
        },
        ready=lambda: _http_ok(f"{settings.prefect_url}/api/health"),
        variable="GREENROOM_PREFECT_PORT",
    )


def _predictor(settings: LocalSettings) -> Service:
    env = {
        # What the caller set for the predictor holds for the one that is started here.
        **{name: value for name, value in os.environ.items() if name.startswith("GREENROOM_SERVING_")},
        "GREENROOM_HOME": str(home()),
        "GREENROOM_TRACKING_URI": settings.mlflow_url,
        "GREENROOM_SERVING_PORT": str(settings.serving_port),
    }
    if path := CatalogSettings().catalog_path:
        env["GREENROOM_CATALOG_PATH"] = path
    return Service(
        name="predictor",
        title="Predictor",
        port=settings.serving_port,
        command=(sys.executable, "-m", "serving"),
        env=env,
        ready=lambda: _http_ok(f"{settings.serving_url}/healthz"),
        variable="GREENROOM_SERVING_PORT",
        uses=(_code_digest("catalog", "registry", "serving"),),
    )


def worker(settings: LocalSettings) -> Service:
    """Return Prefect's worker, which runs the deployments of prefect.yaml."""
    # What the caller set for flows (notifications, monitoring, the checks' Python) holds for those it runs;
    # ports and secrets are read from the home.
    given = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GREENROOM_")
        and not name.startswith("GREENROOM_SERVING_")
        and not name.endswith(("_PORT", "_LOCAL_WORKER"))
    }
    if path := CatalogSettings().catalog_path:
        # A flow run starts in a folder of its own.
        given["GREENROOM_CATALOG_PATH"] = os.pathsep.join(
            str(Path(entry).absolute()) for entry in path.split(os.pathsep) if entry
        )
    return Service(
        name="worker",
        title="Worker",
        port=None,
        command=(sys.executable, "-m", "infra.prefect_worker"),
        env={
            **given,
            "GREENROOM_HOME": str(home()),
            "GREENROOM_TRACKING_URI": settings.mlflow_url,
            "GREENROOM_PREFECT_API_URL": f"{settings.prefect_url}/api",
            "PREFECT_API_URL": f"{settings.prefect_url}/api",
            "PREFECT_HOME": str(home() / "prefect"),
            # A run starts within so many seconds.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            # Several flows share the processors with all else here: nobody waits by spinning.
            "OMP_WAIT_POLICY": "passive",
        },
        ready=lambda: _polls(settings),
        variable="GREENROOM_LOCAL_WORKER",
        # Each flow run is a new process, which reads the code as it is then.
        uses=(_file_digest(_ROOT / "prefect.yaml"), _file_digest(_ROOT / "infra" / "prefect_worker.py")),
        waits=True,
    )


def _polls(settings: LocalSettings) -> bool:
    """Whether the worker that runs now has been heard of by Prefect."""
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
        found = httpx.post(url, json={}, timeout=10, trust_env=False).json()
        beats = [datetime.fromisoformat(one["last_heartbeat_time"]).timestamp() for one in found]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return any(beat >= min(started) for beat in beats)


def _file_digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _http_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _bucket_answers(settings: LocalSettings) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only a start needs it

    storage = StorageSettings(
        s3_endpoint_url=settings.s3_url,
        s3_access_key=settings.s3_access_key,
        s3_secret_key=settings.s3_secret_key,
    )
    client = s3_client(storage, attempts=1, connect_timeout=1, read_timeout=5)
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
        # The bucket may answer before there is a volume to write to.
        client.put_object(Bucket=settings.s3_bucket, Key="greenroom-ready", Body=b"ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def _code_digest(*rooms: str) -> str:
    """A predictor that runs yesterday's code is stale: its service is restarted when the code changes."""
    found = sha256()
    for room in rooms:
        for file in sorted((_ROOT / room).rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()
