"""What the role that MLflow's server runs as can still do in the database, and what is recorded of it."""

import json
from hashlib import sha256

import pytest
from psycopg2 import errors

from registry.audit import AuditEntry, AuditLink, broken_links, link_hash
from registry.client import audit_log
from registry.client.registry import Registry
from registry.client.tracking_client import TrackingClient
from registry.names import Stage
from tests.registry.support.sites import Site

pytestmark = pytest.mark.slow


# After


def test_the_server_starts_and_tells_what_was_found(guarded: Site, guarded_client: TrackingClient) -> None:
    registry = Registry(guarded_client)
    production = registry.in_stage("twice", Stage.PRODUCTION)
    assert production is not None
    assert production.number == 3
    rows = [row for row in audit_log.history(guarded_client, "twice") if row.action == "found"]
    assert [(row.version, row.to_stage) for row in rows] == [(2, "Archived"), (3, "Production")]
    assert not list(broken_links(audit_log.chain(guarded_client, "twice")))


OWNERS_WORK = (
    "UPDATE greenroom.audit SET body = '{{}}'",
    "DELETE FROM greenroom.audit",
    "TRUNCATE greenroom.audit",
    "INSERT INTO greenroom.audit VALUES (999, '', '{{}}', '', '')",
    "UPDATE greenroom.head SET id = 0",
    "DELETE FROM greenroom.head",
    "UPDATE greenroom.installed SET digest = ''",
    "DROP TABLE greenroom.audit",
    "DROP SCHEMA greenroom CASCADE",
    "CREATE TABLE greenroom.mine (id int)",
    "CREATE TABLE public.mine (id int)",
    "ALTER TABLE model_versions DISABLE TRIGGER ALL",
    "ALTER TABLE model_versions DISABLE TRIGGER greenroom_audit",
    "ALTER TABLE registered_model_aliases DISABLE TRIGGER greenroom_audit",
    "ALTER TABLE model_version_tags DISABLE TRIGGER greenroom_audit",
    "DROP TRIGGER greenroom_audit ON model_versions",
    "DROP INDEX greenroom_one_production",
    "ALTER TABLE model_versions DROP CONSTRAINT greenroom_known_stage",
    "ALTER TABLE model_versions RENAME TO other",
    "TRUNCATE model_versions CASCADE",
    "DROP TABLE model_versions CASCADE",
    "SET session_replication_role = replica",
    "SELECT greenroom.append('{{}}')",
    'SELECT greenroom.append(\'{{"action": "refused"}}\')',
    "SELECT greenroom.described('{{}}')",
    "SELECT greenroom.begin('{{}}')",
    "SELECT greenroom.finish()",
    "INSERT INTO greenroom.acting VALUES (pg_current_xact_id(), '{{}}')",
    "SELECT * FROM greenroom.acting",
    "DELETE FROM alembic_version",
    "ALTER TABLE runs DISABLE TRIGGER greenroom_keep",
    "DROP TRIGGER greenroom_hold ON model_versions",
    "CREATE OR REPLACE FUNCTION greenroom.may_change(oid) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE OR REPLACE FUNCTION greenroom.on_version() RETURNS trigger LANGUAGE sql AS ''",
    "DROP FUNCTION greenroom.append(jsonb)",
    "ALTER FUNCTION greenroom.record(jsonb) SECURITY INVOKER",
    "CREATE TRIGGER mine BEFORE INSERT ON model_versions EXECUTE FUNCTION greenroom.on_version()",
    "CREATE RULE mine AS ON INSERT TO model_versions DO INSTEAD NOTHING",
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "ALTER ROLE {app} SUPERUSER",
)


@pytest.mark.parametrize("statement", OWNERS_WORK)
def test_what_belongs_to_the_owner_is_out_of_the_servers_reach(guarded: Site, statement: str) -> None:
    wanted = statement.format(owner=guarded.owner, app=guarded.app)
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(guarded.app, wanted)


@pytest.mark.parametrize("action", ["refused", "mismatch", "override"])
def test_the_server_may_record_what_changes_no_stage(guarded: Site, action: str) -> None:
    entry = {"action": action, "model": "twice", "version": 3, "actor": "me"}
    if action == "override":
        entry |= {"from": "Production", "to": "Production"}
    guarded.attempt(guarded.app, f"SELECT greenroom.record('{json.dumps(entry)}')")


@pytest.mark.parametrize(("number", "was"), [(2, "Archived"), (2, "Production"), (9, "Production")])
def test_the_server_may_not_record_an_override_of_what_is_not_in_production(
    guarded: Site, number: int, was: str
) -> None:
    entry = {"action": "override", "model": "twice", "version": number, "from": was, "to": "Production"}
    with pytest.raises(errors.RaiseException, match="in the stage that it is in"):
        guarded.attempt(guarded.app, f"SELECT greenroom.record('{json.dumps(entry)}')")


