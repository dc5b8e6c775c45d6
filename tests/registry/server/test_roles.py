"""The server's role in the database: dispossessed by `greenroom migrate`, refused where it may too much."""

from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors

from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.registry.support.sites import Site, one_line, picture, psycopg2_url, superuser_url
from tests.registry.support.tracking_server import refused_start, tracking_server

pytestmark = pytest.mark.slow


def test_a_role_that_owned_the_tables_is_dispossessed(site: Site, tmp_path: Path) -> None:
    site.give_tables_to(site.app)
    code, said = site.start(tmp_path / "before", site.app)
    assert (code != 0, "greenroom migrate" in one_line(said)) == (True, True)
    admin = superuser_url(site)
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=admin)
    assert code == 0, said
    assert f"tables that {site.app} owned belong to the installing role" in said
    for attack in ("DROP INDEX greenroom_one_production", "ALTER TABLE model_versions DISABLE TRIGGER USER"):
        with pytest.raises(errors.InsufficientPrivilege):
            site.attempt(site.app, attack)
    folder = tmp_path / "after"
    with (
        tracking_server(folder, site.variables(folder, site.app)) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as client,
    ):
        assert Registry(client).models() == ["idle", "once", "twice"]
        client.post("registered-models/create", {"name": "after"})


def test_a_role_is_dispossessed_of_no_other_database(site: Site) -> None:
    other = f"{site.database}_other"
    site.server.database(other, site.app)
    site.give_tables_to(site.app)
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
    assert code == 0, said
    query = "SELECT datdba::regrole::text FROM pg_database WHERE datname = %s"
    assert site.run(site.owner, query, other) == [(site.app,)]


def test_a_refusal_leaves_a_single_role_registry_working(site: Site) -> None:
    # It says that nothing was changed: the server that runs as this role goes on running.
    site.give_tables_to(site.app)
    before = picture(site)
    code, said = site.migrate(GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
    assert code == 1
    assert "Nothing was changed." in said
    site.attempt(site.app, "SELECT * FROM model_versions", "UPDATE model_versions SET description = 'x'")
    assert picture(site) == before


def test_another_role_for_the_server_gets_its_rights_from_a_second_run(guarded: Site) -> None:
    other = guarded.role(f"{guarded.database}_other")
    code, said = guarded.migrate(GREENROOM_DATABASE_URL=guarded.url(other))
    assert code == 0, said
    guarded.attempt(other, "SELECT * FROM model_versions", "SELECT * FROM greenroom.audit")
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(other, "DELETE FROM greenroom.audit")


def test_a_role_that_lost_its_way_in_gets_it_back_from_a_second_run(guarded: Site) -> None:
    # As after a restore: whom a database lets in is no part of its dump.
    guarded.as_superuser("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", guarded.database)
    guarded.as_superuser("REVOKE CONNECT ON DATABASE {} FROM {}", guarded.database, guarded.app)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        guarded.attempt(guarded.app, "SELECT 1")
    code, said = guarded.migrate()
    assert code == 0, said
    guarded.attempt(guarded.app, "SELECT * FROM model_versions")


def test_a_second_run_finds_a_role_that_does_not_exist_too(guarded: Site) -> None:
    url = guarded.url(guarded.app).replace(f"{guarded.app}:", "nobody_of_that_name:")
    code, said = guarded.migrate(GREENROOM_DATABASE_URL=url)
    assert code == 1, said
    assert "There is no role nobody_of_that_name in the database" in said


def test_a_second_run_dispossesses_a_role_that_came_to_own_the_tables(weakened: Site) -> None:
    # A start is refused then, and names this very command.
    site = weakened
    site.give_tables_to(site.app)
    try:
        code, said = site.migrate(GREENROOM_DATABASE_ADMIN_URL=superuser_url(site))
        assert code == 0, said
        with pytest.raises(errors.InsufficientPrivilege):
            site.attempt(site.app, "ALTER TABLE model_versions DISABLE TRIGGER USER")
    finally:
        site.give_tables_to(site.owner)
        rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}"
        site.as_superuser(rights, site.app)


# Starting on a database that the guard could be gone round in


