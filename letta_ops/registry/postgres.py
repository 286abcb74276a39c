"""A registry in a Postgres: in the database of the Letta server itself, or in any other one."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, TypeVar

from letta_ops.registry.errors import RegistryUnavailable
from letta_ops.registry.links import Event, Key, Link, Row
from letta_ops.registry.store import VERSION, claimed, ensure_known

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import ConnectionPool

SCHEMA = "letta_ops"
TABLES = ("registry_links", "registry_history", "registry_version")
# Ids are compared byte by byte, whatever the database's collation takes for equal. That of an agent has
# the collation of Letta's own column: else no index of that one would be used.
MAKE = f"""
CREATE TABLE {SCHEMA}.registry_links (
    app text COLLATE "C" NOT NULL, app_agent_id text COLLATE "C" NOT NULL,
    folded text COLLATE "C" NOT NULL, letta_agent_id text UNIQUE,
    server text, linked_at timestamptz, linked_by text, reason text, template jsonb,
    lease text, leased_at timestamptz, PRIMARY KEY (app, app_agent_id));
CREATE INDEX registry_links_folded ON {SCHEMA}.registry_links (app, folded);
CREATE TABLE {SCHEMA}.registry_history (
    id uuid PRIMARY KEY, at timestamptz NOT NULL, who text NOT NULL, app text COLLATE "C" NOT NULL,
    app_agent_id text COLLATE "C" NOT NULL, what text NOT NULL, letta_agent_id text, before text,
    reason text NOT NULL);
CREATE INDEX registry_history_key ON {SCHEMA}.registry_history (app, app_agent_id);
CREATE TABLE {SCHEMA}.registry_version (version integer PRIMARY KEY, server text);
CREATE VIEW {SCHEMA}.agent_links AS SELECT app, app_agent_id, letta_agent_id, server, linked_at
    FROM {SCHEMA}.registry_links WHERE letta_agent_id IS NOT NULL;
INSERT INTO {SCHEMA}.registry_version VALUES ({VERSION});
"""
VERSION_OF = f"SELECT max(version) FROM {SCHEMA}.registry_version"
SERVER = f"SELECT server FROM {SCHEMA}.registry_version"
NAME_SERVER = f"UPDATE {SCHEMA}.registry_version SET server = %s WHERE server IS DISTINCT FROM %s"
# Two that make it at the same moment.
ALONE = "SELECT pg_advisory_xact_lock(hashtext('letta_ops.registry'))"
# Where it is the server's own database, and we may look.
AGENTS = """
SELECT to_regclass('agents')::text WHERE to_regclass('alembic_version') IS NOT NULL
AND has_table_privilege(to_regclass('agents'), 'SELECT')
"""
OF_AGENT = (
    "EXISTS (SELECT FROM {agents} a WHERE a.id = l.letta_agent_id AND a.is_deleted IS NOT TRUE)"
)
ROWS = f"""
SELECT l.app, l.app_agent_id, l.letta_agent_id, l.server, l.linked_at, l.linked_by, l.reason,
    l.template, l.lease, CASE WHEN l.lease IS NOT NULL
    THEN extract(epoch FROM clock_timestamp() - l.leased_at)::float8 END, {{there}}
FROM {SCHEMA}.registry_links l
"""
INSERT = f"""
INSERT INTO {SCHEMA}.registry_links (letta_agent_id, server, linked_at, linked_by, reason, template,
    lease, leased_at, app, app_agent_id, folded)
VALUES (%s, %s, %s, %s, %s, %s, %s, CASE WHEN %s THEN clock_timestamp() END, %s, %s, %s)
ON CONFLICT (app, app_agent_id) DO NOTHING
"""
SAME = """WHERE app = %s AND app_agent_id = %s
AND letta_agent_id IS NOT DISTINCT FROM %s AND lease IS NOT DISTINCT FROM %s"""
UPDATE = f"""
UPDATE {SCHEMA}.registry_links SET letta_agent_id = %s, server = %s, linked_at = %s, linked_by = %s,
    reason = %s, template = %s, lease = %s, leased_at = CASE WHEN %s THEN clock_timestamp() END {SAME}
"""
DELETE = f"DELETE FROM {SCHEMA}.registry_links {SAME}"
HISTORY = f"""
INSERT INTO {SCHEMA}.registry_history VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
EVENTS = f"""
SELECT id::text, at, who, app, app_agent_id, what, letta_agent_id, before, reason
FROM {SCHEMA}.registry_history
WHERE (%(app)s::text IS NULL OR app = %(app)s) AND (%(id)s::text IS NULL OR app_agent_id = %(id)s)
AND (%(agent)s::text IS NULL OR %(agent)s IN (letta_agent_id, before))
ORDER BY at DESC, id
"""
CONNECT_SECONDS, POOL_SECONDS = 5, 10.0
PAGE = 2000  # rows at a time: a registry may hold a million

Answer = TypeVar("Answer")


