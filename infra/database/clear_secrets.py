"""Secrets that older releases kept in the clear, encrypted where today's server looks for them.

Letta's migrations do that for every table but one: the environment variables of agents. A server of 0.16
reads `<encrypted>` in their place, and hands that to tools.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.sensitive import Sensitive
from infra.stack.ciphertext import encrypted

WORKERS = 4  # a derivation of 40 ms a value lets other threads go on
CLEAR = "SELECT DISTINCT {plain} FROM {table} WHERE {plain} <> '' AND {sealed} IS NULL"
ENCRYPT = "UPDATE {table} SET {sealed} = %s WHERE {plain} = %s AND {sealed} IS NULL"
PAIRS = """
SELECT e.table_name, p.column_name FROM information_schema.columns e
JOIN information_schema.columns p ON p.table_schema = e.table_schema AND p.table_name = e.table_name
  AND p.column_name || '_enc' = e.column_name AND p.data_type IN ('text', 'character varying')
JOIN information_schema.tables t ON t.table_schema = e.table_schema AND t.table_name = e.table_name
WHERE e.table_schema = %s AND t.table_type = 'BASE TABLE' ORDER BY 1, 2
"""


def encrypt_clear(link: Any, schema: str, key: Sensitive) -> int:
    """Encrypt with `key` what stands only in the clear; return how many values that were. What was in the
    clear stays: an older server reads it. Raises psycopg.Error."""
    from psycopg import sql

    count = 0
    with link.transaction():
        for table, column in link.execute(PAIRS, [schema]).fetchall():
            names = {
                "table": sql.Identifier(schema, table),
                "plain": sql.Identifier(column),
                "sealed": sql.Identifier(f"{column}_enc"),
            }
            values = [row[0] for row in link.execute(sql.SQL(CLEAR).format(**names))]
            with ThreadPoolExecutor(WORKERS) as pool:
                sealed = list(pool.map(lambda value: encrypted(key, Sensitive(value)), values))
            update = sql.SQL(ENCRYPT).format(**names)
            for pair in zip(sealed, values, strict=True):
                count += link.execute(update, pair).rowcount
    return count
