"""The guard on a registry that was there before: what a start says, and what `greenroom migrate` does."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from registry.audit import AuditLink, broken_links, link_hash
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.settings import RegistrySettings
from tests.registry.support.sites import (
    Server,
    Site,
    new_site,
    one_line,
    picture,
    psycopg2_url,
    superuser_url,
)
from tests.registry.support.tracking_server import log_of, refused_start, tracking_server

pytestmark = pytest.mark.slow


# Before


def test_a_start_on_a_plain_registry_says_what_it_found_and_what_to_do(
    untouched: Site, tmp_path: Path
) -> None:
    code, said = untouched.start(tmp_path, untouched.owner)
    said = one_line(said)
    assert code != 0
    assert "twice version 2 in Production, twice version 3 in Production" in said
    assert "once version 1 in Production, once version 2 in Staging" in said
    assert "twice has more than one version in Production" in said
    assert "--keep MODEL=VERSION" in said
    assert "greenroom migrate" in said
    assert "twice version 1" not in said


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(untouched: Site) -> None:
    site = untouched
    before = picture(site)
    code, said = site.migrate("--dry-run")
    assert code == 1, said
    assert "--keep twice=3" in said
    code, said = site.migrate("--dry-run", "--keep", "twice=2")
    assert code == 0, said
    assert "Found twice version 3 in Production." in said
    assert "Found once version 2 in Staging." in said
    assert "twice version 3 is archived; version 2 stays." in said
    assert "Nothing was changed." in said
    site.give_tables_to(site.app)
    before_take_over = picture(site)
    code, said = site.migrate(
        "--dry-run", "--keep", "twice=2", GREENROOM_DATABASE_ADMIN_URL=superuser_url(site)
    )
    assert code == 0, said
    assert f"tables that {site.app} owned would belong to the installing role" in said
    assert picture(site) == before_take_over
    site.give_tables_to(site.owner)
    assert picture(site) == before


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg2"])
def test_a_start_on_an_empty_database_says_what_to_do(server: Server, tmp_path: Path, driver: str) -> None:
    empty = new_site(server, "template1")
    url = empty.url(empty.app).replace("postgresql://", f"{driver}://")
    code, said = refused_start(tmp_path, {"MLFLOW_BACKEND_STORE_URI": url, "GREENROOM_HOME": str(tmp_path)})
    said = one_line(empty.clean(said))
    assert code != 0
    assert "The database holds no MLflow tables yet. Run `greenroom migrate`" in said
    assert "CREATE TABLE" not in said
    assert empty.run(empty.owner, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_start_as_a_role_that_may_read_nothing_yet_says_what_to_do(untouched: Site, tmp_path: Path) -> None:
    code, said = untouched.start(tmp_path, untouched.app)
    said = one_line(said)
    assert code != 0
    assert f"The role {untouched.app} may not read the registry's tables" in said
    assert "Run `greenroom migrate`" in said


def test_the_documented_command_starts_with_the_plain_address(guarded: Site, tmp_path: Path) -> None:
    env = {"MLFLOW_BACKEND_STORE_URI": guarded.url(guarded.app), "GREENROOM_HOME": str(tmp_path)}
    assert env["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql://")
    with (
        tracking_server(tmp_path, env) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as client,
    ):
        assert Registry(client).models() == ["idle", "once", "twice"]
        client.post("experiments/create", {"name": "plain"})


def test_a_read_replica_is_refused_and_not_ignored(guarded: Site, tmp_path: Path) -> None:
    env = guarded.variables(tmp_path, guarded.app)
    option = ("--read-replica-backend-store-uri", env["MLFLOW_BACKEND_STORE_URI"])
    code, said = refused_start(tmp_path, env, option)
    assert code != 0
    assert "Greenroom's registry has no read replica" in one_line(guarded.clean(said))


def test_a_start_beside_another_workspace_says_so_and_goes_on(site: Site, tmp_path: Path) -> None:
    site.run(site.owner, "INSERT INTO registered_models (workspace, name) VALUES ('theirs', 'foreign')")
    site.run(
        site.owner,
        "INSERT INTO experiments (workspace, name, lifecycle_stage, artifact_location) "
        "VALUES ('theirs', 'foreign', 'active', 'x')",
    )
    code, said = site.migrate("--keep", "twice=3")
    assert code == 0, said
    assert "The database holds the model foreign in the workspace theirs" in said
    with (
        tracking_server(tmp_path, site.variables(tmp_path, site.app)) as url,
        TrackingClient(RegistrySettings(tracking_uri=url)) as client,
    ):
        assert Registry(client).models() == ["idle", "once", "twice"]
        client.post("registered-models/create", {"name": "after"})
    assert "which this server does not show" in log_of(tmp_path)


# Migrating


def test_migrate_asks_which_production_stays_and_installs(site: Site) -> None:
    before = site.stages()
    for arguments in ((), ("--keep", "once=1"), ("--keep", "twice=4"), ("--keep", "twice=9")):
        code, said = site.migrate(*arguments)
        assert code == 1, said
        assert "twice has versions 2, 3 in Production, and there can be one" in said
        assert "--keep twice=3" in said
        assert site.stages() == before
    assert site.run(site.owner, "SELECT count(*) FROM pg_namespace WHERE nspname = 'greenroom'") == [(0,)]

    code, said = site.migrate("--keep", "twice=2")
    assert code == 0, said
    assert "twice version 3 is archived; version 2 stays." in said
    assert "The guard is installed." in said
    assert "once version 1 stays in Production without evidence" in said
    assert "greenroom gate once 1 --rerun" in said
    assert "twice version 3 stays" not in said
    assert site.stages() == {**before, ("twice", 3): "Archived"}

    found = site.rows()
    code, said = site.migrate()
    assert (code, said.strip()) == (0, "The guard is installed, and up to date.")
    assert site.rows() == found
    assert [(row.action, row.model, row.version, row.to_stage) for row in found] == [
        ("found", "once", 1, "Production"),
        ("found", "once", 2, "Staging"),
        ("found", "twice", 2, "Production"),
        ("found", "twice", 3, "Archived"),
    ]
    assert {(row.actor, row.role, row.proven) for row in found} == {(site.owner, site.owner, False)}


@pytest.mark.parametrize("wrong", ["twice", "twice=", "=3", "twice=three", "twice=-1"])
def test_a_keep_that_makes_no_sense_is_refused(untouched: Site, wrong: str) -> None:
    code, said = untouched.migrate("--keep", wrong)
    assert code == 2
    assert "is not MODEL=VERSION" in said


def test_migrate_makes_the_tables_of_an_empty_database(server: Server) -> None:
    empty = new_site(server, "template1")
    code, said = empty.migrate("--dry-run")
    assert code == 0, said
    assert "MLflow's tables would be created" in said
    assert empty.run(empty.owner, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    code, said = empty.migrate()
    assert code == 0, said
    assert "The guard is installed." in said
    assert (empty.stages(), empty.rows()) == ({}, [])


def test_the_same_role_for_both_is_refused(untouched: Site) -> None:
    site = untouched
    for role in (site.owner, site.app):
        url = site.url(role)
        code, said = site.migrate(
            "--keep", "twice=3", GREENROOM_DATABASE_URL=url, GREENROOM_DATABASE_ADMIN_URL=psycopg2_url(url)
        )
        assert code == 1
        assert f"logs in as {role}, the role that MLflow's server runs as" in said
        assert "give the server a second role" in said


def test_a_role_that_does_not_exist_is_refused(untouched: Site) -> None:
    url = untouched.url(untouched.app).replace(f"{untouched.app}:", "nobody_of_that_name:")
    code, said = untouched.migrate("--keep", "twice=3", GREENROOM_DATABASE_URL=url)
    assert code == 1
    assert "There is no role nobody_of_that_name in the database" in said
    assert "CREATE ROLE nobody_of_that_name LOGIN" in said


def test_settings_that_are_missing_are_named(untouched: Site) -> None:
    code, said = untouched.migrate(GREENROOM_DATABASE_ADMIN_URL="")
    assert (code, "GREENROOM_DATABASE_ADMIN_URL" in said) == (1, True)
    code, said = untouched.migrate(GREENROOM_DATABASE_URL="")
    assert (code, "GREENROOM_DATABASE_URL" in said) == (1, True)
    assert "Traceback" not in said


def test_mlflows_own_setting_names_the_servers_role_too(untouched: Site) -> None:
    site = untouched
    code, said = site.migrate(
        "--dry-run",
        *("--keep", "twice=3"),
        GREENROOM_DATABASE_URL="",
        MLFLOW_BACKEND_STORE_URI=psycopg2_url(site.url(site.app)),
    )
    assert code == 0, said


WRONG_URLS = {
    "a file": "sqlite:////tmp/mlflow.db",
    "another database": "mysql+pymysql://u:{password}@127.0.0.1/x",
    "libpq's form": "host=127.0.0.1 user={role} password={password} dbname=x",
    "a form without scheme": "{role}:{password}@127.0.0.1/x",
    "an @ in the password": "postgresql://{role}:p@{password}@127.0.0.1/x",
    "an @ and a : in the password": "postgresql://{role}:p@{password}:{password}@127.0.0.1/x",
    "a port that is no number": "postgresql://{role}:{password}@127.0.0.1:x/x",
}


@pytest.mark.parametrize("setting", ["GREENROOM_DATABASE_URL", "GREENROOM_DATABASE_ADMIN_URL"])
@pytest.mark.parametrize("kind", WRONG_URLS)
def test_an_address_that_is_no_postgresql_is_refused_without_showing_it(
    untouched: Site, kind: str, setting: str
) -> None:
    site = untouched
    role = site.app if setting == "GREENROOM_DATABASE_URL" else site.owner
    url = WRONG_URLS[kind].format(role=role, password=site.passwords[role])
    code, said = site.migrate("--keep", "twice=3", **{setting: url})
    assert code == 1
    assert "Traceback" not in said
    assert setting in said


@pytest.mark.parametrize("what", ["password", "port"])
def test_a_database_that_does_not_let_us_in_is_explained(untouched: Site, what: str) -> None:
    site = untouched
    url = site.url(site.owner)
    wrong = (
        url.replace(site.passwords[site.owner], "wrong")
        if what == "password"
        else url.replace(f":{site.server.port}/", ":1/")
    )
    code, said = site.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=wrong)
    assert code in (1, 2)
    assert "Traceback" not in said
    assert "greenroom: " in said


def test_a_role_that_may_not_install_is_explained(untouched: Site) -> None:
    weak = untouched.role(f"{untouched.database}_weak")
    code, said = untouched.migrate("--keep", "twice=3", GREENROOM_DATABASE_ADMIN_URL=untouched.url(weak))
    assert code in (1, 2)
    assert "Traceback" not in said
    assert "greenroom: " in said


def test_an_older_guard_is_updated_and_its_chain_stays_whole(server: Server) -> None:
    site = new_site(server, "template1")
    assert site.migrate()[0] == 0
    # What the guard of before wrote: rows that name no rule, hashed without their model.
    previous = ""
    for number in (1, 2):
        body = json.dumps({"id": number, "action": "refused", "model": "old", "at": "2026", "actor": "x"})
        digest = link_hash(number, previous, sha256(body.encode()).hexdigest())
        site.as_superuser(
            "INSERT INTO greenroom.audit VALUES (%s, 'old', %s, %s, %s)",
            values=(number, body, previous, digest),
        )
        previous = digest
    site.as_superuser("UPDATE greenroom.head SET id = 2, hash = %s", values=(previous,))
    site.as_superuser("UPDATE greenroom.installed SET digest = 'an older one'")
    code, said = site.migrate()
    assert (code, "The guard is installed." in said) == (0, True), said
    entry = json.dumps({"action": "refused", "model": "old", "actor": "y"})
    site.run(site.app, "SELECT greenroom.record(%s)", entry)
    rows = site.run(site.owner, "SELECT id, model, body, hash FROM greenroom.audit ORDER BY id")
    links = [
        AuditLink(
            id=number,
            model=model,
            body=sha256(body.encode()).hexdigest(),
            hash=digest,
            scheme=json.loads(body).get("scheme", 1),
        )
        for number, model, body, digest in rows
    ]
    assert [link.scheme for link in links] == [1, 1, 2]
    assert list(broken_links(links)) == []
