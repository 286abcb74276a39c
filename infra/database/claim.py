"""Whose database is it? Every deployment writes its id into its database, and looks there first."""

from __future__ import annotations

from typing import Any

from infra.errors import LettaOpsError

SCHEMA = "letta_ops"
# Whether reading and writing it runs nobody's code.
PLAIN = """
SELECT c.relkind = 'r' AND (NOT c.relrowsecurity OR pg_has_role(c.relowner, 'USAGE'))
AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid)
AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = 'deployment'
"""
CLAIMED = "database.claimed"  # in the profile: an external database of ours was claimed


def claim(link: Any, deployment: str) -> None:
    """Write `deployment` into the database, or raise LettaOpsError when another one has."""
    link.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    link.execute(
        f"CREATE TABLE IF NOT EXISTS {SCHEMA}.deployment ("
        " id text PRIMARY KEY, claimed_at timestamptz NOT NULL DEFAULT now())"
    )
    found = claimed_by(link)
    if found is None:
        link.execute(f"INSERT INTO {SCHEMA}.deployment (id) VALUES (%s)", [deployment])  # noqa: S608
    elif found != deployment:
        raise foreign(found, deployment)


def take_claim(link: Any, deployment: str) -> None:
    """Write whose database it is, whoever's it was: what was restored may be of another deployment."""
    if claimed_by(link) not in {None, deployment}:
        link.execute(f"DELETE FROM {SCHEMA}.deployment WHERE id <> %s", [deployment])  # noqa: S608
    claim(link, deployment)


def ensure_claim(link: Any, deployment: str) -> None:
    """Raise LettaOpsError where the database is another deployment's."""
    found = claimed_by(link)
    if found not in {None, deployment}:
        raise foreign(str(found), deployment)


def claimed_by(link: Any) -> str | None:
    """The id of the deployment that this database belongs to; None where no one has claimed it.

    Raises LettaOpsError (`database-foreign`) where it can't be read, or written, without running code of
    whoever made it.
    """
    plain = link.execute(PLAIN, [SCHEMA]).fetchone()
    if plain is None:
        return None
    if not plain[0]:
        raise LettaOpsError(
            "database-foreign",
            f"{SCHEMA}.deployment is no plain table: it has triggers, rules or policies",
            "letta-ops makes none: see whose they are, and drop them",
        )
    row = link.execute(f"SELECT id FROM {SCHEMA}.deployment LIMIT 1").fetchone()  # noqa: S608
    return None if row is None else str(row[0])


def foreign(found: str, wanted: str) -> LettaOpsError:
    release = f"DELETE FROM {SCHEMA}.deployment"  # noqa: S608  # shown, not run
    return LettaOpsError(
        "foreign-database",
        f"the database belongs to deployment {found}, not to this one ({wanted})",
        "name this deployment's own database, or put the profile back that belongs to this one; to"
        f" take it over on purpose, run `{release}` in it",
    )