@pytest.mark.parametrize(
    "action", ["promoted", "staged", "rollback", "found", "sql", "archived", "deleted", "alias", "", None]
)
def test_the_server_may_not_record_what_triggers_write(guarded: Site, action: str | None) -> None:
    entry = json.dumps({"action": action, "model": "idle", "version": 1, "actor": "me"})
    with pytest.raises(errors.RaiseException, match="does not take the action"):
        guarded.attempt(guarded.app, f"SELECT greenroom.record('{entry}')")


def test_what_is_recorded_cannot_name_its_own_role_time_or_number(guarded: Site) -> None:
    entry = {"action": "refused", "model": "idle", "actor": "me", "role": "x", "id": 1, "at": "1999"}
    ((number,),) = guarded.run(guarded.app, "SELECT greenroom.record(%s)", json.dumps(entry))
    row = guarded.rows()[-1]
    assert (row.id, row.role, row.at[:2]) == (number, guarded.app, "20")


def test_the_functions_of_triggers_cannot_be_put_on_a_table_of_ones_own(guarded: Site) -> None:
    # Else a change of a temporary table would write whatever its maker likes into the audit.
    with pytest.raises(errors.InsufficientPrivilege):
        guarded.attempt(
            guarded.app,
            "CREATE TEMP TABLE mine (LIKE model_versions)",
            "CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION greenroom.on_version()",
        )


