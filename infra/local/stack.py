"""Starting, stopping and describing the local stack."""

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import psutil

from catalog.loader import load_catalog
from checks.service.client import request_verdict
from flows.environment import prepare_environment
from flows.settings import FlowSettings
from flows.training.parallel import print_summary, train_in_parallel
from infra import registry_guard
from infra.local import postgres, prefect_pages, seaweedfs
from infra.local.services import all_services, mlflow_database, worker
from infra.local.settings import LocalSettings, load_or_create
from infra.local.supervisor import (
    Service,
    StackError,
    environment,
    is_current,
    kill,
    marked,
    processes,
    start,
    stop,
    wait_until_ready,
)
from registry.client.registry import Registry, Version
from registry.client.standing import without_standing
from registry.client.tracking_client import TrackingClient
from registry.errors import NotFoundError, RegistryError, RegistryRefusedError
from registry.names import EVIDENCE, FLOW_RUN, GATE, METRIC, OVERRIDE, SCORE, TRAINING, Stage
from registry.notify.predictors import PredictorSettings, served_versions
from registry.settings import KeySettings, home

Say = Callable[[str], None]


@dataclass
class ServiceStatus:
    """One service as it is now; `state` is `up`, `down` or `not ready`."""

    name: str
    title: str
    url: str
    state: str
    memory_mb: int


@dataclass
class ModelStatus:
    """One model: its newest version, the one in Production, and the one that each predictor serves.

    `serving` is what all predictors serve, None when they disagree or none does; `evidence` says why that of
    the version in Production does not speak for it, None if it does.
    """

    name: str
    version: int | None = None
    stage: str | None = None
    production: int | None = None
    serving: int | None = None
    metric: str | None = None
    score: float | None = None
    gate: str | None = None
    evidence: str | None = None
    replicas: dict[str, int | None] = field(default_factory=dict)


@dataclass
class Status:
    """The whole stack."""

    home: str
    services: list[ServiceStatus]
    models: list[ModelStatus] = field(default_factory=list)
    problem: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the same as plain data."""
        return asdict(self)


@contextmanager
def exclusively() -> Iterator[None]:
    """Hold the home's lock, so that two commands do not start or stop the same stack at once."""
    home().mkdir(parents=True, exist_ok=True, mode=0o700)
    # For the owner alone: another account that can open it could hold it.
    path = home() / "lock"
    path.touch(mode=0o600)
    path.chmod(0o600)  # one of an earlier version
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"Another greenroom up or down is at work in {home()}. Wait for it, or stop it first."
            ) from error
        yield


def start_services(settings: LocalSettings, say: Say) -> None:
    """Start what does not run or does not answer, and restart what would be started differently now."""
    services = all_services(settings)
    _close_folders()
    for service in reversed(services):
        if processes(service) and not is_current(service):
            say(f"{service.title}: its settings or code changed; restarting")
            stop(service)
    if not settings.local_worker and stop(worker(settings)):
        say("Worker stopped, for GREENROOM_LOCAL_WORKER is false")
    for wave in _WAVES:
        with ThreadPoolExecutor() as pool:
            # list() raises the first failure; the others of the wave have been waited for.
            list(pool.map(lambda s: _ensure(s, settings, say), [s for s in services if s.name in wave]))


def _close_folders() -> None:
    """Take the rights of other users from the home's folders: older versions left some readable.

    PostgreSQL keeps its own closed, as a user of its own where it runs as root.
    """
    for folder in home().iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name != "postgres":
            folder.chmod(0o700)


# How long the predictor may take to load every model before the table is shown all the same.
_LOAD_SECONDS = 30
# How many models train side by side; each also runs the gate in a process of its own.
_TRAININGS = 2
# Each wave needs the ones before; the services of a wave start side by side.
_WAVES = ({"postgres", "s3"}, {"mlflow", "prefect"}, {"gate", "predictor", "worker"})
# How long the worker may take to register the deployments and to start.
_WORKER_SECONDS = 180.0


def _ensure(service: Service, settings: LocalSettings, say: Say) -> None:
    if processes(service) and service.ready():
        return
    began = time.monotonic()
    stop(service)
    if service.name == "postgres":
        postgres.prepare(settings)
    if service.name == "s3":
        seaweedfs.prepare()
    if service.name == "mlflow":
        _install_guard(settings)
    start(service)
    if service.name == "postgres":
        postgres.create_databases(settings)
    if service.name == "prefect":
        prefect_pages.write(settings)
    if not service.waits:
        say(f"{service.title:<14} up on 127.0.0.1:{service.port}  ({time.monotonic() - began:.1f} s)")


def _install_guard(settings: LocalSettings) -> None:
    registry_guard.ensure_gate_key()
    owner = mlflow_database(settings, as_owner=True)
    variables = environment({"GREENROOM_HOME": str(home())})
    registry_guard.migrate(mlflow_database(settings), owner, variables)


def train_what_is_missing(say: Say) -> bool:
    """Train every model of the catalogue that has no version yet, and promote what the gate let pass.

    Returns whether each model has a version now. Nothing is trained twice; a killed training is resumed.
    """
    with TrackingClient() as client:
        registry = Registry(client)
        newest = {name: registry.newest(name) for name in load_catalog()}
        missing = []
        for name, version in newest.items():
            if version is None or _was_cut_short(registry, version):
                missing.append(name)
            else:
                _finish(registry, version, say)
        if missing:
            say(f"Training {', '.join(missing)}")
            print_summary(train_in_parallel(missing, promote=True, jobs=_TRAININGS))
        # Refused by the gate is a result; no version at all is a failure.
        return all(registry.versions(name) for name in missing)


