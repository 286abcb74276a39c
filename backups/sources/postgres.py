"""The database of a backup: one snapshot, dumped through a pipe and counted at the same time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.contents import (
    OWN_TABLES,
    read_large_objects,
    read_sequences,
    read_tables,
    read_views,
    settle,
)
from backups.extensions import read_extensions
from backups.foresight import foreseen
from backups.layout import LETTA_OPS, read_properties
from backups.manifest import LETTA, WHOLE, DatabaseRecord, Extension
from backups.programs import Program, Version
from backups.rights import read_rights
from backups.scope import (
    Names,
    Own,
    ensure_all,
    ensure_name,
    find_own,
    leaning,
    needed_extensions,
    words_of,
)
from backups.side_database import RIGHT_LACKS
from backups.sources.rows import TableName, read_rows, tables_with_vectors
from backups.streams import chunks_of
from infra.background import Background
from infra.database.administration import DatabaseAccess
from infra.database.facts import DatabaseFacts, database_facts, is_plain_table
from infra.errors import LettaOpsError
from infra.process import command, streamed
from infra.sensitive import Sensitive
from infra.stack.deployment import READER_ROLE

if TYPE_CHECKING:
    import psycopg

LOCK_SECONDS = 60  # how long a table may be locked by somebody else
POLICIES = """
SELECT pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid) FROM pg_policy
WHERE polrelid = ANY(%s::oid[])
"""
# A snapshot, its time, and how many bytes are in it.
TAKEN = """
SELECT pg_export_snapshot(), now(), CASE WHEN %(only)s::oid[] IS NULL
  THEN pg_database_size(current_database())
  ELSE (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
    FROM unnest(%(only)s::oid[]) oid) END
"""


@dataclass(frozen=True)
class Snapshot:
    """One moment of a database, held open. `taken_at` is by the database's clock.

    `apart` are the tables whose rows the dump leaves out: see `backups.sources.rows`.
    """

    access: DatabaseAccess
    name: str
    exported: str
    taken_at: dt.datetime
    server: Version
    size: int  # bytes on disk, for the progress
    newest_message_at: dt.datetime | None
    apart: tuple[TableName, ...]
    warnings: tuple[str, ...]  # see `backups.foresight`
    only: tuple[TableName, ...] | None  # the tables of the scope; None: all
    _counted: _Counting
    _facts: dict[str, Any]

    def dump(self, program: Program) -> Iterator[bytes]:
        """Yield the snapshot in pg_dump's custom format, not compressed.

        Raises LettaOpsError: `table-locked`, or `dump-failed` with pg_dump's last words.
        """
        arguments = (
            str(program.path), "--format=custom", "--compress=0", "--no-password",
            f"--snapshot={self.exported}", f"--lock-wait-timeout={LOCK_SECONDS}s",
            *(f"--exclude-table-data={table.pattern}" for table in self.apart),
            *(f"--table={table.pattern}" for table in self.only or ()),
        )  # fmt: skip
        try:
            if program.of_server is not None:
                yield from program.of_server.stream(*arguments, self.name)
            else:
                yield from self._dumped_here(arguments)
        except LettaOpsError as error:
            raise _explained(error, self.name) from None

    def _dumped_here(self, arguments: tuple[str, ...]) -> Iterator[bytes]:
        environment = self.access.environment(self.name)
        job = command(
            *arguments,
            environment={"LC_ALL": "C", "PATH": "/usr/bin:/bin", **environment},
            secrets=_secrets(environment),
        )
        with streamed(job, code="dump-failed", hint=HINT, what="dumping the database") as out:
            yield from chunks_of(out)

    def rows(self, table: TableName) -> Iterator[bytes]:
        """Yield the rows of a table that is `apart`. Raises LettaOpsError like `snapshot`."""
        import psycopg
        from psycopg import sql

        with self.access.examine(self.name) as link:
            try:
                settle(link)
                link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                link.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(self.exported))
                link.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                yield from read_rows(link, table)
            except psycopg.Error as error:
                if link.broken and isinstance(error, psycopg.OperationalError):
                    raise  # `connect` tells it
                raise refused(error, self.name) from None
            finally:
                link.close()  # it has only read: there is nothing to commit

    def contents(self) -> DatabaseRecord:
        """Wait for the counting, and return what the snapshot holds."""
        return DatabaseRecord(**self._facts, **self._counted.result())


HINT = (
    "look at Postgres' log (of a stack's own: `letta-ops logs postgres`) and the free disk space, then"
    " run this again"
)


@contextmanager
def snapshot(access: DatabaseAccess, name: str, scope: str) -> Iterator[Snapshot]:
    """Take a snapshot of what in database `name` is in `scope`, and begin to count it.

    Raises LettaOpsError: `database-unreachable`, `not-letta`, `release-unknown`, or `database-refused`.
    """
    import psycopg

    with access.examine(name) as link:
        try:
            facts = database_facts(link)
            if facts.schema is None:
                raise LettaOpsError(
                    "not-letta",
                    f"the database {name} holds no Letta tables: there is nothing to back up",
                    "see with `letta-ops check` whether this is the server's database",
                )
            settle(link)
            own = None
            if scope == LETTA:
                names = Names.of(facts.revision)
                ensure_name(facts.schema)
                own = find_own(link, facts.schema, names, with_records=True)
                ensure_all(link, facts.schema, own, names)
            only = own.relations if own else None
            known = _known(link, name, facts, own)
            if own:
                known["leaning"], warnings = leaning(link, own)
            else:
                warnings = tuple(foreseen(link))
            begin_locked(link, only)
            exported, taken_at, size = _row(link, TAKEN, {"only": only})
            newest = _newest_message(link, str(facts.schema))
            apart = tables_with_vectors(link, only)
            tables = _named(link, only) if only else None
            counting = _Counting(link, only)
        except psycopg.Error as error:
            raise refused(error, name) from None
        try:
            server = Version.of(link)
            yield Snapshot(
                access,
                name,
                exported,
                taken_at,
                server,
                size,
                newest,
                apart,
                warnings,
                tables,
                counting,
                known,
            )
        finally:
            counting.end()
            link.close()  # it has only read: there is nothing to commit


def begin_locked(link: psycopg.Connection[Any], only: list[int] | None) -> None:
    """Begin a transaction whose snapshot, taken by its first query, all tables keep to its end; `only`:
    those with these numbers.

    One that is emptied or rewritten by somebody else would be empty in an older snapshot. Raises
    psycopg.Error.
    """
    from psycopg import sql

    link.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")  # asking for their sizes locks them, too
    found = link.execute(OWN_TABLES, {"only": only})
    names = [sql.Identifier(schema, name) for schema, name, _ in found]
    link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    tables = sql.SQL(", ").join(sql.SQL("ONLY {}").format(name) for name in names)
    link.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables))
    if only is not None:
        # To write a policy down, pg_dump locks what the policy asks: without end, where we don't before.
        link.execute(POLICIES, [only])


class _Counting:
    """Counts and digests all content over the connection that holds the snapshot."""

    def __init__(self, link: psycopg.Connection[Any], only: list[int] | None) -> None:
        self._link = link
        self._reading = Background(lambda: _contents(link, only), "counting")

    def result(self) -> dict[str, Any]:
        import psycopg

        try:
            return self._reading.result()
        except psycopg.Error as error:
            raise refused(error, self._link.info.dbname) from None

    def end(self) -> None:
        """Stop it, also in the middle: its connection is given up."""
        if not self._reading.wait(0):
            with suppress(Exception):  # it may have ended by now
                self._link.cancel_safe(timeout=5)
            self._reading.wait(10)


def _contents(link: psycopg.Connection[Any], only: list[int] | None) -> dict[str, Any]:
    """By the names that a `DatabaseRecord` has for it. In scope `letta` only tables are Letta's."""
    tables = read_tables(link, only=only)
    if only is not None:
        return {"tables": tables}
    return {"tables": tables, "large_objects": read_large_objects(link), "views": read_views(link)}


