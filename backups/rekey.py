"""Encrypting anew what Letta keeps encrypted: every value of every `*_enc` column, in one transaction.

Each value has a salt of its own, and so costs two derivations of 40 ms: what can be encrypted before
the server stops is. Which of two keys is in force, the values themselves say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.ciphertext import decrypted, encrypted, looks_encrypted

if TYPE_CHECKING:
    import psycopg

WORKERS = 4  # a derivation lets other threads go on
TRIED = 12  # of each key, to see which is in force
PLACES = """
SELECT c.table_schema, c.table_name, c.column_name FROM information_schema.columns c
JOIN information_schema.tables t USING (table_schema, table_name)
WHERE t.table_type = 'BASE TABLE' AND c.table_schema = %s AND c.column_name LIKE '%%\\_enc'
ORDER BY 1, 2, 3
"""
Place = tuple[str, str, str]  # schema, table, column


@dataclass
class Rekeying:
    """From `old` to `new`: `known` has the new ciphertext of each old one.

    `closed`: values that the old key doesn't open; they stay as they are, since nobody can.
    """

    old: Sensitive
    new: Sensitive
    known: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def prepare(self, values: Iterable[str]) -> None:
        """Encrypt anew what isn't known yet, and see that the new key opens it."""
        wanted = [each for each in dict.fromkeys(values) if each not in self.known]
        wanted = [each for each in wanted if each not in self.closed and looks_encrypted(each)]
        with ThreadPoolExecutor(WORKERS) as pool:
            for value, found in zip(wanted, pool.map(self._anew, wanted), strict=True):
                if found is None:
                    self.closed.add(value)
                else:
                    self.known[value] = found

    def _anew(self, value: str) -> str | None:
        plain = decrypted(self.old, value)
        if plain is None:
            return None
        sealed = encrypted(self.new, plain)
        again = decrypted(self.new, sealed)
        assert again is not None  # noqa: S101  # it was encrypted with this one
        assert again.reveal() == plain.reveal()  # noqa: S101
        return sealed

    def back(self) -> Rekeying:
        """The other way round."""
        known = {new: old for old, new in self.known.items()}
        return Rekeying(self.new, self.old, known, set(self.closed))


def values_in(link: psycopg.Connection[Any], schema: str) -> dict[Place, list[str]]:
    """Every value of every encrypted column of Letta's tables."""
    from psycopg import sql

    found: dict[Place, list[str]] = {}
    for place in _places(link, schema):
        query = sql.SQL("SELECT DISTINCT {0} FROM {1} WHERE {0} <> ''").format(
            sql.Identifier(place[2]), sql.Identifier(*place[:2])
        )
        found[place] = [row[0] for row in link.execute(query)]
    return found


def rekey(link: psycopg.Connection[Any], schema: str, keys: Rekeying) -> int:
    """Change every value, all or none; return how many. Raises LettaOpsError (`rekey-failed`).

    Nobody else writes to these tables meanwhile.
    """
    from psycopg import sql

    with link.transaction():
        for table in dict.fromkeys(table for _, table, _ in _places(link, schema)):
            name = sql.Identifier(schema, table)
            link.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(name))
        before = values_in(link, schema)
        keys.prepare(value for values in before.values() for value in values)
        for place, values in before.items():
            _change(
                link, place, [(value, keys.known[value]) for value in values if value in keys.known]
            )
        after = values_in(link, schema)
        for place, values in before.items():
            wanted = {keys.known.get(value, value) for value in values}
            if wanted != set(after[place]):
                raise LettaOpsError(
                    "rekey-failed",
                    f"{place[1]}.{place[2]} does not hold what was written: nothing was changed",
                    "see whether a trigger of somebody else changes that table",
                )
    return sum(value in keys.known for values in before.values() for value in values)


def _places(link: psycopg.Connection[Any], schema: str) -> list[Place]:
    return [(home, table, column) for home, table, column in link.execute(PLACES, [schema])]


def _change(link: psycopg.Connection[Any], place: Place, pairs: list[tuple[str, str]]) -> None:
    from psycopg import sql

    schema, table, column = place
    query = sql.SQL("UPDATE {0} SET {1} = %s WHERE {1} = %s").format(
        sql.Identifier(schema, table), sql.Identifier(column)
    )
    with link.cursor() as cursor:
        cursor.executemany(query, [(new, old) for old, new in pairs])


def forget_unopened(link: psycopg.Connection[Any], schema: str, key: Sensitive | None) -> list[str]:
    """Take out the values that `key` does not open, all or none; return how many of which column.

    A server that finds one refuses every message of its agent. None opens nothing.
    """
    from psycopg import sql

    cleared = []
    with link.transaction():
        for (home, table, column), values in values_in(link, schema).items():
            closed = list(_closed(values, key))
            query = sql.SQL("UPDATE {0} SET {1} = NULL WHERE {1} = ANY(%s)").format(
                sql.Identifier(home, table), sql.Identifier(column)
            )
            if closed:
                cleared.append(f"{table}.{column} ({link.execute(query, [closed]).rowcount})")
    return cleared


def opens(values: Mapping[Place, list[str]], key: Sensitive) -> bool | None:
    """Whether `key` opens any of these; None where there are none to try."""
    sealed = [each for column in values.values() for each in column if looks_encrypted(each)]
    if not sealed:
        return None
    return any(decrypted(key, each) is not None for each in sealed[:TRIED])


def unopened(values: Mapping[Place, list[str]], key: Sensitive) -> Iterator[str]:
    """`table.column` of each value that looks encrypted and that `key` doesn't open; all are tried."""
    for (_, table, column), sealed in values.items():
        yield from (f"{table}.{column}" for _ in _closed(sealed, key))


def _closed(values: Iterable[str], key: Sensitive | None) -> Iterator[str]:
    wanted = [each for each in values if looks_encrypted(each)]
    with ThreadPoolExecutor(WORKERS) as pool:
        # What is encrypted may be an empty text.
        opened = pool.map(
            lambda value: key is not None and decrypted(key, value) is not None, wanted
        )
        yield from (value for value, found in zip(wanted, opened, strict=True) if not found)
