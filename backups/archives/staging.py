"""An archive's rows in temporary tables beside the live ones, where queries make them fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backups.archives.closure import ROOT, Closure, Link, Model
from backups.archives.file import OpenArchive
from backups.archives.memory import Memories
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

IDS = "letta_ops_ids"
# Of a staged row: it is made; it is there, and what is missing of its content is made; it is there, and
# is left alone with all its content.
FATE = "letta_ops_fate"
MADE, THERE, LEFT_ALONE = 0, 1, 2
# An id as Letta makes them, alone in a JSON text: not in a text that was encoded into one.
ID_IN_JSON = r'(?<!\\)"([a-z_]+-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"'
ID_IN_POSTGRES = r'"[a-z_]+-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"'
UUID_AT_THE_END = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
JSON_TYPES = ("json", "jsonb")
TEXT_TYPES = ("text", "varchar")
ROWS_AT_ONCE = 500


@dataclass
class Staging:
    """The temporary tables of one archive, and what was said of its rows so far."""

    link: psycopg.Connection[Any]
    model: Model
    tables: tuple[str, ...]  # each after those that it points at
    memories: Memories = field(default_factory=Memories)
    notes: list[str] = field(default_factory=list)
    migrated: bool = False  # by the release's migrations, from an older one

    def count(self, table: str) -> int:
        return int(self.value("SELECT count(*) FROM {}", self.staged(table)))

    def staged(self, table: str) -> sql.Identifier:
        from psycopg import sql

        return sql.Identifier("pg_temp", table)

    def run(self, query: str, *parts: Any, values: Any = None) -> psycopg.Cursor[Any]:
        from psycopg import sql

        return self.link.execute(sql.SQL(query).format(*parts), values)

    def load(self, table: str, columns: Sequence[str], form: str, pieces: Iterable[bytes]) -> int:
        """Put rows in, in one of COPY's forms, and return how many there were."""
        from psycopg import sql

        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
            self.staged(table),
            names_of(columns),
            sql.SQL(form),
        )
        with self.link.cursor() as cursor:
            with cursor.copy(query) as rows:
                for piece in pieces:
                    rows.write(piece)
            count = cursor.rowcount
        self.run("ANALYZE {}", self.staged(table))
        return count

    def value(self, query: str, *parts: Any, values: Any = None) -> Any:
        row = self.run(query, *parts, values=values).fetchone()
        return None if row is None else row[0]

    # Ids

    def map_ids(self, query: str, *parts: Any, values: Any = None) -> int:
        """Say of old ids which they become: what a query gives as `old` and `new`."""
        done = self.run(
            f"INSERT INTO pg_temp.{IDS} {query} ON CONFLICT DO NOTHING",
            *parts,
            values=values,
        )
        return done.rowcount

    def give_new_ids(self, table: str, condition: str = "true", *parts: Any) -> int:
        """New ids for those of the staged rows `s` that meet the condition; parts are for its {2} on."""
        return self.map_ids(
            "SELECT s.id, regexp_replace(s.id, {1}, '') || gen_random_uuid() FROM {0} s"
            f" WHERE s.id ~ {{1}} AND {condition}",
            self.staged(table),
            literal(UUID_AT_THE_END),
            *parts,
        )

    def apply_ids(self) -> None:
        """Put the new ids where the old ones stand: in columns of ids, and in JSON."""
        if not self.value(f"SELECT count(*) FROM pg_temp.{IDS}"):
            return
        self.run(f"ANALYZE pg_temp.{IDS}")
        for table in self.tables:
            for column in self.model.columns[table]:
                if column.type in TEXT_TYPES and self._holds_ids(table, column.name):
                    self.run(
                        f"UPDATE {{0}} s SET {{1}} = m.new FROM pg_temp.{IDS} m WHERE s.{{1}} = m.old",
                        self.staged(table),
                        quoted(column.name),
                    )
                elif column.type in JSON_TYPES:
                    self._map_json(table, column.name, column.type)

    def _holds_ids(self, table: str, column: str) -> bool:
        linked = {
            name.strip('"')
            for link in self.model.of_child(table)
            for name in link.columns
            if not link.columns[0].startswith("metadata_")
        }
        return column in linked or column == "id" or column.endswith("_id")

    def _map_json(self, table: str, column: str, kind: str) -> None:
        with self.link.cursor() as cursor:
            found = self.run(
                "SELECT ctid::text, {0}::text FROM {1} WHERE {0}::text ~ {2}",
                quoted(column), self.staged(table), literal(ID_IN_POSTGRES),
            )  # fmt: skip
            while rows := found.fetchmany(ROWS_AT_ONCE):
                new = self._new_of(
                    {old for _, text in rows for old in re.findall(ID_IN_JSON, text)}
                )
                changed = [
                    (text, place)
                    for place, before in rows
                    if (text := _with_ids(before, new)) != before
                ]
                query = "UPDATE {} SET {} = %s::" + kind + " WHERE ctid = %s::tid"
                if changed:
                    cursor.executemany(self._composed(query, table, column), changed)

    def _composed(self, query: str, table: str, column: str) -> sql.Composed:
        from psycopg import sql

        return sql.SQL(query).format(self.staged(table), quoted(column))

    def _new_of(self, old: set[str]) -> Mapping[str, str]:
        query = f"SELECT old, new FROM pg_temp.{IDS} WHERE old = ANY(%s)"
        return dict(self.run(query, values=[list(old)]).fetchall())

    # References

    def nowhere(self, link: Link) -> sql.Composed:
        """Of staged rows `s`: that they point at something that is neither here nor staged."""
        from psycopg import sql

        columns = [sql.SQL("s." + column) for column in link.columns]
        pairs = sql.SQL(" AND ").join(
            sql.SQL("p.{} = {}").format(quoted(key), column)
            for key, column in zip(link.keys, columns, strict=True)
        )
        parents = [self.model.table(link.parent)]
        if link.parent in self.tables:
            parents.append(self.staged(link.parent))
        absent = sql.SQL(" AND ").join(
            sql.SQL("NOT EXISTS (SELECT FROM {} p WHERE {})").format(parent, pairs)
            for parent in parents
        )
        present = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(each) for each in columns)
        return sql.SQL("{} AND {}").format(present, absent)


