"""A registry that was there before the guard: untouched, a test's own, or migrated."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.conftest import Stack
from tests.registry.support.sites import Server, Site, new_site
from tests.registry.support.tracking_server import tracking_server

_PLAIN_ROLE = "greenroom_test_plain"


@pytest.fixture(scope="session")
def server(stack: Stack) -> Iterator[Server]:
    env = dict(line.split("=", 1) for line in (stack.home / "stack.env").read_text().splitlines())
    found = Server(stack.ports["POSTGRES"], env["GREENROOM_POSTGRES_PASSWORD"])
    try:
        yield found
    finally:
        found.drop()


@pytest.fixture(scope="session")
def plain(server: Server) -> str:
    """A registry that plain MLflow made: `twice` has two versions in Production, `once` has one."""
    name = f"greenroom_test_{uuid4().hex[:8]}"
    password = server.role(_PLAIN_ROLE)
    server.database(name, _PLAIN_ROLE)
    _fill(f"postgresql+psycopg2://{_PLAIN_ROLE}:{password}@127.0.0.1:{server.port}/{name}")
    return name


def _fill(url: str) -> None:
    # Imported here: MLflow takes seconds.
    from mlflow.entities.model_registry import ModelVersionTag  # noqa: PLC0415
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    store = SqlAlchemyStore(url)
    stages = {
        "twice": ["Archived", "Production", "Production", "None"],
        "once": ["Production", "Staging", "None"],
        "idle": ["None"],
    }
    for model, wanted in stages.items():
        store.create_registered_model(model)
        for number, stage in enumerate(wanted, start=1):
            store.create_model_version(model, f"mlflow-artifacts:/1/models/m-{number}/artifacts")
            if stage != "None":
                store.transition_model_version_stage(model, number, stage, archive_existing_versions=False)
    store.set_registered_model_alias("once", "champion", 1)
    store.set_model_version_tag("once", 1, ModelVersionTag("owner", "olga"))
    store.engine.dispose()


@pytest.fixture(scope="session")
def make_site(server: Server, plain: str) -> Callable[[], Site]:
    def made() -> Site:
        found = new_site(server, plain)
        found.give_tables_to(found.owner)
        return found

    return made


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    """A plain registry of a test's own."""
    return make_site()


@pytest.fixture(scope="module")
def untouched(make_site: Callable[[], Site]) -> Site:
    """A plain registry, for what is refused, or only said."""
    return make_site()


@pytest.fixture(scope="module")
def guarded(make_site: Callable[[], Site]) -> Site:
    """One that was migrated, for tests that leave it as it was or only add to it."""
    found = make_site()
    code, said = found.migrate("--keep", "twice=3")
    assert code == 0, said
    return found


@pytest.fixture(scope="module")
def guarded_client(guarded: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingClient]:
    """A guarded server on the migrated registry, as the role that has no more than it needs."""
    folder = tmp_path_factory.mktemp("server")
    with (
        tracking_server(folder, guarded.variables(folder, guarded.app)) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as found,
    ):
        yield found
    guarded.clean((folder / "mlflow.log").read_text())
