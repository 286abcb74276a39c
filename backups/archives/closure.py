"""What belongs to an agent, found from the database's own foreign keys.

Starting at `agents`: what points at an agent, or at something of its own, is its own (messages, runs,
links to blocks). What its own points at is attached to it (blocks, archives, files, tools), and comes
with its content (a block's history, an archive's passages), but not with what else uses it. So no
table is known by name beyond what is shared by everybody, what is history, and links without a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

ROOT = "agents"
# Everybody's: rows of it are matched where they are restored, or made; never overwritten.
SHARED = ("organizations", "users")
# Everybody's, and of this server alone: what points at them is matched by name, or left empty.
OF_SERVER = ("providers", "provider_models", "sandbox_configs", "sandbox_environment_variables")
# Traces of what was sent to models, and sessions with other services, which must be begun anew.
LEFT_OUT = ("provider_traces", "provider_trace_metadata", "mcp_oauth", "llm_batch_items")
OUTSIDE = (*SHARED, *OF_SERVER, *LEFT_OUT)
# Attached, and used by many: never overwritten, whoever uses it.
COMMON = ("tools", "mcp_server", "identities")
# A group belongs to the agent that manages it: to be a member is not to own it.
MEMBERSHIP = ("groups_agents", "groups")
HELPERS = ("sleeptime", "voice_sleeptime")  # kinds of groups whose members serve their manager
# Links that Letta keeps without a foreign key: of a table, an expression, and where it points.
KEYLESS = (
    ("steps", "agent_id", "agents", "id"),
    ("mcp_tools", "tool_id", "tools", "id"),
    ("mcp_tools", "mcp_server_id", "mcp_server", "id"),
    ("tools", "metadata_::jsonb -> 'mcp' ->> 'server_id'", "mcp_server", "id"),
)
SETTING = "letta_ops.agents"
# Not `= ANY`: that compares each row with each of a thousand.
AGENTS = f"(SELECT unnest(current_setting('{SETTING}')::text[]))"
KEYS = """
SELECT c.relname, p.relname,
  (SELECT array_agg(a.attname ORDER BY k.place) FROM unnest(x.conkey) WITH ORDINALITY k(number, place)
    JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = k.number),
  (SELECT array_agg(a.attname ORDER BY k.place) FROM unnest(x.confkey) WITH ORDINALITY k(number, place)
    JOIN pg_attribute a ON a.attrelid = x.confrelid AND a.attnum = k.number),
  (SELECT bool_and(NOT a.attnotnull) FROM pg_attribute a
    WHERE a.attrelid = x.conrelid AND a.attnum = ANY(x.conkey))
FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid JOIN pg_class p ON p.oid = x.confrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE x.contype = 'f' AND n.nspname = %s AND p.relnamespace = n.oid
ORDER BY 1, 2, 3
"""
COLUMNS = """
SELECT c.relname, a.attname, t.typname, pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = %s AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
AND a.attgenerated = ''
ORDER BY c.relname, a.attname
"""
UNIQUE = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum), i.indisprimary, i.indnullsnotdistinct
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
WHERE n.nspname = %s AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, c.relname, i.indisprimary, i.indnullsnotdistinct ORDER BY 1, 2
"""


class Role(StrEnum):
    """Why rows of a table come along."""

    OWN = "own"
    ATTACHED = "attached"
    CONTENT = "content"  # of what is attached
    SHARED = "shared"


@dataclass(frozen=True)
class Link:
    """Rows of `child` point with `columns` (SQL expressions) at rows of `parent` with `keys`.

    `nullable`: one that points at nothing is allowed; `keyed`: there is a foreign key.
    """

    child: str
    columns: tuple[str, ...]
    parent: str
    keys: tuple[str, ...]
    nullable: bool
    keyed: bool


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Unique:
    columns: tuple[str, ...]
    primary: bool
    nulls_equal: bool


@dataclass(frozen=True)
class Model:
    """The tables of a Letta schema that an archive knows of, and how they hang together."""

    schema: str
    columns: Mapping[str, tuple[Column, ...]]
    links: tuple[Link, ...]
    unique: Mapping[str, tuple[Unique, ...]]
    roles: Mapping[str, Role] = field(default_factory=dict)

    def table(self, name: str) -> sql.Identifier:
        from psycopg import sql

        return sql.Identifier(self.schema, name)

    def names(self, table: str) -> list[str]:
        return [column.name for column in self.columns[table]]

    def primary(self, table: str) -> tuple[str, ...]:
        """The columns that tell its rows apart: of its primary key, else of another unique index."""
        found = sorted(self.unique.get(table, ()), key=lambda each: not each.primary)
        return found[0].columns if found else tuple(self.names(table))

    def of_child(self, table: str) -> Iterator[Link]:
        return (link for link in self.links if link.child == table)

    def of_parent(self, table: str) -> Iterator[Link]:
        return (link for link in self.links if link.parent == table)

    def in_order(self) -> list[str]:
        """The tables of the archive, each after those that it points at, as far as that can be."""
        left, done = list(self.roles), list[str]()
        while left:
            ready = [
                table
                for table in left
                if all(
                    link.parent in done or link.parent == table or link.parent not in self.roles
                    for link in self.of_child(table)
                    if link.keyed and not (link.nullable and _cyclic(self, link))
                )
            ]
            if not ready:
                raise ValueError(f"foreign keys lead in a circle: {', '.join(left)}")
            done += ready
            left = [table for table in left if table not in ready]
        return done