# What makes the server's role too strong, and what takes that back. {db}, {owner}, {app} are names.
WEAKNESSES = {
    "a superuser": ("ALTER ROLE {app} SUPERUSER", "ALTER ROLE {app} NOSUPERUSER"),
    "owns the tables": (
        "ALTER TABLE model_versions OWNER TO {app}",
        "ALTER TABLE model_versions OWNER TO {owner}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON model_versions TO {app}",
    ),
    "owns the table of aliases": (
        "ALTER TABLE registered_model_aliases OWNER TO {app}",
        "ALTER TABLE registered_model_aliases OWNER TO {owner}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON registered_model_aliases TO {app}",
    ),
    "a member of the owner": ("GRANT {owner} TO {app}", "REVOKE {owner} FROM {app}"),
    "a member of the owner that must SET ROLE": (
        "GRANT {owner} TO {app} WITH INHERIT FALSE, SET TRUE",
        "REVOKE {owner} FROM {app}",
    ),
    "writes to the audit": (
        "GRANT INSERT ON greenroom.audit TO {app}",
        "REVOKE INSERT ON greenroom.audit FROM {app}",
    ),
    "writes to everything": ("GRANT pg_write_all_data TO {app}", "REVOKE pg_write_all_data FROM {app}"),
    # Whose schema `public` is, and the owner of a schema may drop what is in it.
    "owns the database": (
        "ALTER DATABASE {db} OWNER TO {app}",
        "ALTER DATABASE {db} OWNER TO {owner}",
        "GRANT CONNECT ON DATABASE {db} TO {app}",
    ),
    "owns the schema": (
        "ALTER SCHEMA public OWNER TO {app}",
        "ALTER SCHEMA public OWNER TO pg_database_owner",
        "GRANT USAGE ON SCHEMA public TO {app}",
    ),
    "owns the audit's table": (
        # It may give itself what was taken from it.
        "ALTER TABLE greenroom.audit OWNER TO {app}; "
        "REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON greenroom.audit FROM {app}",
        "ALTER TABLE greenroom.audit OWNER TO {owner}",
        "GRANT SELECT ON greenroom.audit TO {app}; GRANT ALL ON greenroom.audit TO {owner}",
    ),
    "calls append": (
        "GRANT EXECUTE ON FUNCTION greenroom.append(jsonb) TO {app}",
        "REVOKE EXECUTE ON FUNCTION greenroom.append(jsonb) FROM {app}",
    ),
}


@pytest.fixture(scope="module")
def weakened(make_site: Callable[[], Site]) -> Site:
    """A migrated registry, for tests that weaken it and take that back."""
    found = make_site()
    code, said = found.migrate("--keep", "twice=3")
    assert code == 0, said
    return found


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_a_start_as_a_role_that_could_go_round_the_guard_is_refused(weakened: Site, weakness: str) -> None:
    from sqlalchemy import create_engine  # noqa: PLC0415 - MLflow's, and slow

    from registry.server.database import DatabaseError, require_installed  # noqa: PLC0415

    site = weakened
    names = {"db": site.database, "owner": site.owner, "app": site.app}
    weaken, *back = (statement.format(**names) for statement in WEAKNESSES[weakness])
    # What a server asks at its start; a whole start each would cost more than it shows.
    engine = create_engine(psycopg2_url(site.url(site.app)))
    try:
        require_installed(engine)
        site.as_superuser(weaken)
        with pytest.raises(DatabaseError, match="a role of its own") as refusal:
            require_installed(engine)
        site.clean(str(refusal.value))
    finally:
        engine.dispose()
        for statement in back:
            site.as_superuser(statement)
    site.attempt(site.app, "SELECT * FROM model_versions", "SELECT * FROM greenroom.audit")


def test_a_start_as_a_superuser_is_refused(guarded: Site, tmp_path: Path) -> None:
    env = {"MLFLOW_BACKEND_STORE_URI": psycopg2_url(superuser_url(guarded)), "GREENROOM_HOME": str(tmp_path)}
    code, said = refused_start(tmp_path, env)
    said = one_line(guarded.clean(said))
    assert code != 0
    assert "is a superuser" in said
    assert "Give the server a role of its own" in said


def test_a_start_on_another_database_than_postgresql_is_refused(guarded: Site, tmp_path: Path) -> None:
    code, said = refused_start(
        tmp_path,
        {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "GREENROOM_HOME": str(tmp_path),
        },
    )
    assert code != 0
    said = one_line(said)
    assert "Greenroom's guard lives in PostgreSQL" in said
    assert "that of sqlite database. Set GREENROOM_DATABASE_URL" in said
    assert "--backend-store-uri" in said
