"""Options of columns in a dump's definitions that the server which restores does not know.

A release may write options into every table that no other release can read: `pg_attver`, in November
2026. A pg_dump that is older than the server takes them for the user's own, and dumps them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

NAME = rb'(?:"(?:[^"]|"")*"|[^\s".;()]+)'
# As pg_dump writes them (dumpTableSchema): each on a line of its own, behind the table.
STATEMENT = re.compile(
    rb"^(ALTER (?:FOREIGN )?TABLE ONLY %b\.%b ALTER COLUMN %b SET )\(([^()]*)\);\n"
    % (NAME, NAME, NAME),
    re.MULTILINE,
)


def unknown_options(
    link: psycopg.Connection[Any], script: bytes, schema: str = "pg_temp"
) -> dict[str, int]:
    """Return the options that the server at the other end refuses, and how often each is set.

    `script` is what pg_restore makes of a dump's definitions. A table is made in `schema` to try them,
    and rolled back: not every role may make temporary ones. Raises psycopg.Error.
    """
    counts: dict[str, int] = {}
    examples: dict[str, str] = {}
    for _, options in STATEMENT.findall(script):
        for name, value in _parsed(options):
            counts[name] = counts.get(name, 0) + 1
            examples[name] = value
    return {
        name: counts[name]
        for name, value in examples.items()
        if not _knows(link, schema, name, value)
    }


def without_options(script: bytes, names: Collection[str]) -> bytes:
    """Return `script` without these options of columns."""

    def kept(statement: re.Match[bytes]) -> bytes:
        left = [
            option.strip()
            for option in statement[2].split(b",")
            if option.partition(b"=")[0].strip().decode() not in names
        ]
        return statement[1] + b"(" + b", ".join(left) + b");\n" if left else b""

    return STATEMENT.sub(kept, script)


def _parsed(options: bytes) -> list[tuple[str, str]]:
    pairs = (option.partition(b"=") for option in options.split(b","))
    return [(name.decode().strip(), value.decode().strip()) for name, _, value in pairs]


def _knows(link: psycopg.Connection[Any], schema: str, name: str, value: str) -> bool:
    from psycopg import errors, sql

    table = sql.Identifier(schema, "letta_ops_probe")
    query = sql.SQL("ALTER TABLE {} ALTER COLUMN tried SET ({} = {})")
    try:
        with link.transaction(force_rollback=True):
            link.execute(sql.SQL("CREATE TABLE {} (tried integer)").format(table))
            link.execute(query.format(table, sql.Identifier(name), sql.Literal(value)))
    except errors.InvalidParameterValue:
        return False
    return True