def _cyclic(model: Model, link: Link) -> bool:
    """Whether the parent points back at the child."""
    return any(back.parent == link.child for back in model.of_child(link.parent) if back.keyed)


def read_model(link: psycopg.Connection[Any], schema: str) -> Model:
    """Read the keys of `schema` and sort its tables. Raises psycopg.Error."""
    columns: dict[str, list[Column]] = {}
    for table, name, kind, default in link.execute(COLUMNS, [schema]):
        columns.setdefault(table, []).append(Column(name, kind, default))
    unique: dict[str, list[Unique]] = {}
    for table, names, primary, nulls_equal in link.execute(UNIQUE, [schema]):
        unique.setdefault(table, []).append(Unique(tuple(names), primary, nulls_equal))
    links = [
        Link(child, tuple(map(_quoted, mine)), parent, tuple(theirs), nullable, True)
        for child, parent, mine, theirs, nullable in link.execute(KEYS, [schema])
        if child not in (*LEFT_OUT, *OF_SERVER) and parent not in LEFT_OUT
    ]
    links += [
        Link(child, (expression,), parent, (key,), True, False)
        for child, expression, parent, key in KEYLESS
        if {child, parent} <= columns.keys()
        and expression.split("::")[0] in {column.name for column in columns[child]}
        and not any(
            each.child == child and each.parent == parent and each.columns == (_quoted(expression),)
            for each in links
        )
    ]
    model = Model(
        schema,
        {table: tuple(found) for table, found in columns.items()},
        tuple(links),
        {table: tuple(found) for table, found in unique.items()},
    )
    return Model(model.schema, model.columns, model.links, model.unique, _roles(model))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _roles(model: Model) -> dict[str, Role]:
    found = {ROOT: Role.OWN}
    _spread(found, Role.OWN, (Role.OWN,), model, down=True)
    _spread(found, Role.ATTACHED, (Role.OWN, Role.ATTACHED), model, down=False)
    _spread(found, Role.CONTENT, (Role.ATTACHED, Role.CONTENT), model, down=True)
    shared = [link.parent for link in model.of_child(ROOT) if link.parent in SHARED]
    found.update(dict.fromkeys(shared, Role.SHARED))
    return found


def _spread(
    found: dict[str, Role], role: Role, of: Sequence[Role], model: Model, *, down: bool
) -> None:
    """Give `role` to what points at tables of the roles `of`, or with `down` off, to what they point
    at."""
    while True:
        new = {
            there
            for link in model.links
            for here, there in [(link.parent, link.child) if down else (link.child, link.parent)]
            if found.get(here) in of and there not in found and there not in OUTSIDE
        }
        if not new:
            return
        found.update(dict.fromkeys(new, role))


