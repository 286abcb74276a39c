"""Taking a registry along where a database takes the place of another one: no link is lost silently.

The newest link whose agent is there wins; the others are in the history. Done in a session with no more
rights than the registry's owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from letta_ops.registry.errors import RegistryUnavailable
from letta_ops.registry.links import Link
from letta_ops.registry.postgres import NAME_SERVER, SCHEMA, TABLES, make

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

LINKS, HISTORY, _ = TABLES
COLUMNS = {
    LINKS: (
        "app, app_agent_id, folded, letta_agent_id, server, linked_at, linked_by, reason, template,"
        " lease, leased_at"
    ),
    HISTORY: "id, at, who, app, app_agent_id, what, letta_agent_id, before, reason",
}
SAME = "n.app = o.app AND n.app_agent_id = o.app_agent_id"
# Nobody makes an agent in a database that was just made.
NO_LEASES = f"""
DELETE FROM {SCHEMA}.{LINKS} WHERE letta_agent_id IS NULL;
UPDATE {SCHEMA}.{LINKS} SET lease = NULL, leased_at = NULL WHERE lease IS NOT NULL
"""
# What was unlinked here after it had been linked there stays so.
DROP_UNLINKED = f"""
UPDATE carried_links SET lease = NULL, leased_at = NULL;
CREATE TEMP TABLE carried_losers ON COMMIT DROP AS TABLE carried_links WITH NO DATA;
DELETE FROM carried_links o WHERE o.letta_agent_id IS NULL OR EXISTS (
    SELECT FROM {SCHEMA}.{HISTORY} h WHERE h.app = o.app AND h.app_agent_id = o.app_agent_id
    AND h.what = 'unlinked' AND h.at > o.linked_at)
"""
# What another link here says of the same id, or of the same agent, and is newer, or has its agent.
DROP_OLDER = f"""
WITH gone AS (DELETE FROM carried_links o USING {SCHEMA}.{LINKS} n
WHERE ({SAME} OR n.letta_agent_id = o.letta_agent_id)
AND (NOT %(resolve)s OR n.letta_agent_id = o.letta_agent_id AND {SAME}
    OR n.linked_at >= o.linked_at AND ({{there_n}} OR NOT {{there_o}})
    OR {{there_n}} AND NOT {{there_o}})
RETURNING o.*) INSERT INTO carried_losers SELECT DISTINCT ON (app, app_agent_id) * FROM gone
"""
TELL = f"""
INSERT INTO {SCHEMA}.{HISTORY} SELECT gen_random_uuid(), clock_timestamp(), current_user, n.app,
    n.app_agent_id, 'moved', o.letta_agent_id, n.letta_agent_id, 'a newer link than that of the backup'
