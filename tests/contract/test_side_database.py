"""Databases that change their names, on a real Postgres."""

from __future__ import annotations

import psycopg

from backups.side_database import end_sessions
from infra.database.administration import DatabaseAccess
from tests.live.machine import wait_until

VACUUMED_FOR_LONG = """
CREATE TABLE t WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
AS SELECT n, repeat('x', 500) FROM generate_series(1, 50000) n
"""
AT_WORK = """
SELECT 1 FROM pg_stat_activity WHERE datname = 'mine' AND backend_type = 'autovacuum worker'
"""


def test_who_is_no_superuser_renames_a_database_while_autovacuum_is_in_it(
    postgres: DatabaseAccess,
) -> None:
    with postgres.connect("postgres") as link:
        link.execute("CREATE ROLE plain_owner LOGIN CREATEDB PASSWORD 'x'")
        link.execute("CREATE DATABASE mine OWNER plain_owner")
        link.execute("ALTER SYSTEM SET autovacuum = on")
        link.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        link.execute("SELECT pg_reload_conf()")
        try:
            with postgres.connect("mine") as there:
                there.execute(VACUUMED_FOR_LONG)
                there.execute("UPDATE t SET n = n")
            wait_until("autovacuum is at work", lambda: link.execute(AT_WORK).fetchone())
            with psycopg.connect(
                host="127.0.0.1", port=int(postgres.settings["port"]), user="plain_owner",
                password="x", dbname="postgres", autocommit=True,  # of a moment
            ) as owner:  # fmt: skip
                end_sessions(owner, "mine")
                owner.execute("ALTER DATABASE mine RENAME TO yours")
            assert link.execute("SELECT 1 FROM pg_database WHERE datname = 'yours'").fetchone()
        finally:
            link.execute("ALTER SYSTEM RESET autovacuum")
            link.execute("ALTER SYSTEM RESET autovacuum_naptime")
            link.execute("SELECT pg_reload_conf()")