def empty(
    link: psycopg.Connection[Any], model: Model, tables: Mapping[str, Sequence[str]]
) -> Staging:
    """Make the temporary tables of this transaction, each with its columns. Raises psycopg.Error."""
    staging = Staging(link, model, tuple(each for each in model.in_order() if each in tables))
    link.execute(
        f"CREATE TEMP TABLE {IDS} (old text PRIMARY KEY, new text NOT NULL) ON COMMIT DROP"
    )
    for table in staging.tables:
        staging.run(
            "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
            quoted(table), names_of(tables[table]), model.table(table),
        )  # fmt: skip
        staging.run(
            "ALTER TABLE {} ADD COLUMN {} smallint NOT NULL DEFAULT 0",
            staging.staged(table), quoted(FATE),
        )  # fmt: skip
    return staging


def stage(link: psycopg.Connection[Any], model: Model, archive: OpenArchive) -> Staging:
    """Load all of `archive` into temporary tables of this transaction, compared with its manifest.

    Raises LettaOpsError (`archive-damaged`, `archive-other-revision`), and psycopg.Error.
    """
    _ensure_fit(model, archive)
    given = archive.header.tables
    staging = empty(link, model, {table: of.columns for table, of in given.items()})
    loaded = {
        table: staging.load(table, given[table].columns, given[table].format, pieces)
        for table, pieces in archive.tables()
    }
    for table, counted in archive.counted.items():
        if loaded.get(table, 0) != counted.rows:
            raise archive.damaged(f"{table} has {loaded.get(table, 0)} rows of {counted.rows}")
    staging.memories = archive.memories
    return staging


def _ensure_fit(model: Model, archive: OpenArchive) -> None:
    for table, of in archive.header.tables.items():
        here = set(model.names(table)) if table in model.columns else set()
        lacking = sorted(set(of.columns) - here)
        if lacking:
            raise LettaOpsError(
                "archive-other-revision",
                f"this database has no {table}.{lacking[0]}, which the archive has rows for",
                "restore it into a server of the release that it was made of",
            )


def equal(columns: tuple[str, ...], left: str, right: str, *, nulls: bool = False) -> sql.Composed:
    from psycopg import sql

    how = " IS NOT DISTINCT FROM " if nulls else " = "
    return sql.SQL(" AND ").join(
        sql.SQL(f"{left}.{{0}}{how}{right}.{{0}}").format(quoted(column)) for column in columns
    )


def roots(staging: Staging) -> list[tuple[str, str]]:
    """The agents of the archive: ids and names."""
    rows = staging.run("SELECT id, coalesce(name, '') FROM {} ORDER BY id", staging.staged(ROOT))
    return [(str(identifier), str(name)) for identifier, name in rows]


def keep_only(staging: Staging, agents: list[str]) -> None:
    """Leave of what was staged only these agents and what is theirs."""
    from psycopg import sql

    closure = Closure(staging.link, replace(staging.model, schema="pg_temp"), agents)
    staging.memories.keep(agents)
    for table in staging.tables:
        staging.run(
            "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT ctid AS place {}",
            quoted(f"stays {table}"),
            closure.rows(table),
        )
    for table in staging.tables:
        stays = sql.Identifier("pg_temp", f"stays {table}")
        staging.run(
            "DELETE FROM {} WHERE ctid NOT IN (SELECT place FROM {})", staging.staged(table), stays
        )


def _with_ids(text: str, new: Mapping[str, str]) -> str:
    return re.sub(ID_IN_JSON, lambda match: f'"{new.get(match[1], match[1])}"', text)


def quoted(name: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier(name)


def names_of(names: Iterable[str]) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Identifier, names))


def literal(value: Any) -> sql.Literal:
    from psycopg import sql

    return sql.Literal(value)