def refused(error: Exception, name: str) -> LettaOpsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if getattr(error, "sqlstate", None) == RIGHT_LACKS:
        lacks_our_records = (
            f"the owner may not read our records there, the role {READER_ROLE} may: name it as"
            " database.reader, with the database.reader_password that the profile of the stack has"
        )
        lacks_others = (
            "let the role read it; or, where it isn't Letta's, leave it out: backup.scope letta"
            " (docs/external-database.md)"
        )
        hint = lacks_our_records if f"schema {LETTA_OPS}" in reason else lacks_others
        return LettaOpsError("database-refused", f"the database {name} refuses: {reason}", hint)
    if "lock timeout" in reason or "lock_timeout" in reason:
        return _locked(name)
    return LettaOpsError("database-refused", f"the database {name} refuses: {reason}", HINT)


def _known(
    link: psycopg.Connection[Any], name: str, facts: DatabaseFacts, own: Own | None
) -> dict[str, Any]:
    only = own.relations if own else None
    (encoding,) = _row(
        link,
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()",
    )
    return {
        "name": name,
        "schema": facts.schema,
        "revision": facts.revision,
        "postgres": facts.version,
        "pgvector": facts.pgvector and facts.pgvector.version,
        "pgvector_schema": facts.pgvector and facts.pgvector.schema,
        "encoding": encoding,
        # They may run on before the snapshot: what is restored stands at least here.
        "sequences": read_sequences(link, only),
        "extensions": _extensions(link, own),
        "rights": read_rights(link, str(facts.schema), own),
        "properties": None if own else read_properties(link),
        "scope": LETTA if own else WHOLE,
        "types": words_of(link, own) if own else {},
    }


def _extensions(link: psycopg.Connection[Any], own: Own | None) -> dict[str, Extension]:
    found = read_extensions(link)
    if own is None:
        return found
    needed = needed_extensions(link, own)
    return {name: each for name, each in found.items() if name in needed}


def _named(link: psycopg.Connection[Any], only: list[int]) -> tuple[TableName, ...]:
    """Tables and sequences by their numbers."""
    query = (
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = ANY(%s::oid[]) ORDER BY 1, 2"
    )
    return tuple(TableName(*row) for row in link.execute(query, [only]))


def _newest_message(link: psycopg.Connection[Any], schema: str) -> dt.datetime | None:
    from psycopg import sql

    if not is_plain_table(link, schema, "messages"):
        return None
    query = sql.SQL("SELECT max(created_at) FROM {}").format(sql.Identifier(schema, "messages"))
    (newest,) = _row(link, query)
    return newest if newest is None else newest.astimezone(dt.UTC)


def _row(link: psycopg.Connection[Any], query: Any, values: Any = None) -> Any:
    row = link.execute(query, values).fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one
    return row


def _secrets(environment: dict[str, str]) -> tuple[Sensitive, ...]:
    password = environment.get("PGPASSWORD")
    return (Sensitive(password),) if password else ()


def _explained(error: LettaOpsError, name: str) -> LettaOpsError:
    # pg_dump sets a timeout of its statements, not of locks; it tells which one it was.
    return _locked(name) if "LOCK TABLE" in error.message else error


def _locked(name: str) -> LettaOpsError:
    return LettaOpsError(
        "table-locked",
        f"a table of the database {name} was locked by somebody else for {LOCK_SECONDS} s",
        "find the session that holds it (pg_locks, pg_stat_activity; a migration, perhaps), wait for"
        " its end, then run this again",
    )