class Closure:
    """Which rows of each table belong to some agents: as conditions for queries over one connection,
    which is told the agents."""

    def __init__(self, link: psycopg.Connection[Any], model: Model, agents: Sequence[str]) -> None:
        self._model = model
        self._made: dict[str, sql.Composable] = {}
        # A setting, since a thousand ids in each of a hundred conditions are megabytes of query.
        link.execute("SELECT set_config(%s, %s::text[]::text, false)", [SETTING, list(agents)])

    def rows(self, table: str) -> sql.Composed:
        """`FROM table WHERE ...`: those rows."""
        from psycopg import sql

        return sql.SQL("FROM {} WHERE {}").format(self._model.table(table), self.condition(table))

    def condition(self, table: str) -> sql.Composable:
        if table not in self._made:
            self._made[table] = self._condition(table)
        return self._made[table]

    def _condition(self, table: str) -> sql.Composable:
        from psycopg import sql

        if table == ROOT:
            return sql.SQL(f"id IN {AGENTS}")
        content = self._model.roles[table] is Role.CONTENT
        conditions = [
            self._points(link, or_nothing=content and link.nullable)
            if link.child == table
            else self._pointed_at(link)
            for link in self.ways(table)
        ]
        return sql.SQL("({})").format(sql.SQL(" AND " if content else " OR ").join(conditions))

    def ways(self, table: str) -> list[Link]:
        """The links by which rows of `table` are found: its own, and those of others that point at it.

        Each of them is one; but content is only what all of its links lead to.
        """
        roles = self._model.roles
        role, links = roles[table], list(self._model.of_child(table))
        if role is Role.SHARED:
            return [link for link in self._model.of_child(ROOT) if link.parent == table]
        if role is Role.CONTENT:
            return [
                each for each in links if roles.get(each.parent) in (Role.ATTACHED, Role.CONTENT)
            ]
        if role is Role.ATTACHED:
            far = self._distance
            near = self._pointing(table, (Role.OWN, Role.ATTACHED))
            return [
                *(link for link in near if far[link.child] < far[table]),
                *(
                    link
                    for link in links
                    if roles.get(link.parent) is Role.ATTACHED
                    and self._comes_first(link.parent, table)
                ),
            ]
        if table == MEMBERSHIP[0]:
            links = [link for link in links if link.parent == MEMBERSHIP[1]]
        direct = [link for link in links if link.parent == ROOT]
        if not direct:
            return [link for link in links if roles.get(link.parent) is Role.OWN]
        # Not every release fills a column that no key guards.
        keyed = any(link.keyed for link in direct)
        return [*direct, *(() if keyed else self._pointing(table, (Role.OWN,)))]

    def needs(self, table: str) -> set[str]:
        """The table, and all those whose rows are looked at to find its own."""
        found: set[str] = set()
        left = [table]
        while left:
            here = left.pop()
            if here not in found:
                found.add(here)
                left += [
                    link.parent if link.child == here else link.child
                    for link in (self.ways(here) if here != ROOT else ())
                ]
        return found

    def _pointing(self, table: str, roles: Sequence[Role]) -> Iterator[Link]:
        return (
            link
            for link in self._model.links
            if link.parent == table
            and link.child != table
            and self._model.roles.get(link.child) in roles
        )

    def _comes_first(self, parent: str, child: str) -> bool:
        """Whether the parent's rows are found without the child's."""
        far = self._distance
        back = any(link.parent == child for link in self._model.of_child(parent))
        return far[parent] < far[child] or (far[parent] == far[child] and not back)

    @cached_property
    def _distance(self) -> dict[str, int]:
        """How many steps away from what is an agent's own each table is."""
        roles = self._model.roles
        found = {table: 0 for table, role in roles.items() if role is Role.OWN}
        while True:
            new = {
                link.parent: found[link.child] + 1
                for link in self._model.links
                if link.child in found and link.parent in roles and link.parent not in found
            }
            if not new:
                return {table: found.get(table, len(roles)) for table in roles}
            found.update(new)

    def _points(self, link: Link, *, or_nothing: bool = False) -> sql.Composable:
        """A condition of the child: that it points at rows of the closure."""
        from psycopg import sql

        columns = _expressions(link)
        found = sql.SQL("({}) IN (SELECT {} {})").format(
            columns, _names(link.keys), self.rows(link.parent)
        )
        if link.parent == ROOT:
            found = sql.SQL(f"{{}} IN {AGENTS}").format(columns)
        if or_nothing:
            return sql.SQL("({} IS NULL OR {})").format(sql.SQL(link.columns[0]), found)
        return found

    def _pointed_at(self, link: Link) -> sql.Composable:
        """A condition of the parent: that rows of the closure point at it."""
        from psycopg import sql

        return sql.SQL("({}) IN (SELECT {} {})").format(
            _names(link.keys), _expressions(link), self.rows(link.child)
        )


def _expressions(link: Link) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(", ").join(sql.SQL(column) for column in link.columns)


def _names(names: Iterable[str]) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def with_members(
    link: psycopg.Connection[Any], model: Model, agents: Iterable[str], *, helpers: bool = False
) -> tuple[str, ...]:
    """`agents`, and the members of the groups that they manage: Letta's own exports take them, too.

    `helpers`: only those that are nothing without them, as Letta deletes them together.
    """
    from psycopg import sql

    if not set(MEMBERSHIP) <= model.columns.keys():
        return tuple(agents)
    query = sql.SQL(
        "WITH RECURSIVE found(id) AS (SELECT unnest(%s::text[]) UNION"
        " SELECT m.agent_id::text FROM found JOIN {} g ON g.manager_agent_id = found.id"
        " AND (NOT %s OR g.manager_type = ANY(%s))"
        " JOIN {} m ON m.group_id = g.id) SELECT id FROM found"
    ).format(model.table(MEMBERSHIP[1]), model.table(MEMBERSHIP[0]))
    return tuple(row[0] for row in link.execute(query, [list(agents), helpers, list(HELPERS)]))
