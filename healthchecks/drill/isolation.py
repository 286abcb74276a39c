"""Taking out of a restored copy whatever would lead a server out of it, before one is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

# Where Letta keeps addresses and what opens them (its `orm` folder, 0.16.8).
ADDRESSES = (
    ("providers", "base_url"),
    ("mcp_server", "server_url"),
    ("mcp_oauth", "server_url"),
    ("mcp_oauth", "redirect_uri"),
    ("jobs", "callback_url"),
    ("runs", "callback_url"),
)
CREDENTIALS = (
    ("providers", ("api_key", "api_key_enc", "access_key", "access_key_enc")),
    ("mcp_server", ("token", "token_enc", "custom_headers", "custom_headers_enc", "stdio_config")),
    ("mcp_oauth", ("access_token", "access_token_enc", "refresh_token", "refresh_token_enc",
                   "client_secret", "client_secret_enc", "authorization_code",
                   "authorization_code_enc")),
)  # fmt: skip
# Models as agents remember them: the column, and the key inside its JSON that holds the address.
MODELS = (
    ("agents", "llm_config", "model_endpoint"),
    ("agents", "embedding_config", "embedding_endpoint"),
    ("agents", "compaction_settings", "model_endpoint"),
    ("archives", "embedding_config", "embedding_endpoint"),
    ("sources", "embedding_config", "embedding_endpoint"),
)


def cut_off(link: psycopg.Connection[Any], schema: str, nowhere: str) -> None:
    """Point every address to `nowhere`, and take the credentials away. Raises psycopg.Error."""
    with link.transaction():
        there = _columns(link, schema)
        for query, values in _changes(schema, there, nowhere):
            link.execute(query, values)


def _changes(
    schema: str, there: dict[tuple[str, str], bool], nowhere: str
) -> Iterator[tuple[Any, list[str]]]:
    from psycopg import sql

    def named(text: str, table: str, column: str) -> Any:
        return sql.SQL(text).format(
            table=sql.Identifier(schema, table), column=sql.Identifier(column)
        )

    for table, column in ADDRESSES:
        if (table, column) in there:
            text = "UPDATE {table} SET {column} = %s WHERE {column} IS NOT NULL"
            yield named(text, table, column), [nowhere]
    for table, columns in CREDENTIALS:
        for column in columns:
            if there.get((table, column)):
                text = "UPDATE {table} SET {column} = NULL WHERE {column} IS NOT NULL"
                yield named(text, table, column), []
    for table, column, key in MODELS:
        if (table, column) in there:
            text = (
                "UPDATE {table} SET {column} ="
                " jsonb_set({column}::jsonb, ARRAY[%s], to_jsonb(%s::text))::json"
                " WHERE {column}::jsonb ->> %s IS NOT NULL"
            )
            yield named(text, table, column), [key, nowhere, key]


def _columns(link: psycopg.Connection[Any], schema: str) -> dict[tuple[str, str], bool]:
    """Every column by its table's name and its own, and whether it may be empty."""
    rows = link.execute(
        "SELECT table_name, column_name, is_nullable = 'YES' FROM information_schema.columns"
        " WHERE table_schema = %s",
        [schema],
    )
    return {(table, column): nullable for table, column, nullable in rows}