def _was_cut_short(registry: Registry, version: Version) -> bool:
    """Whether a version's training was killed; training again resumes it (flows/training/resume.py)."""
    try:
        run = registry.run(version)
    except NotFoundError:
        return False
    tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    if TRAINING not in tags or run["info"]["status"] == "FINISHED":
        return False
    # Imported here, as below: these take seconds, and are seldom needed.
    prepare_environment(FlowSettings())
    from flows.orchestration.flow_run_locks import is_alive  # noqa: PLC0415

    return run["info"]["status"] != "RUNNING" or not is_alive(tags.get(FLOW_RUN, ""))


def _finish(registry: Registry, version: Version, say: Say) -> None:
    """Sign and promote a version that a training left without evidence or promotion."""
    current = registry.in_stage(version.model, Stage.PRODUCTION)
    for number, unproven in {v.number: v for v in (current, version) if v}.items():
        # Not signed, or from before there was evidence.
        if EVIDENCE not in unproven.tags and OVERRIDE not in unproven.tags:
            say(f"{unproven} has no evidence; asking the gate")
            try:
                request_verdict(version.model, number)
            except RegistryError as error:
                say(f"{unproven} has still none. {error}")
    version = registry.version(version.model, version.number)
    if current or version.stage not in (Stage.NONE, Stage.STAGING) or version.tags.get(GATE) != "passed":
        return
    try:
        registry.promote_to_production(version)
    except RegistryRefusedError as error:
        say(f"{version} had passed the gate but is not promoted. {error}")
    else:
        say(f"{version} had passed the gate but was not promoted; it is in Production now")


def await_predictor(settings: LocalSettings) -> None:
    """Wait, 30 s at most, until the predictor serves what is in Production: the table then shows it."""
    deadline = time.monotonic() + _LOAD_SECONDS
    while any(m.production != m.serving for m in model_status(settings)) and time.monotonic() < deadline:
        time.sleep(0.2)


def await_worker(settings: LocalSettings) -> None:
    """Wait until the worker, which starts while models are trained, takes up work. Raises `StackError`."""
    if settings.local_worker:
        wait_until_ready(worker(settings), _WORKER_SECONDS)


def stop_services(say: Say) -> int:
    """Stop everything that belongs to this home, and return how many services there were."""
    settings = load_or_create()
    stopped = 0
    for service in reversed(all_services(settings)):
        if stop(service):
            stopped += 1
            say(f"{service.title} stopped")
    # Other processes with this home's marker, such as a service of an older version.
    kill(process for process, _, _ in marked())
    return stopped


def describe(settings: LocalSettings) -> Status:
    """Return what runs, what is registered and what is served."""
    services = [_service_status(service, settings) for service in all_services(settings)]
    status = Status(home=str(home()), services=services)
    if down := ", ".join(service.title for service in services if service.state != "up"):
        status.problem = f"{down}: not up. `make up` starts what is missing; logs are in {home()}/logs."
    try:
        status.models = model_status(settings)
        sentences = [*disagreements(status.models), *(m.evidence for m in status.models if m.evidence)]
        status.problem = status.problem or " ".join(sentences) or None
    except RegistryError as error:
        status.problem = status.problem or str(error)
    return status


def model_status(settings: LocalSettings) -> list[ModelStatus]:
    """Return each model of the catalogue as the registry and the predictors have it."""
    urls = dict.fromkeys([settings.serving_url, *PredictorSettings().predictor_urls])
    served = {name: versions for url in urls for name, versions in served_versions(url).items()}
    with TrackingClient() as client:
        versions = {name: Registry(client).versions(name) for name in load_catalog()}
    return [
        _model_status(name, versions[name], {url: numbers.get(name) for url, numbers in served.items()})
        for name in versions
    ]


def _model_status(name: str, versions: list[Version], replicas: dict[str, int | None]) -> ModelStatus:
    production = next((v for v in versions if v.stage is Stage.PRODUCTION), None)
    numbers = set(replicas.values())
    status = ModelStatus(
        name=name,
        production=production.number if production else None,
        serving=numbers.pop() if len(numbers) == 1 else None,
        replicas=replicas,
    )
    if production:
        status.evidence = next(map(str, without_standing([production], KeySettings())), None)
    if shown := production or next(iter(versions), None):
        status.version, status.stage = shown.number, shown.stage.value
        status.gate, status.metric = shown.tags.get(GATE), shown.tags.get(METRIC)
        score = shown.tags.get(SCORE)
        status.score = float(score) if score else None
    return status


def disagreements(models: list[ModelStatus]) -> list[str]:
    """Return a sentence for each predictor that serves another version than the one in Production."""
    return [
        f"{model.name}: {_called(model.production)} is in Production, and {url} serves {_called(version)}."
        for model in models
        for url, version in model.replicas.items()
        if version != model.production
    ]


def _called(version: int | None) -> str:
    return f"version {version}" if version else "no version"


def _service_status(service: Service, settings: LocalSettings) -> ServiceStatus:
    running = processes(service)
    memory = 0
    for process in running:
        with suppress(psutil.Error):
            # Not the resident size: PostgreSQL's processes share most of theirs.
            memory += process.memory_full_info().uss
    state = ("up" if service.ready() else "not ready") if running else "down"
    scheme = "postgresql" if service.name == "postgres" else "http"
    # The worker listens nowhere: Prefect's UI shows it.
    url = f"{scheme}://127.0.0.1:{service.port}" if service.port else f"{settings.prefect_url}/work-pools"
    return ServiceStatus(service.name, service.title, url, state, memory // 2**20)


def explain_os_error(error: OSError) -> str:
    """Return one sentence for an operating system's error, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {home()} is full. Free some space and run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{error.filename or home()} is not writable. Give yourself the right to write there, or set "
            "GREENROOM_HOME to a folder of your own."
        )
    return f"{error.strerror}: {error.filename or ''}".strip()