FROM carried_links o JOIN {SCHEMA}.{LINKS} n ON {SAME}
"""
GIVE_WAY = f"""
WITH gone AS (DELETE FROM {SCHEMA}.{LINKS} n USING carried_links o
WHERE {SAME} OR n.letta_agent_id = o.letta_agent_id RETURNING n.*)
INSERT INTO carried_losers ({COLUMNS[LINKS]}) SELECT {COLUMNS[LINKS]} FROM gone
"""
# What gave way to a link that gave way itself has its place again.
LOSERS = f"""
INSERT INTO {SCHEMA}.{LINKS} ({COLUMNS[LINKS]}) SELECT {COLUMNS[LINKS]} FROM carried_losers
ORDER BY linked_at DESC ON CONFLICT DO NOTHING;
DROP TABLE carried_losers
"""
MOST = 1000  # links that a plan names
SINCE = f"""
SELECT app, app_agent_id, letta_agent_id, server, linked_at, linked_by, reason
FROM {SCHEMA}.{LINKS} WHERE letta_agent_id IS NOT NULL AND linked_at > %s ORDER BY 1, 2 LIMIT {MOST}
"""


def carry(
    old: psycopg.Connection[Any] | None,
    new: psycopg.Connection[Any],
    agents: tuple[str, str],
    server: str,
    *,
    schema: str = SCHEMA,
    resolve: bool = True,
    fresh: bool = False,
) -> None:
    """Bring the registry in `schema` of `old` into that of `new`, whose table of agents is `agents`
    (schema and name), and which belongs to `server`.

    Without `resolve`, no link that `new` has gives way; `fresh`: nobody works in `new` yet. Raises
    psycopg.Error.
    """
    from psycopg import sql

    has_old = old is not None and has_registry(old, schema)
    if not has_old and not has_registry(new):
        return
    make(new, "in Postgres")
    with new.transaction():
        if fresh:
            new.execute(NO_LEASES)
        if old is not None and has_old:
            for table in (LINKS, HISTORY):
                _copy(old, schema, new, table)
            new.execute(DROP_UNLINKED)
            there = {f"there_{side}": _there(agents, side) for side in "no"}
            new.execute(sql.SQL(DROP_OLDER).format(**there), {"resolve": resolve})
            new.execute(TELL)
            new.execute(GIVE_WAY)
            for table in (LINKS, HISTORY):
                new.execute(
                    f"INSERT INTO {SCHEMA}.{table} ({COLUMNS[table]}) SELECT {COLUMNS[table]}"
                    f" FROM {_carried(table)} ON CONFLICT DO NOTHING"
                )
                new.execute(f"DROP TABLE {_carried(table)}")
            new.execute(LOSERS)
        new.execute(f"UPDATE {SCHEMA}.{LINKS} SET server = %s WHERE server <> %s", [server, server])
        new.execute(NAME_SERVER, [server, server])


def linked_since(link: psycopg.Connection[Any], moment: Any) -> Iterator[Link]:
    """The links that were made after `moment`, `MOST` at most; nothing where there is no registry."""
    if has_registry(link):
        yield from (Link(*row) for row in link.execute(SINCE, [moment]))


def has_registry(link: psycopg.Connection[Any], schema: str = SCHEMA) -> bool:
    """Whether there are a registry's tables. Raises RegistryUnavailable where we may not read them."""
    query = """
        SELECT count(*), count(*) FILTER (WHERE has_schema_privilege(n.oid, 'USAGE')
          AND has_table_privilege(c.oid, 'SELECT'))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind = 'r'
    """
    there, readable = link.execute(query, [schema, [LINKS, HISTORY]]).fetchone() or (0, 0)
    if there == len((LINKS, HISTORY)) != readable:
        raise RegistryUnavailable(
            f"there is a registry in the schema {schema}, and {link.info.user} may not read it",
            "give its tables to the role that owns Letta's (ALTER TABLE ... OWNER TO ...)",
        )
    return bool(there == len((LINKS, HISTORY)))


def _carried(table: str) -> str:
    return "carried_" + table.removeprefix("registry_")


def _copy(
    old: psycopg.Connection[Any], schema: str, new: psycopg.Connection[Any], table: str
) -> None:
    """Into a temporary table of the other one, as a stream."""
    from psycopg import sql

    names, source = sql.SQL(COLUMNS[table]), sql.Identifier(schema, table)
    new.execute(
        f"CREATE TEMP TABLE {_carried(table)} ON COMMIT DROP AS SELECT {COLUMNS[table]}"
        f" FROM {SCHEMA}.{table} WITH NO DATA"
    )
    if old is new:
        query = sql.SQL("INSERT INTO {} SELECT {} FROM ONLY {}")
        new.execute(query.format(sql.Identifier(_carried(table)), names, source))
        return
    out = sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT").format(names, source)
    into = f"COPY {_carried(table)} ({COLUMNS[table]}) FROM STDIN"
    with (
        old.cursor() as reader,
        new.cursor() as writer,
        reader.copy(out) as rows,
        writer.copy(into) as copy,
    ):
        for chunk in rows:
            copy.write(chunk)


def _there(agents: tuple[str, str], side: str) -> sql.Composed:
    from psycopg import sql

    return sql.SQL("EXISTS (SELECT FROM {} a WHERE a.id = {}.letta_agent_id)").format(
        sql.Identifier(*agents), sql.Identifier(side)
    )
