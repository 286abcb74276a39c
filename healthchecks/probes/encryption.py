"""Are the secrets in the database encrypted, and does the profile's key open them?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthchecks.facts import reading
from infra.stack.ciphertext import decrypted, looks_encrypted
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement

if TYPE_CHECKING:
    import psycopg

# Each costs a derivation: about 40 ms.
TRIED_PER_COLUMN = 3
TRIED = 12


@dataclass(frozen=True)
class Encryption(Measurement):
    """What the `*_enc` columns hold. Names are `table.column`; no value is ever kept.

    `columns`: how many such columns there are; `plaintext`: values by column that are no
    ciphertext; `encrypted`: how many are; `opened` and `unopened`: of those that were tried.
    """

    columns: int
    plaintext: dict[str, int]
    encrypted: int
    opened: int
    unopened: tuple[str, ...]
    has_key: bool


def look_at_secrets(deployment: Deployment) -> Encryption:
    """Sort the values of every `*_enc` column, and try the profile's key on some of each."""
    key = deployment.server.encryption_key
    plaintext: dict[str, int] = {}
    encrypted = opened = tried = columns = 0
    unopened: list[str] = []
    with reading(deployment) as link:
        for column, values in encrypted_columns(link):
            columns += 1
            sealed = [value for value in values if looks_encrypted(value)]
            encrypted += len(sealed)
            if len(values) > len(sealed):
                plaintext[column] = len(values) - len(sealed)
            for value in sealed[: min(TRIED_PER_COLUMN, TRIED - tried)] if key else ():
                tried += 1
                if key is not None and decrypted(key, value) is not None:
                    opened += 1
                else:
                    unopened.append(column)
    return Encryption(
        columns, plaintext, encrypted, opened, tuple(dict.fromkeys(unopened)), key is not None
    )


def encrypted_columns(link: psycopg.Connection[Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield every `*_enc` column that we may read, with its values, the newest rows' first."""
    from psycopg import sql

    places = link.execute(
        "SELECT c.table_schema, c.table_name, c.column_name,"
        " EXISTS (SELECT FROM information_schema.columns d WHERE d.table_schema = c.table_schema"
        "   AND d.table_name = c.table_name AND d.column_name = 'created_at')"
        " FROM information_schema.columns c JOIN information_schema.tables t"
        " USING (table_schema, table_name)"
        " WHERE t.table_type = 'BASE TABLE' AND c.column_name LIKE '%\\_enc' ORDER BY 1, 2, 3"
    ).fetchall()
    for schema, table, column, dated in places:
        query = sql.SQL("SELECT {0} FROM {1} WHERE {0} <> ''{2}").format(
            sql.Identifier(column),
            sql.Identifier(schema, table),
            sql.SQL(" ORDER BY created_at DESC" if dated else ""),
        )
        yield f"{table}.{column}", [row[0] for row in link.execute(query)]