class PostgresStore:
    """See `letta_ops.registry.store.Store`; safe to be used by many threads.

    `settings` are a URL or libpq's keywords, password included; `place` is what people call it. The
    tables are made by whoever comes first and may; before that `prepare` is called.
    """

    def __init__(
        self,
        settings: str | Mapping[str, Any],
        place: str = "",
        *,
        connections: int = 10,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._connections, self._prepare = settings, connections, prepare
        self._place = place or "in Postgres"
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._mutex = threading.Lock()
        self._rows = ROWS
        self._find = ""
        self._is_own = False

    def find(self, key: Key) -> Row | None:
        found = self._run(
            lambda link: _finder(link).execute(self._find, [key.app, key.id]).fetchone()
        )
        return None if found is None else _row(found)

    def rows(
        self, app: str | None = None, *, agent: str | None = None, folded: str | None = None
    ) -> Iterator[Row]:
        wanted = {"app": app, "letta_agent_id": agent, "folded": folded}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"l.{name} = %({name})s" for name in given) or "true"
        last: tuple[str, str] = ("", "")

        def page(link: psycopg.Connection[Any]) -> list[Any]:
            return _page(link, self._rows, where, given, last)

        while True:
            found = self._run(page)
            yield from map(_row, found)
            if len(found) < PAGE:
                return
            last = found[-1][:2]

    def replace(self, key: Key, was: Row | None, new: Row | None, event: Event | None) -> bool:
        import psycopg

        tried = False

        def work(link: psycopg.Connection[Any]) -> bool:
            nonlocal tried
            # A connection that broke may have broken after it was done.
            if tried and new is not None:
                found = link.execute(self._find, [key.app, key.id]).fetchone()
                there = None if found is None else _row(found)
                if there is not None and (there.agent, there.lease) == (new.agent, new.lease):
                    return True
            tried = True
            with link.transaction():
                return replace(link, key, was, new, event)

        try:
            return self._run(work)
        except psycopg.errors.UniqueViolation:
            raise claimed(str(new and new.agent)) from None

    def events(
        self, app: str | None = None, app_agent_id: str | None = None, *, agent: str | None = None
    ) -> Iterator[Event]:
        def work(link: psycopg.Connection[Any]) -> list[Any]:
            asked = {"app": app, "id": app_agent_id, "agent": agent}
            return link.execute(EVENTS, asked).fetchall()

        yield from (Event(*row) for row in self._run(work))

    def server(self) -> str | None:
        def work(link: psycopg.Connection[Any]) -> Any:
            return link.execute(SERVER).fetchone()

        row = self._run(work)
        return str(row[0]) if row and row[0] and self._is_own else None

    def name_server(self, name: str) -> None:
        """Say what the server is called whose own database this is."""

        def work(link: psycopg.Connection[Any]) -> None:
            link.execute(NAME_SERVER, [name, name])

        self._run(work)

    def close(self) -> None:
        with self._mutex:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def _run(self, work: Callable[[psycopg.Connection[Any]], Answer]) -> Answer:
        """Do `work`, twice where the connection was broken: what waits in a pool may be of before a
        restart of Postgres."""
        pool = self._pool or self._opened()
        try:
            link = pool.getconn(POOL_SECONDS)  # its context manager would also end a transaction
            try:
                return work(link)
            finally:
                pool.putconn(link)
        except Exception as error:  # noqa: BLE001  # nothing is imported where all is well
            return self._again(pool, work, error)

    def _again(
        self,
        pool: ConnectionPool[psycopg.Connection[Any]],
        work: Callable[[psycopg.Connection[Any]], Answer],
        error: Exception,
    ) -> Answer:
        import psycopg
        import psycopg_pool

        if not isinstance(error, psycopg.Error) or isinstance(
            error, psycopg.errors.UniqueViolation
        ):
            raise error
        broken = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        if not broken or isinstance(error, psycopg_pool.PoolTimeout):
            raise self._unavailable(error) from None
        try:
            pool.check()
            with pool.connection(POOL_SECONDS) as link:
                return work(link)
        except psycopg.errors.UniqueViolation:
            raise
        except psycopg.Error as worse:
            raise self._unavailable(worse) from None

    def _opened(self) -> ConnectionPool[psycopg.Connection[Any]]:
        with self._mutex:  # of many threads that come first, one opens it
            if self._pool is None:
                self._pool = self._open()
            return self._pool

    def _open(self) -> ConnectionPool[psycopg.Connection[Any]]:
        import psycopg
        import psycopg_pool

        given = self._settings
        conninfo = given if isinstance(given, str) else ""
        keywords = {
            **({} if isinstance(given, str) else given),
            "autocommit": True,
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "letta-ops-registry",
            "client_encoding": "utf8",
        }
        try:
            # By itself, since a pool doesn't say why it can't connect.
            with psycopg.connect(conninfo, **keywords) as link:
                make(link, self._place, self._prepare)
                agents = agents_table(link)
        except psycopg.ProgrammingError as error:
            if error.sqlstate is not None:
                raise self._unavailable(error) from None
            raise RegistryUnavailable(  # libpq shows the part that it doesn't understand
                "the registry's URL can't be read",
                "write it as postgresql://ROLE:PASSWORD@HOST:PORT/NAME; in a password, every character"
                " but letters and digits as %XX",
            ) from None
        except psycopg.Error as error:
            raise self._unavailable(error) from None
        there = OF_AGENT.format(agents=agents) if agents else "NULL::boolean"
        self._rows = ROWS.format(there=there)
        self._find = f"{self._rows} WHERE l.app = %s AND l.app_agent_id = %s"
        self._is_own = agents is not None
        return psycopg_pool.ConnectionPool(
            conninfo, kwargs=keywords, min_size=1, max_size=self._connections, open=True
        )

    def _unavailable(self, error: Exception) -> RegistryUnavailable:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.rpartition('" failed: ')[2]  # without the address, which `place` tells
        return RegistryUnavailable(
            f"the registry {self._place} can't be used: {reason}",
            "see whether its Postgres runs, and whether the role may use the schema letta_ops and its"
            " tables; `letta-ops registry list` makes them where they are missing",
        )