IMPOSSIBLE = {
    "second Production by update": (
        errors.UniqueViolation,
        "UPDATE model_versions SET current_stage = 'Production' WHERE name = 'twice' AND version = 2",
    ),
    "second Production by insert": (
        errors.UniqueViolation,
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('twice', 77, 'Production')",
    ),
    "unknown stage": (
        errors.CheckViolation,
        "UPDATE model_versions SET current_stage = 'production' WHERE name = 'idle'",
    ),
    "unknown stage by insert": (
        errors.CheckViolation,
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 77, 'Live')",
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_one_can_write_by_sql(guarded: Site, what: str) -> None:
    error, statement = IMPOSSIBLE[what]
    with pytest.raises(error):
        guarded.attempt(guarded.owner, statement)
    with pytest.raises((error, errors.InsufficientPrivilege)):
        guarded.attempt(guarded.app, statement)


def by_sql(site: Site, statement: str) -> AuditEntry:
    """Run a statement as the tables' owner, and return the row that it left; the server's role may not."""
    with pytest.raises(errors.InsufficientPrivilege):
        site.attempt(site.app, statement)
    before = len(site.rows())
    site.run(site.owner, statement)
    added = site.rows()[before:]
    assert len(added) == 1
    return added[0]


BY_SQL = (
    "UPDATE model_versions SET current_stage = 'Staging' WHERE name = 'idle' AND version = 1",
    "UPDATE model_versions SET source = 'elsewhere' WHERE name = 'idle' AND version = 1",
    "UPDATE model_versions SET storage_location = 'elsewhere' WHERE name = 'idle' AND version = 1",
    "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 2, 'Production')",
    "INSERT INTO registered_model_aliases (name, alias, version) VALUES ('idle', 'champion', 1)",
    "UPDATE registered_model_aliases SET version = 2 WHERE name = 'idle'",
    "DELETE FROM registered_model_aliases WHERE name = 'idle'",
    "INSERT INTO model_version_tags (name, version, key, value) "
    "VALUES ('idle', 2, 'greenroom.evidence', 'x')",
    "UPDATE model_version_tags SET value = 'y' WHERE name = 'idle'",
    "DELETE FROM model_version_tags WHERE name = 'idle'",
    "DELETE FROM model_versions WHERE name = 'idle' AND version = 2",
)


def test_changes_by_sql_leave_rows_that_name_the_role(guarded: Site, guarded_client: TrackingClient) -> None:
    rows = [by_sql(guarded, statement) for statement in BY_SQL]
    assert {(row.action, row.actor, row.role, row.proven) for row in rows} == {
        ("sql", guarded.owner, guarded.owner, False)
    }
    assert {row.model for row in rows} == {"idle"}
    assert {row.address for row in rows} == {"127.0.0.1"}
    moved = [(row.version, row.from_stage, row.to_stage) for row in (rows[0], rows[3], rows[10])]
    assert moved == [(1, "None", "Staging"), (2, None, "Production"), (2, "Production", None)]
    assert rows[1].changed is not None
    assert rows[1].changed["source"][1] == "elsewhere"
    assert rows[2].changed is not None
    assert (
        rows[2].changed["storage_location"] == [None, "elsewhere"] or rows[2].changed["storage_location"][1]
    )
    assert [row.changed and row.changed["version"] for row in rows[4:7]] == [[None, 1], [1, 2], [2, None]]
    assert [row.changed and row.changed["value"] for row in rows[7:10]] == [
        [None, "x"],
        ["x", "y"],
        ["y", None],
    ]
    assert [row.changed and row.changed["tag"] for row in rows[7:10]] == ["greenroom.evidence"] * 3
    # And whoever may read the model reads them through the server.
    assert audit_log.history(guarded_client, "idle")[-len(rows) :] == rows


def test_what_is_no_matter_of_stages_leaves_no_row(guarded: Site) -> None:
    before = guarded.rows()
    for statement in (
        "UPDATE model_versions SET description = 'x' WHERE name = 'idle'",
        "INSERT INTO model_versions (name, version, current_stage) VALUES ('idle', 5, 'None')",
        "INSERT INTO model_version_tags (name, version, key, value) VALUES ('idle', 5, 'colour', 'red')",
    ):
        guarded.run(guarded.app, statement)
    assert guarded.rows() == before


def test_a_model_renamed_by_sql_leaves_a_row(guarded: Site) -> None:
    before = len(guarded.rows())
    guarded.run(guarded.owner, "UPDATE registered_models SET name = 'renamed' WHERE name = 'idle'")
    added = guarded.rows()[before:]
    guarded.run(guarded.owner, "UPDATE registered_models SET name = 'idle' WHERE name = 'renamed'")
    assert {row.action for row in added} == {"sql"}
    assert ["idle", "renamed"] in [row.changed and row.changed.get("name") for row in added]


def test_a_change_by_sql_cannot_pass_for_a_promotion_without_evidence(guarded: Site) -> None:
    context = json.dumps({"action": "promoted", "actor": "olga", "proven": True, "version": 3})
    connection = guarded.connect(guarded.owner)
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE model_versions SET current_stage = 'Archived' WHERE name = 'once'")
            cursor.execute("SELECT set_config('greenroom.context', %s, true)", (context,))
            cursor.execute(
                "UPDATE model_versions SET current_stage = 'Production' WHERE name = 'once' AND version = 3"
            )
            cursor.execute("SELECT body FROM greenroom.audit ORDER BY id DESC LIMIT 1")
            row = AuditEntry.model_validate_json(cursor.fetchone()[0])
    finally:
        connection.rollback()
        connection.close()
    assert (row.version, row.to_stage) == (3, "Production")
    assert row.action == "sql"


@pytest.mark.parametrize("what", ["removed", "changed", "given to another model", "hashed by the old rule"])
def test_the_chain_shows_what_a_superuser_did_to_a_row(
    guarded: Site, guarded_client: TrackingClient, what: str
) -> None:
    guarded.run(
        guarded.app, "SELECT greenroom.record(%s)", json.dumps({"action": "refused", "model": "idle"})
    )
    assert not list(broken_links(audit_log.chain(guarded_client, "idle")))
    row = guarded.run(
        guarded.owner, "SELECT id, model, body, previous, hash FROM greenroom.audit WHERE id = 2"
    )[0]
    if what == "removed":
        guarded.as_superuser("DELETE FROM greenroom.audit WHERE id = 2")
    elif what == "changed":
        guarded.as_superuser("UPDATE greenroom.audit SET body = '{{}}' WHERE id = 2")
    elif what == "given to another model":
        guarded.as_superuser("UPDATE greenroom.audit SET model = 'twice' WHERE id = 2")
    else:
        rehashed = link_hash(2, row[3], sha256(row[2].encode()).hexdigest())
        guarded.as_superuser("UPDATE greenroom.audit SET hash = %s WHERE id = 2", values=(rehashed,))
    try:
        found = list(broken_links(audit_log.chain(guarded_client, "idle")))
    finally:
        guarded.as_superuser("DELETE FROM greenroom.audit WHERE id = 2")
        guarded.as_superuser("INSERT INTO greenroom.audit VALUES (%s, %s, %s, %s, %s)", values=row)
    assert found
    assert "row 2 of the audit" in found[0]
    assert not list(broken_links(audit_log.chain(guarded_client, "idle")))


def test_a_chain_of_before_stays_whole_and_its_new_links_hold_the_model() -> None:
    first = link_hash(1, "", "a")
    second = link_hash(2, first, "b", "genre")
    links = [
        AuditLink.model_validate({"id": 1, "model": "energy", "body": "a", "hash": first}),
        AuditLink(id=2, model="genre", body="b", hash=second, scheme=2),
    ]
    assert list(broken_links(links)) == []
    assert list(broken_links([links[0], links[1].model_copy(update={"model": "energy"})]))
    third = AuditLink(id=3, model="x", body="c", hash=link_hash(3, second, "c"))
    assert "older rule" in next(iter(broken_links([*links, third])))
