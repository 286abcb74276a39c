"""A database of somebody's own making, looked at on a real Postgres."""

from __future__ import annotations

from infra.database.administration import DatabaseAccess
from infra.sensitive import Sensitive
from infra.stack.deployment import Database, Role
from ops_cli.migrations.adopting import look_at, written_since

TABLES = """
CREATE TABLE agents (id text PRIMARY KEY, is_deleted boolean);
CREATE TABLE messages (id text PRIMARY KEY);
CREATE TABLE alembic_version (version_num varchar);
INSERT INTO alembic_version VALUES ('of nobody');
INSERT INTO agents VALUES ('one');
GRANT SELECT ON ALL TABLES IN SCHEMA public TO theirs;
"""


def test_what_is_written_after_it_was_looked_at_is_found(postgres: DatabaseAccess) -> None:
    with postgres.connect("postgres") as link:
        link.execute("CREATE ROLE theirs LOGIN PASSWORD 'x'")
        link.execute("CREATE DATABASE theirs")
    role = Role("theirs", Sensitive("x"))
    there = Database(
        "127.0.0.1", int(postgres.settings["port"]), "theirs", role, role, tls="disable"
    )
    with postgres.connect("theirs") as link:
        link.execute(TABLES)
        found = look_at(there, [], in_use=False, accept_lost_secrets=False)
        assert found.counts == {"agents": 1, "messages": 0}
        assert (found.release, found.others) == (None, 0)  # a session of ours is none of others
        assert written_since(there, found) == {}
        link.execute("INSERT INTO messages VALUES ('late')")
        assert written_since(there, found) == {"messages": 1}
    assert written_since(Database("127.0.0.1", 1, "x", role, role), found) == {}
