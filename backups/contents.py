"""What a database contains, by content: row counts and digests of every table, and the sequences.

The digest of a table is the sum, over its rows, of the two halves of MD5(row): it doesn't depend on
the order of rows and columns, on physical layout, or on the major version. Most values go in by the
binary form of the wire protocol, which needs half the time of text. It proves that what came back
is what was there; that nobody altered the stored parts is what their SHA-256 is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backups.manifest import DatabaseRecord, Table

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# The form of a value must not depend on who asks.
SESSION = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",  # how a regclass is written
    "jit": "off",  # it takes longer to compile these queries than to run them
    "row_security": "off",  # all rows, or an error
}
# A role's own limits are not made for this. Not every version knows all of them.
TIMEOUTS = """
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN (
  'statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
  'transaction_timeout')
"""
# Of `c` in schema `n`: whether it is a table of the database's own, not Postgres' nor an extension's.
OWN = """
(c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
  AND d.objid = c.oid AND d.deptype = 'e'))
"""
OWN_TABLES = f"""
SELECT n.nspname, c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {OWN} AND (%(only)s::oid[] IS NULL OR c.oid = ANY(%(only)s::oid[]))
ORDER BY pg_table_size(c.oid) DESC, 1, 2
"""  # noqa: S608  # a constant
# The view leaves out those that we may not read.
SEQUENCES = """
SELECT n.nspname || '.' || c.relname, coalesce(s.last_value, 0) FROM pg_sequences s
JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
WHERE %(only)s::oid[] IS NULL OR c.oid = ANY(%(only)s::oid[])
"""
HALF = 16  # hex digits of MD5 that make a bigint
# Of MD5s `h`, whatever their order.
DIGEST = f"""
sum(('x' || left(h, {HALF}))::bit(64)::bigint), sum(('x' || right(h, {HALF}))::bit(64)::bigint)
"""
# As many bytes of each at a time. Where nothing was written, there are zeros, however they are stored.
LARGE_OBJECTS = f"""
WITH RECURSIVE piece AS (
  SELECT oid, 0::bigint AS start, lo_get(oid, 0, %(size)s) AS data FROM pg_largeobject_metadata
  UNION ALL
  SELECT oid, start + %(size)s, lo_get(oid, start + %(size)s, %(size)s) FROM piece
  WHERE length(data) = %(size)s)
SELECT count(*) FILTER (WHERE start = 0), {DIGEST}
FROM (SELECT start, md5(record_send(ROW(oid::bigint, start, data))) AS h FROM piece) AS hashed
"""  # noqa: S608  # of constants
PIECE = 1024 * 1024
VIEWS = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated
AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
"""
FILLING = "SET LOCAL lock_timeout = '1s'"  # nobody else may read a view that is just filled
# Types whose binary form is the same for every value that is written alike. Not so arrays (one that
# had a NULL is another one), floating-point numbers (there are many NaNs), and what has numbers of
# other things in it: those go in as text.
BINARY = (
    "text", "varchar", "bpchar", "json", "jsonb", "bool", "int2", "int4", "int8", "uuid", "bytea",
    "timestamp", "timestamptz", "date",
)  # fmt: skip
# Of type `t`: whether it is one of pgvector's, and not somebody's own of that name.
OF_PGVECTOR = """
(t.typname IN ('vector', 'halfvec', 'sparsevec') AND EXISTS (SELECT FROM pg_depend e
  JOIN pg_extension x ON x.oid = e.refobjid AND e.refclassid = 'pg_extension'::regclass
  WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND x.extname = 'vector'))
"""
# By name: a column's place depends on how its table came to be.
COLUMNS = f"""
SELECT a.attname, t.typname, tn.nspname, {OF_PGVECTOR},
  (WITH RECURSIVE base AS (
    SELECT t.oid, t.typtype, t.typbasetype
    UNION ALL SELECT b.oid, b.typtype, b.typbasetype FROM base JOIN pg_type b ON b.oid = base.typbasetype
  ) SELECT oid < 16384 FROM base WHERE typtype <> 'd')
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attname
"""  # noqa: S608  # a constant


def read_tables(
    link: psycopg.Connection[Any],
    more_links: Sequence[psycopg.Connection[Any]] = (),
    only: list[int] | None = None,
) -> dict[str, Table]:
    """Return rows and digest of every table, by `schema.name`. Raises psycopg.Error.

    `more_links` are connections to the same database, which nobody changes now: they take their
    share of the tables. `only`: those with these numbers.
    """
    tables = deque(link.execute(OWN_TABLES, {"only": only}).fetchall())
    if not more_links:
        return _read(link, tables)
    links = (link, *more_links)
    with ThreadPoolExecutor(len(links)) as pool:
        shares = list(pool.map(lambda each: _read(each, tables), links))
    return {name: table for share in shares for name, table in share.items()}


def read_sequences(link: psycopg.Connection[Any], only: list[int] | None = None) -> dict[str, int]:
    """Return the last value of every sequence, by `schema.name`; 0 for one that was never used."""
    rows = link.execute(SEQUENCES, {"only": only})
    return {str(name): int(value) for name, value in rows}


def read_large_objects(link: psycopg.Connection[Any]) -> Table:
    """How many there are, and a digest of what is in them. Raises psycopg.Error."""
    return _table(link.execute(LARGE_OBJECTS, {"size": PIECE}).fetchone())