def _finder(link: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor that the connection keeps: a new one, and values as text, cost a quarter of a look-up."""
    known: dict[str, Any] = vars(link)
    if "letta_ops_finder" not in known:
        known["letta_ops_finder"] = link.cursor(binary=True)
    return known["letta_ops_finder"]  # type: ignore[no-any-return]


def prepare(link: psycopg.Connection[Any], owner: str) -> None:
    """Let `owner` make the registry's tables in our schema, which is an administrator's where one made
    the database. To be done by him; raises psycopg.Error."""
    from psycopg import sql

    link.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    grant = sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}")
    link.execute(grant.format(sql.Identifier(SCHEMA), sql.Identifier(owner)))


def make(
    link: psycopg.Connection[Any], place: str, prepare: Callable[[], None] = lambda: None
) -> None:
    """Make the registry's tables where there are none. Raises psycopg.Error, RegistryUnavailable."""
    import psycopg

    # The schema may be there, and not ours to use yet.
    missing = psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName
    with contextlib.suppress(*missing, psycopg.errors.InsufficientPrivilege):
        ensure_known(_version(link), place)
        return
    prepare()
    with link.transaction():
        link.execute(ALONE)
        if link.execute("SELECT to_regclass(%s)", [f"{SCHEMA}.registry_version"]).fetchone() == (
            None,
        ):
            if link.execute("SELECT to_regnamespace(%s)", [SCHEMA]).fetchone() == (None,):
                link.execute(f"CREATE SCHEMA {SCHEMA}")
            link.execute(MAKE)


def agents_table(link: psycopg.Connection[Any]) -> str | None:
    """The server's table of agents, as it is named in a query; None where this isn't its database."""
    found = link.execute(AGENTS).fetchone()
    return None if found is None else str(found[0])


def replace(
    link: psycopg.Connection[Any], key: Key, was: Row | None, new: Row | None, event: Event | None
) -> bool:
    """See `Store.replace`, as a part of a transaction of the caller's. Raises psycopg.Error."""
    before = None if was is None else [key.app, key.id, was.agent, was.lease]
    if new is None:
        # Nothing was there, and nothing is: then there is an event only.
        done = before is None or link.execute(DELETE, before).rowcount == 1
    else:
        values = [new.agent, *_of_link(new.link), new.lease, new.lease is not None]
        if before is None:
            rows = link.execute(INSERT, [*values, key.app, key.id, key.folded])
        else:
            rows = link.execute(UPDATE, [*values, *before])
        done = rows.rowcount == 1
    if done and event is not None:
        link.execute(HISTORY, astuple(event))
    return done


def _version(link: psycopg.Connection[Any]) -> int:
    row = link.execute(VERSION_OF).fetchone()
    return int(row[0]) if row and row[0] is not None else VERSION


def _page(
    link: psycopg.Connection[Any],
    rows: str,
    where: str,
    given: Mapping[str, str],
    after: tuple[str, str],
) -> list[Any]:
    query = (
        f"{rows} WHERE {where} AND (l.app, l.app_agent_id) > (%(after_app)s, %(after_id)s)"
        f" ORDER BY l.app, l.app_agent_id LIMIT {PAGE}"
    )
    return link.execute(query, {**given, "after_app": after[0], "after_id": after[1]}).fetchall()


def _of_link(link: Link | None) -> list[Any]:
    if link is None:
        return [None] * 5
    template = None if link.template is None else json.dumps(link.template)
    return [link.server, link.linked_at, link.linked_by, link.reason, template]


def _row(found: tuple[Any, ...]) -> Row:
    app, identifier, agent, server, at, by, reason, template, lease, age, there = found
    link = None
    if agent is not None:
        link = Link(app, identifier, agent, server, at, by, reason, template, there)
    return Row(Key(app, identifier), link, lease, age or 0.0)
