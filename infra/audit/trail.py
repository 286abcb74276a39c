"""The audit trail: who did what to a deployment, when and with which result; in its own database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from infra.audit.log import Event, append_to_log, log_folder, pending
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.stack.locations import StackFolder
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

SCHEMA = "letta_ops"
TABLE = f"{SCHEMA}.audit"
OURS = ("audit", "deployment")  # an administrator writes them
KINDS = {
    "v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE", "S": "SEQUENCE", "c": "TYPE",
    "i": "INDEX",
}  # fmt: skip
COLUMNS = ("id", "at", "who", "host", "command", "target", "result", "detail", "seconds")
MAKE = f"""CREATE SCHEMA IF NOT EXISTS {SCHEMA};
    CREATE TABLE IF NOT EXISTS {TABLE} (
        id uuid PRIMARY KEY, at timestamptz NOT NULL, who text NOT NULL, host text NOT NULL,
        command text NOT NULL, target text NOT NULL, result text NOT NULL, detail jsonb NOT NULL,
        seconds double precision NOT NULL)"""
# Letta's role owns the database: it, and so a tool of an agent, may have made a table of that name.
OWNED = """
    SELECT every(owner = (SELECT oid FROM pg_roles WHERE rolname = current_user)) FROM (
        SELECT nspowner FROM pg_namespace WHERE nspname = %s
        UNION ALL SELECT relowner FROM pg_class WHERE oid = to_regclass(%s)) AS owners (owner)
    WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%s))
    AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = to_regclass(%s))
"""
LIST = ", ".join(COLUMNS)
INSERT = f"""INSERT INTO {TABLE} ({LIST}) VALUES ({", ".join(["%s"] * len(COLUMNS))})
    ON CONFLICT (id) DO NOTHING"""  # noqa: S608  # of names that stand above
READ = f"SELECT {LIST} FROM ONLY {TABLE} ORDER BY at DESC, id"  # noqa: S608
NO_RECORD = "the database has no record of this command"
PATIENCE = "SET statement_timeout = '10s'; SET lock_timeout = '5s'"


def append(deployment: Deployment, event: Event) -> str | None:
    """Keep the record of `event`, in the database and in the log of the stack's folder.

    What the database could not be told before, it is told now. Returns what has no
    record of it and why, None when all have; never fails for that.
    """
    clean, folder = event.without(deployment.secrets), log_folder(deployment)
    if deployment.database is None and folder is None:
        return "no record of this command is kept: the profile names no database"
    recorded, unlogged = False, None
    missing: str | None = None
    try:
        if deployment.database is not None:
            missing = _tell_database(deployment, deployment.database.name, clean, folder)
            recorded = missing is None
    finally:  # also when somebody interrupts us here
        if folder is not None:
            unlogged = append_to_log(folder, clean, in_database=recorded)
    return "; ".join(filter(None, (missing, unlogged))) or None


def entries(deployment: Deployment, limit: int) -> list[Event]:
    """Return the database's records, newest first. Raises LettaOpsError like `Host.session`."""
    import psycopg

    with host(deployment).session() as link:
        try:
            return list(_rows(link, limit))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return []  # nothing has been done yet
        except psycopg.Error as error:
            raise LettaOpsError(
                "audit-unreadable",
                f"the database does not show {TABLE}: {_first_line(error)}",
                f"grant its reader USAGE on {SCHEMA} and SELECT on {TABLE}",
            ) from None


def carry_over(
    old: psycopg.Connection[Any] | None,
    new: psycopg.Connection[Any],
    loaded: psycopg.Connection[Any] | None = None,
) -> int:
    """Copy the records that database `new` lacks from `old`, if there is one; return how many.

    A restore brings the records of back then: those since are about the restored data, too. The
    table and the schema belong to `new`'s user afterwards, whoever a restore gave them to: else nobody
    would write to it any more. What else is in the schema stays. A table that isn't `new`'s user's is
    read by `loaded`, a session with the rights of whoever loaded it: to look at one can run code of its
    owner's (of an index, for instance).
    """
    readable = old is not None and _is_there(old) and _is_owned(old)
    records = list(_rows(old, None)) if old is not None and readable else []
    rows: list[Event] = []
    if _is_there(new):
        rows = list(_rows(new if loaded is None or _is_owned(new) else loaded, None))
    with new.transaction():
        _make(new)
        if not _is_ours(new):
            _take_over(new)
            _make(new)
            _insert(new, rows)
        known = {event.id for event in rows}
        lacking = [event for event in records if event.id not in known]
        _insert(new, lacking)
    return len(lacking)