def read_views(link: psycopg.Connection[Any]) -> dict[str, int]:
    """Return the rows of every materialized view, by `schema.name`, but for those that are not filled,
    or just being filled, or that we may not read."""
    import psycopg
    from psycopg import sql

    found = {}
    for schema, name in link.execute(VIEWS).fetchall():
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
        with suppress(psycopg.errors.LockNotAvailable), link.transaction(force_rollback=True):
            link.execute(FILLING)
            row = link.execute(query).fetchone()
            found[f"{schema}.{name}"] = int(row[0]) if row else 0
    return found


def compare_views(
    link: psycopg.Connection[Any],
    expected: DatabaseRecord,
    renamed: Mapping[str, str] | None = None,
) -> list[str]:
    """Return in words which materialized views differ from `expected`: a restore fills them anew."""
    if expected.views is None:
        return []
    there = read_views(link)
    wanted = {_here(name, renamed): rows for name, rows in expected.views.items()}
    return [
        f"materialized view {name} has {there.get(name, 'no')} rows, in the backup"
        f" {wanted.get(name, 'none')}"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]


def compare(
    link: psycopg.Connection[Any],
    expected: DatabaseRecord,
    renamed: Mapping[str, str] | None = None,
    more_links: Sequence[psycopg.Connection[Any]] = (),
    only: list[int] | None = None,
) -> list[str]:
    """Return in words how the database at `link` differs from `expected`; [] when it is equal.

    `renamed` maps schemas of `expected` to what they are called here. Sequences may have gone on.
    `more_links` and `only`: see `read_tables`.
    """
    found, sequences = read_tables(link, more_links, only), read_sequences(link, only)
    tables = {_here(name, renamed): table for name, table in expected.tables.items()}
    wanted = {_here(name, renamed): value for name, value in expected.sequences.items()}
    return [
        *_tables_differ(tables, found),
        *_sequences_differ(wanted, sequences),
        *_large_objects_differ(link, expected),
    ]


def _here(name: str, renamed: Mapping[str, str] | None) -> str:
    schema, _, rest = name.partition(".")
    return f"{(renamed or {}).get(schema, schema)}.{rest}"


def _read(link: psycopg.Connection[Any], tables: deque[Any]) -> dict[str, Table]:
    """Take tables until there are no more: others may take some, too."""
    settle(link)
    found: dict[str, Table] = {}
    while True:
        try:
            schema, name, oid = tables.popleft()
        except IndexError:
            return found
        row = link.execute(_digest_query(link, schema, name, oid)).fetchone()
        found[f"{schema}.{name}"] = _table(row)


def _table(row: tuple[Any, ...] | None) -> Table:
    rows, first, second = row or (0, 0, 0)
    return Table(
        int(rows), "".join(f"{int(half or 0) % (1 << 64):016x}" for half in (first, second))
    )


def _large_objects_differ(link: psycopg.Connection[Any], expected: DatabaseRecord) -> Iterator[str]:
    wanted = expected.large_objects
    if wanted is None:
        return
    there = read_large_objects(link)
    if there.rows != wanted.rows:
        yield f"there are {there.rows} large objects, in the backup {wanted.rows}"
    elif there != wanted:
        yield "the content of large objects differs"


def _tables_differ(expected: Mapping[str, Table], found: Mapping[str, Table]) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        there, wanted = found.get(name), expected.get(name)
        if there is None:
            yield f"table {name} is missing"
        elif wanted is None:
            yield f"table {name} is not in the backup"
        elif there.rows != wanted.rows:
            yield f"table {name} has {there.rows} rows, the backup {wanted.rows}"
        elif there.digest != wanted.digest:
            yield f"the content of table {name} differs"


def _sequences_differ(expected: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    for name, value in sorted(expected.items()):
        if name not in found:
            yield f"sequence {name} is missing"
        elif found[name] < value:
            yield f"sequence {name} stands at {found[name]}, in the backup at {value}"


def settle(link: psycopg.Connection[Any]) -> None:
    """Make the session one that reads and writes the same values, whatever its role's settings."""
    for name, value in SESSION.items():
        link.execute("SELECT set_config(%s, %s, false)", [name, value])
    link.execute(TIMEOUTS)


def _digest_query(link: psycopg.Connection[Any], schema: str, name: str, oid: int) -> sql.Composed:
    from psycopg import sql

    columns = [column_form(*column) for column in link.execute(COLUMNS, [oid])]
    return sql.SQL(
        f"SELECT count(*), {DIGEST}"  # noqa: S608  # a constant
        # Without OFFSET the planner writes both halves out, and each row is hashed twice.
        " FROM (SELECT md5(record_send(ROW({columns}))) AS h FROM ONLY {table} OFFSET 0) AS hashed"
    ).format(
        columns=sql.SQL(", ").join(columns),
        table=sql.Identifier(schema, name),
    )


def column_form(
    name: str, kind: str, home: str, of_pgvector: bool, of_postgres: bool
) -> sql.Composable:
    """A column (a row of COLUMNS) as it goes into a digest."""
    from psycopg import sql

    column = sql.Identifier(name)
    if of_pgvector:
        return sql.SQL("{}({})").format(sql.Identifier(home, f"{kind}_send"), column)
    if home == "pg_catalog" and kind in BINARY:
        return column
    if of_postgres:
        return sql.SQL("{}::text").format(column)
    # A cast of somebody's own type may be his own code, and it is an administrator who reads here.
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END").format(column)