def merge(old: psycopg.Connection[Any], schema: str, new: psycopg.Connection[Any]) -> None:
    """Copy the records in another schema of `old` that database `new` lacks; `old` is a session with no
    more rights than whoever made that schema. A trail that isn't `new`'s user's stays as it is."""
    table = f"{schema}.{TABLE.partition('.')[2]}"
    records = list(_rows(old, None, table)) if _is_there(old, table) else []
    with new.transaction():
        _make(new)
        if _is_ours(new):
            _insert(new, records)


def _tell_database(
    deployment: Deployment, name: str, event: Event, folder: StackFolder | None
) -> str | None:
    """Insert `event`, and what waits in the log; return why that wasn't possible, or None."""
    import psycopg

    try:
        with host(deployment).administrator() as access, access.examine(name) as link:
            link.execute(PATIENCE)
            with link.transaction():
                _make(link)
                if not _is_ours(link):
                    return f"{NO_RECORD}: {TABLE} does not belong to {access.settings['user']}"
                _insert(link, [event])
                for earlier in pending(folder) if folder is not None else ():
                    with suppress(psycopg.Error), link.transaction():
                        _insert(link, [earlier])
    except LettaOpsError as error:
        return f"{NO_RECORD}: {error.message}"
    except psycopg.Error as error:
        return f"{NO_RECORD}: {_first_line(error)}"
    return None


def _is_there(link: psycopg.Connection[Any], table: str = TABLE) -> bool:
    """Whether there is a plain table: reading from a view runs what somebody wrote into it."""
    query = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)"
    return link.execute(query, [table]).fetchone() == ("r",)


def _make(link: psycopg.Connection[Any]) -> None:
    """Make the table where there is none; `IF NOT EXISTS` is for who makes it at the same moment."""
    import psycopg

    if _is_there(link):
        return
    try:
        with link.transaction():
            link.execute(MAKE)
    except psycopg.errors.UniqueViolation:  # two at the very same moment
        link.execute(MAKE)


def _take_over(link: psycopg.Connection[Any]) -> None:
    """Drop what of ours somebody else could have prepared, and make the schema ours."""
    query = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)"
    for name in OURS:
        for (kind,) in link.execute(query, [f"{SCHEMA}.{name}"]).fetchall():
            link.execute(f"DROP {KINDS.get(kind, 'TABLE')} {SCHEMA}.{name} CASCADE")
    link.execute(f"ALTER SCHEMA {SCHEMA} OWNER TO CURRENT_USER")


def _is_ours(link: psycopg.Connection[Any]) -> bool:
    """Whether nobody else could have put a trigger on the table, which we would run."""
    link.execute(f"LOCK TABLE {TABLE} IN ROW EXCLUSIVE MODE")
    return _is_owned(link)


def _is_owned(link: psycopg.Connection[Any]) -> bool:
    return link.execute(OWNED, [SCHEMA, TABLE, TABLE, TABLE]).fetchone() == (True,)


def _insert(link: psycopg.Connection[Any], events: Iterable[Event]) -> None:
    from psycopg.types.json import Jsonb

    documents = ({**asdict(event), "detail": Jsonb(event.detail)} for event in events)
    with link.cursor() as cursor:
        cursor.executemany(INSERT, [[each[name] for name in COLUMNS] for each in documents])


def _rows(link: psycopg.Connection[Any], limit: int | None, table: str = TABLE) -> Iterator[Event]:
    for row in link.execute(f"{READ.replace(TABLE, table)} LIMIT %s", [limit]):
        yield Event(**dict(zip(COLUMNS, row, strict=True)))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
